"""Histories as texts."""

import numpy as np
import pytest

from loid_infer.data.sequences import Histories
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.rankers.joined import JoinedTexts

TITLES = ["guitar case; ", "great string; ", "", "battery; ", "cable; "]


@pytest.fixture(scope="module")
def tokenizer_of(toy_base):
    return lambda max_tokens=64, prompt="": Tokenizer(toy_base / "tokenizer.json", max_tokens, prompt)


def histories(*lists: list[int]) -> Histories:
    ends = np.cumsum([len(items) for items in lists])
    starts = ends - [len(items) for items in lists]
    return Histories(np.arange(len(lists)), starts, ends, np.array([item for items in lists for item in items], int))


def test_a_history_is_the_texts_of_its_items_the_oldest_first(tokenizer_of) -> None:
    joined = JoinedTexts.of(TITLES, tokenizer_of(), 40)
    assert joined(histories([0, 1], [3, 2, 4], [2], [])) == ["guitar case; great string;", "battery; cable;", "", ""]
    assert joined.has_text.tolist() == [True, True, False, True, True]


def test_a_history_has_the_last_ten_items_that_have_a_text(tokenizer_of) -> None:
    joined = JoinedTexts.of(TITLES, tokenizer_of(), 40)
    [text] = joined(histories([0, *[2, 3] * 9, 1]))
    assert text == "battery; " * 9 + "great string;"


@pytest.mark.parametrize(("max_tokens", "prompt"), [(10, ""), (11, ""), (16, "query: ")])
def test_what_does_not_fit_into_the_encoder_is_the_oldest_and_nothing_is_truncated(
    tokenizer_of, max_tokens, prompt
) -> None:
    tokenizer = tokenizer_of(max_tokens, prompt)
    joined = JoinedTexts.of(TITLES, tokenizer, 40)
    texts = joined(histories([0, 1, 3, 4], [4, 3, 1, 0], [3, 4] * 9))
    assert texts[0].endswith("battery; cable;")
    assert not texts[0].startswith("guitar")
    assert tokenizer(texts).n_truncated == 0


def test_a_single_text_that_is_too_long_is_kept(tokenizer_of) -> None:
    long = "guitar " * 50
    assert JoinedTexts.of([long], tokenizer_of(8), 1000)(histories([0])) == [long.strip()]


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 40])
def test_texts_are_cut_after_so_many_tokens_and_stay_apart(tokenizer_of, n_tokens) -> None:
    tokenizer = tokenizer_of()
    joined = JoinedTexts.of(TITLES, tokenizer, n_tokens)
    assert [text[:4] for text in joined.texts] == [text[:4] for text in TITLES]
    counts = tokenizer([text for text in joined.texts if text]).lengths - 2
    assert counts.max() == min(n_tokens, 3)
    [text] = joined(histories([0, 1]))
    assert text.split()[0].startswith("guitar")
    assert "great" in text.split()


def test_cut_does_not_depend_on_the_length_of_the_rest(tokenizer_of) -> None:
    tokenizer = tokenizer_of()
    long = "guitar cable " * 100_000
    assert tokenizer.cut([long, "guitar", ""], 3) == ["guitar cable guitar", "guitar", ""]
    assert tokenizer.cut(["Größe! a"], 2) == ["Größe!"]
