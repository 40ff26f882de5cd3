"""JSON files are decoded to their schema, or the error names the field."""

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec import Struct

from loid_infer.errors import BadArtifact, BadStore
from loid_infer.records import decode, narrowed, to_json, typed


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    x: float


class Outer(Struct, frozen=True):
    name: str
    n: int
    share: float | None
    inner: Inner
    many: tuple[Inner, ...]
    named: dict[str, int]
    ready: bool = True


class SubsetOfOuter(Struct, frozen=True):
    share: float
    inner: Inner


VALID = {"name": "a", "n": 3, "share": 0.5, "inner": {"x": 1}, "many": [{"x": 2.0}], "named": {"k": 1}}
NOT_PLOTTABLE = [float("nan"), float("inf"), -1e16, 10**40]


def test_json_is_decoded_to_the_annotated_types(tmp_path: Path) -> None:
    expected = Outer("a", 3, 0.5, Inner(1.0), (Inner(2.0),), {"k": 1})
    text = json.dumps(VALID | {"unknown": [1]})
    (tmp_path / "file").write_text(text)
    assert (
        decode(tmp_path / "file", Outer, "run it again")
        == decode(text.encode(), Outer, "run it again", where="x")
        == expected
    )
    assert decode(to_json(expected), Outer, "run it again") == expected


@pytest.mark.parametrize("number", NOT_PLOTTABLE)
def test_with_finite_a_number_that_cannot_be_plotted_becomes_none(number: float) -> None:
    text = json.dumps(VALID | {"share": number})
    assert decode(text, Outer, "run it again", finite=True).share is None
    assert str(decode(text, Outer, "run it again").share) == str(float(number))
    for change in ({"inner": {"x": number}}, {"n": number}):
        with pytest.raises(BadArtifact, match=f"the field {next(iter(change))}"):
            decode(json.dumps(VALID | change), Outer, "run it again", finite=True)


@pytest.mark.parametrize(
    ("change", "field", "expected", "got"),
    [
        ({"name": 3}, "name", "str", "int"),
        ({"n": "3"}, "n", "int", "str"),
        ({"n": True}, "n", "int", "bool"),
        ({"n": 1.5}, "n", "int", "float"),
        ({"inner": {"x": 10**400}}, "inner.x", "", "Number out of range"),
        ({"inner": {}}, "inner.x", "a value", "nothing"),
        ({"inner": {"x": 1, "y": 2}}, "inner.y", "no such field", "one"),
        ({"inner": [1]}, "inner", "object", "array"),
        ({"many": [{"x": 1}, {"x": "y"}]}, "many[1].x", "float", "str"),
        ({"many": {"x": 1}}, "many", "array", "object"),
        ({"named": {"k": None}}, "named[...]", "int", "null"),
        ({"ready": 1}, "ready", "bool", "int"),
    ],
)
def test_an_invalid_field_is_named(change: dict, field: str, expected: str, got: str) -> None:
    with pytest.raises(BadArtifact) as caught:
        typed(VALID | change, Outer, "run it again", where="file")
    assert f"the field {field} is" in caught.value.what
    assert (caught.value.where, caught.value.expected, caught.value.got) == ("file", expected, got)
    assert caught.value.fix == "run it again"


def test_content_that_is_not_a_json_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"x: the content is invalid \(expected object, got array\)"):
        decode("[]", Outer, "run it again", where="x")
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(BadStore, match=r"file cannot be read: .* run it again"):
            decode(tmp_path / "file", Outer, "run it again", error=BadStore)
    with pytest.raises(BadArtifact, match="No such file"):
        decode(tmp_path / "absent", Outer, "run it again")


def test_numpy_scalars_and_nonfinite_numbers_are_encoded() -> None:
    record = Outer("a", 3, np.float64(0.1), Inner(np.float32(0.5)), (), {})
    assert narrowed(record, SubsetOfOuter) == SubsetOfOuter(0.1, Inner(0.5))
    assert to_json({"a": np.float32(0.5), "b": np.int64(3), "c": float("nan")}) == '{"a": 0.5, "b": 3, "c": NaN}'
