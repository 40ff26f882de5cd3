"""Draws heat maps and learning curves as PNG files, and the plots of the report page as inline SVG.

The only module that imports matplotlib. The same input gives the same bytes with the same matplotlib: a user's own
style is ignored, and no version or time is written.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.types import Floats

# Okabe & Ito's palette without its yellow, which is lost on white; distinct with every common color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FAINT = "#888888"
_DPI = 144
_MIN_SPAN = 0.1  # of a heat map's colors: smaller differences are not painted as large ones
_SMOOTH_FROM = 40  # points of a curve, from which a running mean of the n/20 latest is drawn over it

# Plots of the page are drawn in these colors, each of which then becomes the style sheet's variable of that name.
PAGE_COLORS = {
    "faint": "#000001",
    "grid": "#000002",
    "card": "#000003",
    "blue": "#000004",
    "orange": "#000005",
    "green": "#000006",
    "violet": "#000007",
    "gray": "#000008",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One training run. Points that are not finite are not drawn."""

    label: str
    steps: Sequence[float]  # [n], of each loss
    losses: Sequence[float]  # [n], training loss, in the unit of eval_mse
    eval_steps: Sequence[float]  # [m], of each evaluation
    eval_mse: Sequence[float]  # [m], on the validation part


def heat_map(path: Path, names: Sequence[str], matrix: Floats, title: str, note: str = "") -> None:
    """Draw `matrix [n, n]` over `names [n]`, its values in the cells, and a `note` below, as the PNG file `path`.

    Raises:
        ValueError: the matrix is not square of that size, or not finite.
    """
    n = len(names)
    if not n or matrix.shape != (n, n) or not np.isfinite(matrix).all():
        raise ValueError(f"expected finite values [{n}, {n}] and at least one name, got shape {matrix.shape}")
    side = float(np.clip(0.8 * n, 2.4, 18.0))
    low, high = float(matrix.min()), float(matrix.max())
    margin = max(0.0, _MIN_SPAN - (high - low)) / 2
    longest = max(map(len, names))
    with _png(path, (side + 2.4 + 0.06 * longest, side + 1.4 + 0.05 * longest), title, note) as figure:
        axes = figure.add_subplot(aspect="equal")
        image = axes.pcolormesh(
            matrix, cmap="cividis", vmin=low - margin, vmax=high + margin, edgecolors="white", linewidth=1.5
        )
        axes.set_xticks(np.arange(n) + 0.5, names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(n) + 0.5, names)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        size = min(10.0, 26.0 * side / n)
        for (row, column), value in np.ndenumerate(matrix):
            color = "white" if image.norm(value) < 0.55 else "black"
            axes.text(column + 0.5, row + 0.5, f"{value:.3f}", ha="center", va="center", color=color, fontsize=size)
        bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.03)
        bar.outline.set_visible(False)


def learning_curves(
    path: Path, title: str, curves: Sequence[Curve], *, reference: tuple[str, float] | None = None, note: str = ""
) -> None:
    """Draw training losses and validation errors by step, one color a run, into the PNG file `path`.

    Losses are a light line with their running mean over it, evaluations are marked points, and the best of a run has a
    ring. The few steep losses of a run's start are cut off when they would flatten everything else, which a note says.

    Args:
        reference: name and height of a horizontal line, such as the error of predicting the mean.

    Raises:
        ValueError: nothing to draw, or steps and values of different lengths.
    """
    top, n_cut = _axis_top(curves, reference)
    cut = f"{n_cut} losses above {top:.3g} are cut off" if n_cut else ""
    with _png(path, (8.0, 4.8), title, ". ".join(filter(None, (note, cut)))) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel="step", ylabel="mean squared error")
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        colored = list(zip(curves, itertools.cycle(COLORS), strict=False))
        for curve, color in colored:
            _draw_losses(axes, curve, color)
        # In the middle, since the legend is filled by column: training to the left, validation to the right.
        if reference:
            axes.axhline(reference[1], color=FAINT, linestyle="--", label=f"{reference[0]} {reference[1]:.4f}")
        for curve, color in colored:
            label = f"{curve.label} validation".lstrip()
            draw_evaluations(axes, curve.eval_steps, curve.eval_mse, color, "white", label)
        axes.set_ylim(0.0, top)
        axes.margins(x=0.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2, fontsize=9)


def _draw_losses(axes: Any, curve: Curve, color: str) -> None:
    steps, losses = finite(curve.steps, curve.losses)
    if not losses.size:
        return
    window = len(losses) // 20 if len(losses) >= _SMOOTH_FROM else 1
    label = f"{curve.label} training".lstrip()
    axes.plot(steps, losses, color=color, linewidth=0.6, alpha=0.28)
    axes.plot(steps, running_mean(losses, window), color=color, linewidth=1.6, alpha=0.85, label=label)


