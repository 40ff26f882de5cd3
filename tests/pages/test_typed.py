from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from loid_infer.errors import BadArtifact
from loid_infer.pages.typed import typed


@dataclass(frozen=True)
class Inner:
    x: float


@dataclass(frozen=True)
class Outer:
    name: str
    n: int
    share: float | None
    inner: Inner
    many: tuple[Inner, ...]
    named: Mapping[str, int]
    ready: bool = True


GOOD = {"name": "a", "n": 3, "share": 0.5, "inner": {"x": 1}, "many": [{"x": 2.0}], "named": {"k": 1}}


def test_json_becomes_what_the_annotations_say() -> None:
    assert typed(Outer, GOOD | {"unknown": [1]}, "file") == Outer("a", 3, 0.5, Inner(1.0), (Inner(2.0),), {"k": 1})
    for absent in (None, float("nan"), float("inf")):
        assert typed(Outer, GOOD | {"share": absent}, "file").share is None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": 3}, "file.name"),
        ({"n": "3"}, "file.n"),
        ({"n": True}, "file.n"),
        ({"n": 1.5}, "file.n"),
        ({"n": 10**40}, "file.n"),
        ({"inner": {"x": float("nan")}}, "file.inner.x"),
        ({"inner": {"x": 10**400}}, "file.inner.x"),
        ({"inner": {}}, "file.inner.x"),
        ({"inner": [1]}, "file.inner"),
        ({"many": [{"x": 1}, {"x": "y"}]}, "file.many[1].x"),
        ({"many": {"x": 1}}, "file.many"),
        ({"named": {"k": None}}, "file.named.k"),
        ({"ready": 1}, "file.ready"),
    ],
)
def test_what_is_not_is_told_by_its_place(change: dict, where: str) -> None:
    with pytest.raises(BadArtifact) as caught:
        typed(Outer, GOOD | change, "file")
    assert caught.value.where == where


def test_something_else_altogether_is_told() -> None:
    with pytest.raises(BadArtifact, match="not what it should be") as caught:
        typed(Outer, [], "file")
    assert (caught.value.expected, caught.value.got) == ("dict", "list")
