from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loid_infer.encoders import tokens as module
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact


def test_ids_are_those_of_transformers(toy_base: Path) -> None:
    import transformers

    reference = transformers.AutoTokenizer.from_pretrained(toy_base)
    texts = ["great guitar", "", "the plot was " * 30, "a", "👍 naïve", "x" * 300]
    tokens = Tokenizer(toy_base / "tokenizer.json", 20)(texts)
    expected = reference(texts, truncation=True, max_length=20, padding=False)["input_ids"]
    parts = np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])
    assert [part.tolist() for part in parts] == expected
    assert tokens.n_truncated == sum(len(ids) > 20 for ids in reference(texts)["input_ids"]) == 1
    assert tokens.lengths.max() == 20


PIECES = [
    *"aZ09 .,'\"-_[]#\t\n\x00\x0b\x7f\x85é好👍",
    "Guitar",
    "strings",
    "[SEP]",
    "[MASK]",
    "x" * 120,
    "don't",
    "##a",
    "\u00a0",
]


TEXTS = st.lists(st.lists(st.sampled_from(PIECES) | st.characters(max_codepoint=200), max_size=40).map("".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from([3, 5, 20, 512]))
def test_looked_up_ids_are_those_of_the_rust_tokenizer(toy_base: Path, texts: list[str], max_tokens: int) -> None:
    assert_equal_to_rust(Tokenizer(toy_base / "tokenizer.json", max_tokens), toy_base, texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_looked_up_ids_are_the_same_with_a_small_table_and_small_blocks(
    toy_base: Path, batches: list[list[str]]
) -> None:
    """Covers hash collisions and emptying the table."""
    with pytest.MonkeyPatch.context() as patch:
        for name, small in (("_TABLE_BITS", 7), ("_MAX_WORDS", 20), ("_BLOCK_CHARS", 60)):
            patch.setattr(module, name, small)
        tokenizer = Tokenizer(toy_base / "tokenizer.json", 20)
        for texts in batches:
            assert_equal_to_rust(tokenizer, toy_base, texts)


def assert_equal_to_rust(tokenizer: Tokenizer, toy_base: Path, texts: list[str]) -> None:
    import tokenizers

    rust = tokenizers.Tokenizer.from_file(str(toy_base / "tokenizer.json"))
    rust.no_padding()
    rust.enable_truncation(tokenizer.max_tokens)
    expected = rust.encode_batch(texts)
    tokens = tokenizer(texts)
    assert tokens.flat_ids.tolist() == [i for encoding in expected for i in encoding.ids]
    assert tokens.lengths.tolist() == [len(encoding.ids) for encoding in expected]
    assert tokens.n_truncated == sum(bool(encoding.overflowing) for encoding in expected)
    assert (tokens.flat_ids.dtype, tokens.lengths.dtype) == (np.int32, np.int64)


def test_words_with_common_prefixes_are_distinguished(toy_base: Path) -> None:
    """Keys are 8 and 8 bytes; longer words have none."""
    tokenizer = Tokenizer(toy_base / "tokenizer.json", 512)
    texts = [("ab" * 20)[:n] + end for n in range(1, 40) for end in ("", "a", "b", "A", "9", " a")]
    assert_equal_to_rust(tokenizer, toy_base, texts)
    assert_equal_to_rust(tokenizer, toy_base, texts[::-1])


def test_long_words_are_tokenized_together_and_the_longest_not_stored(toy_base: Path) -> None:
    tokenizer = Tokenizer(toy_base / "tokenizer.json", 512)
    assert tokenizer._words is not None
    calls, original = [], tokenizer._words._tokenize
    tokenizer._words._tokenize = lambda words: (calls.append(len(words)), original(words))[1]
    texts = [" ".join(f"longerthansixteen{i}x{j}" for j in range(20)) + " " + "z" * 101 for i in range(100)]
    assert_equal_to_rust(tokenizer, toy_base, texts)
    assert calls == [2001], "each word must be tokenized once, in one call"
    assert_equal_to_rust(tokenizer, toy_base, texts)
    assert calls == [2001, 1], "the longest word is tokenized again"


def test_a_tokenizer_with_an_added_token_of_letters_is_not_replaced(toy_base: Path, tmp_path: Path) -> None:
    import tokenizers

    rust = tokenizers.Tokenizer.from_file(str(toy_base / "tokenizer.json"))
    rust.add_special_tokens(["usertag"])
    rust.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 20)
    assert tokenizer._words is None
    assert_equal_to_rust(tokenizer, tmp_path, ["UserTag likes it", "xUSERTAGy", "usertag"])


def test_a_copy_gives_the_same_ids_and_shares_no_table(toy_base: Path) -> None:
    tokenizer = Tokenizer(toy_base / "tokenizer.json", 20)
    copied = tokenizer.copy()
    texts = ["Great guitar, 10/10!", "naïve", "the plot was " * 30]
    assert tokenizer(texts).flat_ids.tolist() == copied(texts).flat_ids.tolist()
    assert tokenizer._words is not copied._words
    assert tokenizer._words is not None
    assert len(tokenizer._words._counts) > 0


def test_only_plain_texts_are_looked_up(toy_base: Path) -> None:
    texts = ["", "Great\tguitar, 10/10!", "naïve", "a\x00b", "the [MASK] is", "[a] list", "a\x7f"]
    plain = Tokenizer(toy_base / "tokenizer.json", 20)._plain(texts)
    assert plain.tolist() == [True, True, False, False, False, True, False]


@pytest.mark.parametrize(
    "change", [{"normalizer": None}, {"pre_tokenizer": {"type": "Whitespace"}}, {"post_processor": None}]
)
def test_a_tokenizer_with_other_rules_is_not_replaced(toy_base: Path, tmp_path: Path, change: dict) -> None:
    import json

    parts = json.loads((toy_base / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**parts, **change}))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 20)
    assert tokenizer._words is None
    assert len(tokenizer(["Great guitar"]).flat_ids)


