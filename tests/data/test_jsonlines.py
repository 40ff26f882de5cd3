"""Lines of JSON and literals of Python: the valid ones are read, the hostile ones refused at once."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loid_infer.data.jsonlines import parse_line
from loid_infer.errors import BadTable

texts = st.text(st.sampled_from("ab'\"\\$ \n\t:{}[](),é#+-f0"), max_size=12)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(texts, values, min_size=1, max_size=5))
def test_what_python_prints_is_read(value):
    assert parse_line(repr(value).encode()) == json.loads(json.dumps(value))


HOSTILE = {
    "a sum": "1+" * 100_000 + "1",
    "a sum within a text": "f'{" + "1+" * 2_000_000 + "1}'",
    "brackets within a text": "f'{" + "(" * 50_000 + "1" + ")" * 50_000 + "}'",
    "calls": "1" + "()" * 80_000,
    "indices": "1" + "[0]" * 80_000,
    "attributes": "a" + ".a" * 80_000,
    "texts side by side": "'a'" * 1_000_000,
    "hidden behind three quotes": "'''a',''' " + "+1" * 1_000_000 + " '",
    "conditions": "1 if 1 else " * 50_000 + "1",
    "functions": "lambda:" * 50_000 + "1",
    "signs": "-" * 100_000 + "1",
    "depth": "[" * 51 + "]" * 51,
    "a digit after another": "1" * 101,
    "values": "[" + "1," * 200_000 + "]",
    "length": "'" + "x" * (1 << 24) + "'",
    "a quote that is not closed": "'" + "\\'" * 1_000_000,
    "quotes": "'\"" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_literals_are_refused_before_they_are_parsed(name, monkeypatch):
    if name != "a quote that is not closed":  # which Python's parser refuses at its first character
        monkeypatch.setattr("ast.literal_eval", lambda text: pytest.fail("parsed"))
    start = time.process_time()
    with pytest.raises(BadTable, match="not JSON"):
        parse_line(("{'a': " + HOSTILE[name] + "}").encode())
    assert time.process_time() - start < 3


def test_a_broken_line_of_json_is_explained_as_json():
    with pytest.raises(BadTable, match="not JSON: Expecting value"):
        parse_line(b'{"a": tru}')
    with pytest.raises(BadTable, match="as a literal of Python it is more than texts, numbers"):
        parse_line(b"{'a': str(1)}")