def draw_evaluations(
    axes: Any,
    steps: Sequence[float],
    values: Sequence[float],
    color: str,
    background: str,
    label: str,
    *,
    highest: bool = False,
) -> None:
    """Draw the finite ones of `values [m]` at `steps [m]` as points edged in `background`, the best with a ring: the
    lowest, or the `highest`.
    """
    x, y = finite(steps, values)
    if not y.size:
        return
    best = int(y.argmax() if highest else y.argmin())
    label = f"{label}, best {y[best]:.4f} at {x[best]:,.0f}"
    axes.plot(x, y, ":o", color=color, markersize=7, markeredgecolor=background, zorder=3, label=label)
    axes.plot(x[best], y[best], "o", color=color, markersize=12, fillstyle="none", markeredgewidth=1.8)


def running_mean(values: Floats, window: int) -> Floats:
    """Mean of each of `values [n]` with the `window - 1` before it, `[n]` float64: no value sees a later one.

    While there are fewer, only the latest half counts, so that a steep start does not linger.
    """
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - max(1, window), ends // 2)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _axis_top(curves: Sequence[Curve], reference: tuple[str, float] | None) -> tuple[float, int]:
    """Upper end of the axis and how many losses lie above it: all that is drawn, unless losses spike far above."""
    losses = np.concatenate([finite(curve.steps, curve.losses)[1] for curve in curves])
    errors = np.concatenate([finite(curve.eval_steps, curve.eval_mse)[1] for curve in curves])
    if not losses.size and not errors.size:
        raise ValueError("no finite points to draw")
    usual = float(np.quantile(losses, 0.97)) if losses.size else 0.0
    height = max(usual, errors.max(initial=0.0), reference[1] if reference else 0.0)
    highest = losses.max(initial=0.0)
    if highest <= 1.5 * height:
        height = max(height, highest)
    top = 1.06 * height if height > 0 else 1.0
    return top, int((losses > top).sum())


def finite(steps: Sequence[float] | Floats, values: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    """Those of `values [n]` at `steps [n]` that are finite, float64."""
    if len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps for {len(values)} values")
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    is_finite = np.isfinite(x) & np.isfinite(y)
    return x[is_finite], y[is_finite]


@contextmanager
def _default_style(changes: Mapping[str, Any]) -> Iterator[type[Any]]:
    """matplotlib's own style with `changes`, whatever the user's is; gives the class of figures."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # a first import logs its font cache and folders
    try:
        import matplotlib
        from matplotlib.figure import Figure

        style: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
        with matplotlib.rc_context(style | {"text.parse_math": False} | changes):  # a dollar in a label is a dollar
            yield Figure
    finally:
        log.setLevel(level)


@contextmanager
def _png(path: Path, inches: tuple[float, float], title: str, note: str) -> Iterator[Any]:
    """A figure that is written to `path` when the block ends without an error."""
    with _default_style({}) as new_figure:
        figure = new_figure(figsize=inches, dpi=_DPI, layout="constrained")
        yield figure
        for write, text, size, look in (
            (figure.suptitle, title, 12.0, {"weight": "bold"}),
            (figure.supxlabel, note, 8.5, {"color": FAINT}),
        ):
            lines = textwrap.fill(text, int(inches[0] * 110 / size))  # a letter is at most 0.65 of its size wide
            write(lines, x=0.01, ha="left", fontsize=size, **look)
        figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


@contextmanager
def page_axes(name: str, width: int, height: int, *, left: int, top: int) -> Iterator[Any]:
    """The axes of a plot of the page, `left` and `top` pixels inside it, with room for ticks and a label below.

    No other plot of the page may have the same `name`, which keeps their ids apart.
    """
    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 12, "axes.formatter.useoffset": False}
    style |= {"axes.grid": True, "axes.axisbelow": True, "grid.color": PAGE_COLORS["grid"], "grid.linewidth": 1}
    with _default_style(style) as new_figure:
        figure = new_figure(figsize=(width / 72, height / 72))
        right, bottom = 20, 46
        area = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        axes = figure.add_axes(area, frameon=False)
        axes.locator_params(nbins=5)
        axes.tick_params(length=0)
        yield axes


def inline_svg(axes: Any, title: str) -> str:
    """The figure of `axes` as an SVG element in the page's font and colors; `title` is its text alternative."""
    buffer = io.StringIO()
    axes.figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    content = text[text.index("<g id=") :]  # without header, metadata and style
    content = re.sub('<g id="[^"]*"', "<g", content)
    content = re.sub('font[a-z-]*: [^;"]*(; )?', "", content)
    for name, color in PAGE_COLORS.items():
        content = content.replace(color, f"var(--{name})")
    width, height = (round(72 * inches) for inches in axes.figure.get_size_inches())
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{content}'