def test_a_full_table_is_emptied(toy_base: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_MAX_WORDS", 3)
    tokenizer = Tokenizer(toy_base / "tokenizer.json", 20)
    texts = ["great guitar case cable plot", "the great guitar"]
    first = tokenizer(texts).flat_ids.tolist()
    assert tokenizer._words is not None
    assert len(tokenizer._words._counts) == 6
    assert tokenizer(texts[1:]).flat_ids.tolist() == first[-5:]
    assert len(tokenizer._words._counts) == 3


def test_no_texts_are_no_tokens(toy_base: Path) -> None:
    tokens = Tokenizer(toy_base / "tokenizer.json", 20)([])
    assert (len(tokens.flat_ids), len(tokens.lengths), tokens.n_truncated) == (0, 0, 0)


def test_an_invalid_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadArtifact, match=r"tokenizer\.json: the tokenizer cannot be read"):
        Tokenizer(tmp_path / "tokenizer.json", 20)


@pytest.mark.parametrize(
    ("kind", "unknown_id", "counts"),
    [
        ("WordLevel", 1, [0, 1, 2, 0]),
        ("Unigram", 1, [0, 1, 2, 0]),
        ("byte level", -1, [0, 0, 0, 0]),  # every byte has a token
        ("dropped", -1, [0, 0, 0, 0]),
    ],
)
def test_unknown_tokens_are_counted(tmp_path: Path, kind: str, unknown_id: int, counts: list[int]) -> None:
    import tokenizers
    from tokenizers import models, pre_tokenizers

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    model = {
        "WordLevel": models.WordLevel({"great": 0, "?": 1}, unk_token="?"),
        "Unigram": models.Unigram([("great", -1.0), ("?", -9.0)], unk_id=1),
        "byte level": models.BPE(alphabet, []),
        "dropped": models.BPE({letter: i for i, letter in enumerate("aegrt")}, []),
    }[kind]
    rust = tokenizers.Tokenizer(model)
    is_bytes = kind == "byte level"
    rust.pre_tokenizer = pre_tokenizers.ByteLevel() if is_bytes else pre_tokenizers.WhitespaceSplit()
    rust.save(str(tmp_path / "tokenizer.json"))
    tokenizer, texts = Tokenizer(tmp_path / "tokenizer.json", 20, empty_id=0), ["great", "great 👍", "👍 👍 great", ""]
    assert tokenizer.unknown_id == unknown_id
    tokens = tokenizer(texts)
    assert int((tokens.flat_ids == tokenizer.unknown_id).sum()) == sum(counts)
    assert tokenizer.mostly_unknown(tokens).tolist() == [n == 2 for n in counts]
