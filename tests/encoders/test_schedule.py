import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loid_infer.encoders.schedule import token_batches


@given(st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(1, 200))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    ids = [np.arange(1, n + 1) * 100 + i for i, n in enumerate(lengths)]
    slots = np.arange(len(lengths)) + 1000
    seen = {}
    widths = []
    for batch in token_batches(slots, np.concatenate(ids), np.array(lengths), budget):
        n, width = batch.input_ids.shape
        assert n == 1 or n * width <= budget
        assert batch.n_tokens == batch.attention_mask.sum()
        widths.append(width)
        for slot, row, mask in zip(batch.slots, batch.input_ids, batch.attention_mask, strict=True):
            assert slot not in seen
            assert (np.diff(mask) <= 0).all(), "padding is on the right"
            seen[int(slot)] = row[mask == 1].tolist()
            assert (row[mask == 0] == 0).all()
    assert widths == sorted(widths, reverse=True), "longest first"
    assert seen == {1000 + i: part.tolist() for i, part in enumerate(ids)}
