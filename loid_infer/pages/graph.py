"""A drawing of what rests on what: boxes in columns from left to right, smooth lines between them that cross none.

The layout is Sugiyama's (layers, stand-ins in the columns that a line passes, order by the neighbors' mean), small
enough to be read. Knows boxes and lines, not what they stand for.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loid_infer.pages.markup import Html, element, joined
from loid_infer.pages.plot import Point, curve, drawing, shortened, words

_BOX, _TALL, _ACROSS, _APART, _STAND_IN = 168.0, 58.0, 34.0, 18.0, 16.0
_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Box:
    """One thing."""

    key: str
    column: int
    name: str
    kind: str  # a word above the name
    note: str  # a line below it
    color: str
    absent: bool = False  # named by another, but not there


@dataclass(frozen=True, slots=True)
class Line:
    """`start` is part of `end`."""

    start: str
    end: str
    dashed: bool = False


def graph(boxes: Sequence[Box], lines: Sequence[Line], said: str) -> Html:
    """Draw `boxes` and `lines`; every line leads to a later column."""
    columns = {box.key: box.column for box in boxes}
    routes = [_route(number, line, columns) for number, line in enumerate(lines)]
    columns |= {key: columns[routes[number][0]] + place for number in range(len(routes))
                for place, key in enumerate(routes[number]) if key not in columns}  # fmt: skip
    pieces = [piece for route in routes for piece in itertools.pairwise(route)]
    order = _ordered(columns, pieces)
    tall = dict.fromkeys(columns, _TALL) | {key: _STAND_IN for route in routes for key in route[1:-1]}
    heights = _heights(order, pieces, tall)
    width = len(order) * (_BOX + _ACROSS) - _ACROSS + 4
    least = min(heights[key] - tall[key] / 2 for key in heights)
    places = {key: (columns[key] * (_BOX + _ACROSS) + 2, heights[key] - least + 2) for key in columns}
    height = max(places[key][1] + tall[key] / 2 for key in columns) + 2
    drawn = [_line(route, line, places) for route, line in zip(routes, lines, strict=True)]
    drawn += [_box(box, places[box.key]) for box in boxes]
    # A small graph is not blown up to the width of the page.
    room = max(0.0, 920.0 - width) / 2
    shift = element("g", *drawn, at={"transform": f"translate({room:.1f} 0)"})
    return drawing(max(width, 920.0), height, said, shift)


def _route(number: int, line: Line, columns: Mapping[str, int]) -> list[str]:
    """The line's ends, and a stand-in in each column between."""
    between = range(columns[line.start] + 1, columns[line.end])
    return [line.start, *(f"{number}/{column}" for column in between), line.end]


def _ordered(columns: Mapping[str, int], pieces: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Every column from top to bottom, with few crossings: the best of some sweeps."""
    order = [sorted(key for key in columns if columns[key] == column) for column in range(max(columns.values()) + 1)]
    before: dict[str, list[str]] = {key: [] for key in columns}
    after: dict[str, list[str]] = {key: [] for key in columns}
    for start, end in pieces:
        before[end].append(start)
        after[start].append(end)
    best, fewest = order, _crossings(order, pieces)
    for sweep in range(_SWEEPS):
        rank = {key: place for column in order for place, key in enumerate(column)}
        neighbors = before if sweep % 2 == 0 else after
        new: list[list[str]] = []
        for column in order if sweep % 2 == 0 else order[::-1]:
            mean = {key: sum(rank[near] for near in neighbors[key]) / len(neighbors[key]) if neighbors[key] else
                    float(rank[key]) for key in column}  # fmt: skip
            new.append(sorted(column, key=lambda key: (mean[key], rank[key])))
            rank |= {key: place for place, key in enumerate(new[-1])}
        order = new if sweep % 2 == 0 else new[::-1]
        crossings = _crossings(order, pieces)
        if crossings < fewest:
            best, fewest = order, crossings
    return best


def _crossings(order: Sequence[Sequence[str]], pieces: Sequence[tuple[str, str]]) -> int:
    rank = {key: (number, place) for number, column in enumerate(order) for place, key in enumerate(column)}
    ends = sorted((*rank[start], rank[end][1]) for start, end in pieces)
    return sum(one[0] == other[0] and one[1] < other[1] and one[2] > other[2] for one in ends for other in ends)


def _heights(
    order: Sequence[Sequence[str]], pieces: Sequence[tuple[str, str]], tall: Mapping[str, float]
) -> dict[str, float]:
    """The middle of each box: as near to the mean of its neighbors as its column's others allow."""
    near: dict[str, list[str]] = {key: [] for column in order for key in column}
    for start, end in pieces:
        near[end].append(start)
        near[start].append(end)
    heights: dict[str, float] = {}
    for column in order:
        heights |= _stacked(column, dict.fromkeys(column, 0.0), tall)
    for sweep in range(_SWEEPS):
        for column in order if sweep % 2 == 0 else order[::-1]:
            wanted = {key: sum(heights[other] for other in near[key]) / len(near[key]) if near[key] else heights[key]
                      for key in column}  # fmt: skip
            heights |= _stacked(column, wanted, tall)
    return heights


def _stacked(column: Sequence[str], wanted: Mapping[str, float], tall: Mapping[str, float]) -> dict[str, float]:
    """Heights in the order of `column` that do not overlap, moved together to where they are wanted in the mean."""
    blocks: list[tuple[list[str], float]] = []  # keys that touch one another, and the middle of the first
    for key in column:
        block, start = [key], wanted[key]
        while blocks and start < blocks[-1][1] + _length(blocks[-1][0], tall) + _gap(blocks[-1][0][-1], block[0], tall):
            block = blocks.pop()[0] + block
            places = _offsets(block, tall)
            start = sum(wanted[one] - place for one, place in places.items()) / len(block)
        blocks.append((block, start))
    return {key: start + place for block, start in blocks for key, place in _offsets(block, tall).items()}


def _gap(one: str, other: str, tall: Mapping[str, float]) -> float:
    return (tall[one] + tall[other]) / 2 + _APART


def _offsets(block: Sequence[str], tall: Mapping[str, float]) -> dict[str, float]:
    places, at = {block[0]: 0.0}, 0.0
    for one, other in itertools.pairwise(block):
        at += _gap(one, other, tall)
        places[other] = at
    return places


def _length(block: Sequence[str], tall: Mapping[str, float]) -> float:
    return _offsets(block, tall)[block[-1]]


def _line(route: Sequence[str], line: Line, places: Mapping[str, Point]) -> Html:
    points: list[Point] = [(places[route[0]][0] + _BOX, places[route[0]][1])]
    for key in route[1:-1]:
        x, y = places[key]
        points += [(x, y), (x + _BOX, y)]
    points.append(places[route[-1]])
    return curve(points, "edge.dashed" if line.dashed else "edge", 1.6)


def _box(box: Box, place: Point) -> Html:
    x, y = place[0], place[1] - _TALL / 2
    frame = {"x": x, "y": y, "width": _BOX, "height": _TALL, "rx": 10}
    parts = [
        element("title", f"{box.kind}: {box.name}\n{box.note}"),
        element("rect.node.dashed" if box.absent else "rect.node", at=frame),
        element(f"rect.{box.color}.fill", at={"x": x, "y": y + 12, "width": 4, "height": _TALL - 24, "rx": 2}),
        words(x + 14, y + 17, box.kind, "small.faint"),
        words(x + 14, y + 33, shortened(box.name, 18), "bold"),
        words(x + 14, y + 49, shortened(box.note, 23), "small.faint"),
    ]
    return element("g", joined(parts))
