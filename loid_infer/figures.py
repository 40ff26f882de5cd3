"""Pictures for people: heat maps and learning curves, as PNG files.

The only file that imports matplotlib. It knows numbers and labels, not what was measured. The same input gives the same
bytes with the same matplotlib: a user's own style is set aside, and no version or time is written into the file.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.types import Floats

# Okabe & Ito's palette without its yellow, which is lost on white; told apart with every common color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv"  # five, so that 35 runs differ in color or marker
_INK, _FAINT = "#222222", "#888888"
_DPI = 144
_MIN_SPAN = 0.1  # of a heat map's colors: smaller differences are not painted as large ones
_SMOOTH_FROM = 40  # points of a curve, from which a running mean of the n/20 latest is drawn over it


@dataclass(frozen=True, slots=True)
class Curve:
    """One training run. Points that are not finite are not drawn."""

    label: str
    steps: Sequence[float]  # [n], of each loss
    losses: Sequence[float]  # [n], training loss, in the unit of eval_mse
    eval_steps: Sequence[float]  # [m], of each evaluation
    eval_mse: Sequence[float]  # [m], on the validation part


def heat_map(path: Path, names: Sequence[str], matrix: Floats, title: str, note: str = "") -> None:
    """Draw `matrix [n, n]` over `names [n]`, each value written in its cell, into the PNG file `path`.

    Args:
        note: one line below, on what the values are.

    Raises:
        ValueError: the matrix is not square of that size, or not finite.
    """
    n = len(names)
    if not n or matrix.shape != (n, n) or not np.isfinite(matrix).all():
        raise ValueError(f"expected finite values [{n}, {n}] and at least one name, got shape {matrix.shape}")
    side = float(np.clip(0.8 * n, 2.4, 18.0))
    low, high = float(matrix.min()), float(matrix.max())
    missing = max(0.0, _MIN_SPAN - (high - low)) / 2
    longest = max(map(len, names))
    with _figure(path, (side + 2.4 + 0.06 * longest, side + 1.4 + 0.05 * longest), title, note) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(matrix, cmap="cividis", vmin=low - missing, vmax=high + missing)
        axes.set_xticks(range(n), names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(1, n) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, n) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        size = min(10.0, 26.0 * side / n)
        for (row, column), value in np.ndenumerate(matrix):
            color = "white" if image.norm(value) < 0.55 else _INK
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=color, fontsize=size)
        bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.03)
        bar.outline.set_visible(False)


def learning_curves(
    path: Path, title: str, curves: Sequence[Curve], *, reference: tuple[str, float] | None = None, note: str = ""
) -> None:
    """Draw training losses and validation errors by step, one color a run, into the PNG file `path`.

    Losses are a light line with their running mean over it, evaluations are marked points, and the best of a run has a
    ring. The few steep losses of a run's start are cut off when they would flatten everything else, and it is said so.

    Args:
        reference: name and height of a horizontal line, such as the error of predicting the mean.
        note: one line below.

    Raises:
        ValueError: nothing to draw, or steps and values of different lengths.
    """
    drawn = [(_points(curve.steps, curve.losses), _points(curve.eval_steps, curve.eval_mse)) for curve in curves]
    if not any(losses.size or errors.size for (_, losses), (_, errors) in drawn):
        raise ValueError("no finite points to draw")
    top, n_cut = _top(drawn, reference)
    cut = f"{n_cut} losses above {top:.3g} are cut off" if n_cut else ""
    with _figure(path, (8.0, 4.8), title, ". ".join(filter(None, (note, cut)))) as figure:
        axes = figure.add_subplot()
        axes.set_xlabel("step")
        axes.set_ylabel("mean squared error")
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        prefixes = [f"{curve.label}: " if curve.label else "" for curve in curves]
        for number, (prefix, (losses, _)) in enumerate(zip(prefixes, drawn, strict=True)):
            _draw_losses(axes, *losses, COLORS[number % len(COLORS)], f"{prefix}training")
        # In the middle, since the legend is filled by column: training to the left, validation to the right.
        if reference:
            name, height = reference
            axes.axhline(height, color=_FAINT, linestyle=(0, (5, 3)), linewidth=1.2, label=f"{name} {height:.3f}")
        for number, (prefix, (_, errors)) in enumerate(zip(prefixes, drawn, strict=True)):
            color, marker = COLORS[number % len(COLORS)], _MARKERS[number % len(_MARKERS)]
            _draw_errors(axes, *errors, color, marker, f"{prefix}validation")
        axes.set_ylim(0.0, top)
        axes.margins(x=0.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2, fontsize=9)


def _draw_losses(axes: Any, steps: Floats, losses: Floats, color: str, label: str) -> None:
    if not losses.size:
        return
    if len(losses) < _SMOOTH_FROM:
        axes.plot(steps, losses, color=color, linewidth=1.2, alpha=0.7, label=label)
        return
    axes.plot(steps, losses, color=color, linewidth=0.6, alpha=0.28)
    axes.plot(steps, running_mean(losses, len(losses) // 20), color=color, linewidth=1.6, alpha=0.85, label=label)


def _draw_errors(axes: Any, steps: Floats, errors: Floats, color: str, marker: str, label: str) -> None:
    if not errors.size:
        return
    best = int(errors.argmin())
    # A white edge keeps points visible on their own run's line.
    axes.plot(
        steps, errors, color=color, linewidth=1.0, linestyle=":", marker=marker, markersize=7, markeredgecolor="white",
        zorder=3, label=f"{label}, best {errors[best]:.3f} at step {steps[best]:,.0f}",
    )  # fmt: skip
    axes.plot(
        steps[best], errors[best], marker=marker, markersize=12, markerfacecolor="none", markeredgecolor=color,
        markeredgewidth=1.8, zorder=4,
    )  # fmt: skip


def running_mean(values: Floats, window: int) -> Floats:
    """Mean of each of `values [n]` with the `window - 1` before it, `[n]` float64: no value sees a later one.

    While there are fewer, only the latest half counts, so that a steep start does not linger.
    """
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - max(1, window), ends // 2)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _points(steps: Sequence[float], values: Sequence[float]) -> tuple[Floats, Floats]:
    if len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps for {len(values)} values")
    places, heights = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    keep = np.isfinite(places) & np.isfinite(heights)
    return places[keep], heights[keep]


def _top(drawn: Sequence[tuple[tuple[Floats, Floats], tuple[Floats, Floats]]], reference: Any) -> tuple[float, int]:
    """Upper end of the axis and how many losses lie above it: all that is drawn, unless losses spike far above."""
    losses = np.concatenate([values for (_, values), _ in drawn])
    firm = [*np.concatenate([values for _, (_, values) in drawn]), *([reference[1]] if reference else [])]
    usual = float(np.quantile(losses, 0.97)) if losses.size else 0.0
    height = max([usual, *firm])
    highest = float(losses.max()) if losses.size else 0.0
    if highest <= 1.5 * height:
        height = max(height, highest)
    top = 1.06 * height if height > 0 else 1.0
    return top, int((losses > top).sum())


@contextmanager
def _figure(path: Path, inches: tuple[float, float], title: str, note: str) -> Iterator[Any]:
    """A figure in matplotlib's own style, written to `path` when the block ends well. No pyplot, no display."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # else a first import tells stderr about its font cache and folders
    try:
        import matplotlib
        from matplotlib.figure import Figure

        style: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
        style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _INK)
        style["text.parse_math"] = False  # a dollar in a label is a dollar
        with matplotlib.rc_context(style):
            figure = Figure(figsize=inches, dpi=_DPI, layout="constrained")
            yield figure
            for write, text, size, look in (
                (figure.suptitle, title, 12.0, {"color": _INK, "weight": "bold"}),
                (figure.supxlabel, note, 8.5, {"color": _FAINT}),
            ):
                lines = textwrap.fill(text, int(inches[0] * 110 / size))  # a letter is at most 0.65 of its size wide
                write(lines, x=0.01, ha="left", fontsize=size, **look)
            figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})
    finally:
        log.setLevel(level)
