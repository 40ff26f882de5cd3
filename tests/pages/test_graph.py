"""Boxes do not overlap, lines lead from left to right, and order keeps them from crossing where it can."""

import random
import re

from loid_infer.pages.graph import Box, Line, graph

FRAME = re.compile(r'<rect class="node[^"]*" x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)"')


def box(key: str, column: int) -> Box:
    return Box(key, column, key, "plugin", "note", "blue")


def frames(drawn: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, found)) for found in FRAME.findall(drawn)]


def size(drawn: str) -> tuple[float, float]:
    width, height = re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn).groups()
    return float(width), float(height)


def test_boxes_are_inside_and_apart_whatever_the_graph() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        boxes = [box(f"b{i}", rng.randint(0, 4)) for i in range(rng.randint(1, 15))]
        pairs = [(one, other) for one in boxes for other in boxes if one.column < other.column and rng.random() < 0.4]
        drawn = graph(boxes, [Line(one.key, other.key) for one, other in pairs], "said").text
        found, (width, height) = frames(drawn), size(drawn)
        assert len(found) == len(boxes) and drawn.count("<path") == len(pairs)
        for x, y, wide, tall in found:
            assert x >= 0 and x + wide <= width and y >= 0 and y + tall <= height
        for i, (x, y, wide, tall) in enumerate(found):
            for other_x, other_y, *_ in found[:i]:
                assert abs(x - other_x) >= wide or abs(y - other_y) >= tall


def test_lines_that_need_not_cross_do_not() -> None:
    boxes = [box(key, column) for column, keys in enumerate(("ab", "cd", "ef")) for key in keys]
    drawn = graph(boxes, [Line("a", "d"), Line("b", "c"), Line("c", "e"), Line("d", "f")], "said").text
    height = dict(zip("abcdef", (y for _, y, *_ in frames(drawn)), strict=True))
    assert (height["a"] < height["b"]) == (height["d"] < height["c"]) == (height["f"] < height["e"])


def test_one_box_and_no_line() -> None:
    assert len(frames(graph([box("a", 0)], [], "said").text)) == 1
