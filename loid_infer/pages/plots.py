"""Draws what was measured as inline SVG: differences between models, calibration, groups, and learning curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.clicks.comparison import ClickEvaluation
from loid_infer.evaluation import rows as evaluated
from loid_infer.figures import FAINT, PAGE_COLORS, draw_evaluations, finite, inline_svg, page_axes, running_mean
from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT, STRICT, EvaluateResult, model_and_encoder
from loid_infer.pages.records import History
from loid_infer.rankers.comparison import GroupTable, RankEvaluation

_COLORS = {HEAD: "blue", STRICT: "blue", OWN_TEXT: "gray", BASELINES[1]: "gray"}
_SIDES = ("better", "worse")  # left and right of zero
_HEAD_COLORS = ("blue", "orange", "green", "violet")
_MARKERS = "os^Dvphd"
_MAX_LABEL = 48  # characters
_MAX_POINTS = 300  # of a curve
_ROW_HEIGHT = 30  # pixels of a row of a difference plot and of the table beside it; the style sheet has it as well


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of a model less that of another one."""

    name: str
    value: float  # of the model that the name says
    mean: float
    low: float | None  # 95 % interval; None: there is none
    high: float | None
    splits: tuple[float, ...]  # the difference on each split
    color: str  # gray: not a competitor
    is_reference: bool = False
    may_exceed: bool = False  # does not widen the axis: an arrow where it is beyond

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def differences(evaluation: EvaluateResult, reference: str) -> list[Difference]:
    """Variants of the head against `HEAD`, or all other models against the bias baseline."""
    differences = []
    variants = {entry.system for entry in evaluation.variants}
    for entry in evaluation.against(reference):
        if (entry.system in variants) != (reference == HEAD):
            continue
        model, encoder = model_and_encoder(entry.system)
        name = "head, paper protocol" if model == HEAD and evaluation.protocol == "paper" else model
        difference = Difference(
            name=f"{name} · {encoder}" if len(evaluation.encoders) > 1 and encoder else name,
            value=entry.value,
            mean=entry.difference,
            low=entry.low,
            high=entry.high,
            splits=_by_split(evaluation, entry),
            color=_COLORS.get(model, "violet" if reference == HEAD else "green"),
            is_reference=model == reference,
            may_exceed=model in (OWN_TEXT, BASELINES[0]),
        )
        differences.append(difference)
    return differences


def _by_split(evaluation: EvaluateResult, entry: evaluated.Difference) -> tuple[float, ...]:
    """The differences on each split; none where there is only one."""
    runs = [row for row in evaluation.runs if row.metric == "mse"]
    compared = {row.split: row.value for row in runs if row.system == entry.reference}
    own = [row for row in runs if row.system == entry.system]
    if evaluation.n_seeds < 2 or len({row.split for row in own}) != len(own):
        return ()
    return tuple(row.value - compared[row.split] for row in own if row.split in compared)


def rank_differences(evaluation: RankEvaluation, head: str) -> list[Difference]:
    """NDCG@10 of a ranking head less that of every other system: above zero the head is better."""
    return [
        Difference(
            name=entry.reference,
            value=compared.value,
            mean=entry.difference,
            low=entry.low,
            high=entry.high,
            splits=(),
            color="violet" if entry.reference in evaluation.heads else "green",
        )
        for entry in evaluation.minus(head)
        if (compared := evaluation.overall(entry.reference)) is not None
    ]


def label_differences(evaluation: ClickEvaluation, head: str) -> list[Difference]:
    """The AUC of a head on labeled pairs less that of every other system: above zero the head is better."""
    return [
        Difference(
            name=row.reference,
            value=evaluation.by_system()[row.reference]["auc"].value,
            mean=row.value,
            low=row.low,
            high=row.high,
            splits=(),
            color="violet" if row.reference in evaluation.heads else "green",
        )
        for row in evaluation.minus(head)
    ]


def difference_plot(rows: Sequence[Difference], title: str, name: str, sides: tuple[str, str] = _SIDES) -> str:
    """`rows` around zero, each as high as a row of the table beside it, and the axis below; see `figures.page_axes`."""
    low, high = _difference_limits(rows)
    with page_axes(name, 300, _ROW_HEIGHT * len(rows) + 46, left=20, top=0) as axes:
        axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.5), yticks=[])
        axes.axvline(0.0, color=PAGE_COLORS["faint"])
        axes.set_xlabel(f"← {sides[0]}\N{EM SPACE}\N{EM SPACE}{sides[1]} →")
        for y, row in enumerate(rows):
            color = PAGE_COLORS[row.color]
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=color, linewidth=2.5)
            axes.plot(row.splits, [y] * len(row.splits), "o", color=color, markersize=5, alpha=0.4)
            marker = "<" if row.mean < low else ">" if row.mean > high else "o"
            is_hollow = marker == "o" and not row.is_significant and not row.is_reference
            fill = PAGE_COLORS["card"] if is_hollow else color
            at = np.clip(row.mean, low, high)
            axes.plot(at, y, marker, color=color, markerfacecolor=fill, markersize=10, mew=2, clip_on=False)
        return inline_svg(axes, title)


