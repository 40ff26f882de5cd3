"""What every drawing is made of: scales, ticks, lines, marks and words of an inline SVG.

Colors are classes of the page's sheet, so that a drawing follows daylight and night. This file knows no figure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loid_infer.pages.markup import Content, Html, element, joined

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high` along a line from `start` to `end`, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where `value` is; values beyond the ends are at the ends."""
        low, high, value = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """At most `most` round values (about) within; of a logarithm the whole powers of ten."""
        if self.log:
            return [10.0**n for n in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
        if not self.high > self.low:
            return [self.low]
        rough = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def padded(values: Iterable[float], share: float = 0.06, least: float = 1e-6) -> tuple[float, float]:
    """The range of `values` with some room on both sides, never less than `least` wide."""
    found = list(values)
    low, high = min(found), max(found)
    room = max((high - low) * share, (least - (high - low)) / 2)
    return low - room, high + room


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """`value` with the digits that tell it from its neighbors."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=abs(value) or 1.0)
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step * 10**digits, 6) % 1:  # a step of 0.25 needs one digit more
        digits += 1
    return f"{value:.{digits}f}".replace("-0.0", "0.0") if not value else f"{value:.{digits}f}"


def drawing(width: float, height: float, said: str, *parts: Content) -> Html:
    """An SVG of that size in its own units; `said` tells those who cannot see it what it shows."""
    at = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img", "aria-label": said}
    return element("div.wide", element("svg", *parts, at=at))


def words(x: float, y: float, said: str, look: str = "", *, whole: str = "") -> Html:
    """Text whose baseline starts at `x, y`.

    Args:
        look: classes: end, middle, faint, small, bold.
        whole: what a pointer at rest shows, where `said` is shortened.
    """
    name = f"text.{look}" if look else "text"
    return element(name, *([element("title", whole)] if whole and whole != said else []), said, at={"x": x, "y": y})


def shortened(text: str, most: int) -> str:
    """`text`, or as much of it as there is room for."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def line(start: Point, end: Point, look: str, width: float = 1.0) -> Html:
    """A straight line."""
    at = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1], "stroke-width": width}
    return element(f"line.{look}", at=at)


def path(points: Sequence[Point], look: str, width: float = 1.0) -> Html:
    """A line through `points`."""
    return element(f"path.{look}", at={"d": f"M{_pairs(points)}", "stroke-width": width, "stroke-linejoin": "round"})


def curve(points: Sequence[Point], look: str, width: float = 1.0) -> Html:
    """A smooth line through `points`, level at each of them."""
    said = [f"M{_pairs(points[:1])}"]
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        half = (to_x - x) / 2
        said.append(f"C{_pairs([(x + half, y), (to_x - half, to_y), (to_x, to_y)])}")
    return element(f"path.{look}", at={"d": "".join(said), "stroke-width": width})


def mark(kind: str, at: Point, look: str, size: float = 5.0) -> Html:
    """A point: circle, square, diamond, triangle, left or right (arrow heads)."""
    x, y = at
    if kind == "circle":
        return element(f"circle.{look}", at={"cx": x, "cy": y, "r": size})
    corners: dict[str, list[Point]] = {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "diamond": [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
        "triangle": [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        "left": [(-0.6, 0), (0.6, -0.9), (0.6, 0.9)],
        "right": [(0.6, 0), (-0.6, -0.9), (-0.6, 0.9)],
    }
    points = [(x + size * right, y + size * down) for right, down in corners[kind]]
    return element(f"path.{look}", at={"d": f"M{_pairs(points)}Z"})


def legend(*entries: tuple[str, str, str]) -> Html:
    """A list of marks: (kind or `line`, look, name)."""

    def sign(kind: str, look: str) -> Html:
        drawn = line((0, 8), (16, 8), look, 2) if kind == "line" else mark(kind, (8, 8), look)
        return element("svg", drawn, at={"viewBox": "0 0 16 16", "aria-hidden": "true"})

    return element("ul.legend", *(element("li", sign(kind, look), name) for kind, look, name in entries))


def axis_below(scale: Scale, top: float, bottom: float, ticks: Sequence[float], said: Sequence[str]) -> Html:
    """Vertical grid lines at `ticks`, each named below."""
    parts = []
    for value, name in zip(ticks, said, strict=True):
        x = scale(value)
        parts += [line((x, top), (x, bottom), "grid"), words(x, bottom + 18, name, "small.faint.middle")]
    return joined(parts)


def axis_left(scale: Scale, left: float, right: float, ticks: Sequence[float], said: Sequence[str]) -> Html:
    """Horizontal grid lines at `ticks`, each named to the left."""
    parts = []
    for value, name in zip(ticks, said, strict=True):
        y = scale(value)
        parts += [line((left, y), (right, y), "grid"), words(left - 8, y + 4, name, "small.faint.end")]
    return joined(parts)


def figure(title: str, sub: str, how: str, *drawn: Content) -> Html:
    """A drawing with its title, what it is of, and below it how to read it."""
    return element(
        "figure", element("h3", title), *([element("p.sub", sub)] if sub else []), *drawn, element("figcaption", how)
    )


def _pairs(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
