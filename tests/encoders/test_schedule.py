import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loid_infer.encoders.schedule import Schedule, padded_lengths, token_batches, widths
from loid_infer.types import TokenBatch

WINDOWS = st.lists(st.lists(st.integers(1, 150), max_size=60), min_size=1, max_size=4)


def run(
    windows: list[list[int]], budget: int, max_tokens: int, tile: int
) -> tuple[list[TokenBatch], list[TokenBatch], dict]:
    """Batches of `add`, batches of `rest`, and the ids of every text by slot."""
    schedule, early, ids = Schedule(budget, max_tokens, tile), [], {}
    for lengths in windows:
        slots = np.arange(len(lengths)) + 1000 + len(ids)
        texts = {int(slot): [int(slot) * 100 + i for i in range(n)] for slot, n in zip(slots, lengths, strict=True)}
        ids |= texts
        flat = np.array([i for text in texts.values() for i in text], np.int64)
        early += schedule.add(slots, flat, np.array(lengths, np.int64))
    return early, list(schedule.rest()), ids


@given(WINDOWS, st.integers(1, 600), st.sampled_from([1, 16]))
def test_batches_contain_every_text_once_within_the_budget(windows: list[list[int]], budget: int, tile: int) -> None:
    early, rest, ids = run(windows, budget, 150, tile)
    texts = {}
    for batch in (*early, *rest):
        n, width = batch.input_ids.shape
        assert n == 1 or n * width <= budget
        assert batch.n_tokens == batch.attention_mask.sum()
        for slot, row, mask in zip(batch.slots, batch.input_ids, batch.attention_mask, strict=True):
            assert slot not in texts
            assert (np.diff(mask) <= 0).all(), "padding is on the right"
            texts[int(slot)] = row[mask == 1].tolist()
            assert (row[mask == 0] == 0).all()
            assert width == min(padded_lengths(mask.sum(), tile), 150), "the width depends on the text only"
    assert texts == ids
    assert all(len(batch.slots) == max(1, budget // batch.input_ids.shape[1]) for batch in early), "full or waiting"
    found = [batch.input_ids.shape[1] for batch in rest]
    assert found == sorted(found, reverse=True), "longest first"


def test_widths_are_few_and_little_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(3, 257, 20_000)
    batches = list(token_batches(np.arange(len(lengths)), np.zeros(lengths.sum(), np.int32), lengths, 2048, 256))
    assert len({batch.input_ids.shape[1] for batch in batches}) <= 8 + 28 + 17
    assert sum(batch.input_ids.size for batch in batches) <= 1.025 * lengths.sum()


def test_widths_are_multiples_of_a_tile_unless_that_pads_by_more_than_a_fifth() -> None:
    found = widths(256, 16).tolist()
    assert found == [2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 36, 48, 52, *range(64, 257, 16)]
    assert set(found) <= {*widths(256).tolist()}, "so what was proven without tiles stays proven"
    lengths = np.arange(1, 257)
    assert (padded_lengths(lengths, 16) <= 1.2 * padded_lengths(lengths)).all()
    assert widths(70, 16).tolist()[-2:] == [64, 70], "the limit holds"


def test_widths_are_limited_by_the_maximum_length() -> None:
    (batch,) = token_batches(np.arange(1), np.ones(253, np.int32), np.array([253]), 2048, 254)
    assert batch.input_ids.shape == (1, 254)