def _difference_limits(rows: Sequence[Difference]) -> tuple[float, float]:
    """Every mean that may not exceed the axis, and intervals as far as they leave the means distinguishable."""
    kept = [row for row in rows if not row.may_exceed]
    points = [0.0, *(value for row in kept for value in (row.mean, *row.splits))]
    low, high = min(points), max(points)
    room = 6.0 * max(high - low, 1e-4)
    ends = [end for row in kept for end in (row.low, row.high) if end is not None]
    return _padded([low, high, *np.clip(ends, low - room, high + room)], least=1e-6)


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    """The range of `values` with some margin on both sides, at least `least` wide."""
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), (least - (high - low)) / 2)
    return low - margin, high + margin


def calibration_plot(bins: Sequence[evaluated.Bin], title: str, name: str) -> str:
    """Mean ratings by mean predictions, each point by its number of pairs, and the line on which both are equal."""
    predicted, rated, n_pairs = np.array([(group.predicted, group.rated, group.n_test) for group in bins]).T
    limits = _padded([*predicted, *rated], least=0.2)
    blue = PAGE_COLORS["blue"]
    with page_axes(name, 440, 440, left=46, top=12) as axes:
        axes.set(xlim=limits, ylim=limits, xlabel="mean prediction")
        axes.text(0.02, 0.98, "mean rating", va="top", transform=axes.transAxes)
        axes.plot(limits, limits, "--", color=PAGE_COLORS["faint"])
        axes.plot(predicted, rated, color=blue, alpha=0.4)
        axes.scatter(predicted, rated, 40 + 80 * n_pairs.clip(0) / max(1, n_pairs.max()), color=blue, zorder=3)
        return inline_svg(axes, title)


def curve_plot(history: History, axis: str, variance: float | None, title: str, name: str) -> str:
    """A run's losses, of many their running mean, and its validation errors; empty where none is finite.

    Args:
        axis: what evaluations are counted in; where it is not "step", losses are of epochs.
        variance: of the test ratings, a horizontal line.
    """
    losses, errors = np.array(history.losses, float), np.array(history.eval_mse, float)  # None becomes NaN
    steps = np.arange(1.0, len(losses) + 1)
    if axis != "step" and len(losses):
        steps *= max(history.eval_steps, default=0.0) / len(losses) or 1.0
    steps, losses = finite(steps, losses)
    if not len(losses) and not np.isfinite(errors).any():
        return ""
    with page_axes(name, 440, 300, left=52, top=62) as axes:
        if len(losses):
            means = running_mean(losses, len(losses) // 20)
            means = means.clip(max=1.1 * np.quantile(means, 0.97))  # a steep start would flatten everything else
            kept = np.linspace(0, len(means) - 1, min(len(means), _MAX_POINTS)).astype(int)
            axes.plot(steps[kept], means[kept], color=PAGE_COLORS["orange"], linewidth=2, label="training")
        draw_evaluations(
            axes, history.eval_steps, errors.tolist(), PAGE_COLORS["blue"], PAGE_COLORS["card"], "validation"
        )
        if variance is not None:
            axes.axhline(variance, color=FAINT, linestyle="--", label=f"variance of test ratings {variance:.4f}")
        axes.set_xlabel(axis)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.12, 1.02), borderpad=0, labelspacing=0.3)
        return inline_svg(axes, title)


def ndcg_plot(history: History, axis: str, title: str, name: str) -> str:
    """NDCG@10 on the validation part, whose curve has 1 - NDCG@10; empty where none is finite.

    Losses are not drawn: they are of another unit.
    """
    values = 1 - np.array(history.eval_mse, float)  # None becomes NaN
    if not np.isfinite(values).any():
        return ""
    with page_axes(name, 440, 300, left=52, top=32) as axes:
        colors, label = (PAGE_COLORS["blue"], PAGE_COLORS["card"]), "validation"
        draw_evaluations(axes, history.eval_steps, values.tolist(), *colors, label, highest=True)
        axes.set_xlabel(axis)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.12, 1.02), borderpad=0)
        return inline_svg(axes, title)


def group_plot(table: GroupTable, heads: Sequence[str], title: str, name: str) -> str:
    """Recall@10 of each system, side by side in each group of targets, with intervals; those but the heads are gray."""
    n, at = len(table.rows), np.arange(len(table.names))
    with page_axes(name, 900, 330 + 20 * n, left=46, top=20 * n + 14) as axes:
        for number, (system, rows) in enumerate(table.rows.items()):
            color = _HEAD_COLORS[heads.index(system) % len(_HEAD_COLORS)] if system in heads else "gray"
            style = {"color": PAGE_COLORS[color], "markeredgecolor": PAGE_COLORS["card"], "markersize": 8}
            x = at + 0.7 * (number - (n - 1) / 2) / n
            for place, row in zip(x, rows, strict=True):
                if row is not None and row.low is not None and row.high is not None:
                    axes.plot([place, place], [max(row.low, 0), min(row.high, 1)], color=style["color"], alpha=0.5)
            y = [np.nan if row is None else row.value for row in rows]
            axes.plot(x, y, _MARKERS[number % len(_MARKERS)], label=_label(system), **style)
        names = [f"{_label(group)}\n{count:,}" for group, count in zip(table.names, table.n_users, strict=True)]
        axes.set(xlim=(-0.5, len(at) - 0.5), ylim=(0, None))
        axes.set_xticks(at, names)
        axes.grid(False, axis="x")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.03, 1.01), borderpad=0, labelspacing=0.3)
        return inline_svg(axes, title)


def _label(text: str) -> str:
    """`text` as fonts can measure it, and not too long."""
    return re.sub("[^ -~]", "?", text[:_MAX_LABEL])
