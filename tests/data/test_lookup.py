import numpy as np
import pytest

from loid_infer.data import lookup
from loid_infer.data.lookup import IdTable

IDS = [
    "",
    "a",
    "ä",
    "12345678",
    "123456789",
    "1234567",
    "x" * 16,
    "x" * 15 + "y",
    "x" * 1000,
    "x" * 1001,
    "\0",
    "\0\0",
    "😀" * 9,
]


def test_every_known_id_is_found_and_no_other():
    others = ["b", "123456780", "x" * 17, "x" * 999, "ä ", "\0\0\0", "12345678 "]
    table = IdTable(IDS)
    assert table.codes(IDS).tolist() == list(range(len(IDS)))
    assert table.codes(others).tolist() == [-1] * len(others)
    assert table.codes(IDS[::-1] + others + IDS[:3]).tolist()[-3:] == [0, 1, 2]
    assert table.codes([]).tolist() == [] and IdTable([]).codes(["a", ""]).tolist() == [-1, -1]


def test_it_is_a_dictionary():
    rng = np.random.default_rng(0)
    names = [f"{prefix}{n}" for prefix in ("u", "user-", "A2YK4") for n in rng.permutation(20_000).tolist()]
    codes = {name: code for code, name in enumerate(names[:30_000])}
    wanted = [names[row] for row in rng.integers(0, len(names), 50_000)]
    assert IdTable(names[:30_000]).codes(wanted).tolist() == [codes.get(name, -1) for name in wanted]


@pytest.mark.parametrize("bits", [0, 3])
def test_ids_of_one_hash_are_told_apart(monkeypatch, bits):
    mix = lookup.mix
    monkeypatch.setattr(lookup, "mix", lambda values: mix(values) & np.uint64((1 << bits) - 1))
    names = [*IDS, *map(str, range(300))]
    table = IdTable(names)
    assert table.codes(names).tolist() == list(range(len(names)))
    assert table.codes(["no", "301", "x" * 14]).tolist() == [-1] * 3
