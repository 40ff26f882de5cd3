from pathlib import Path

import numpy as np
import pytest

from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact


def test_ids_are_those_of_transformers(toy_base: Path) -> None:
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(toy_base)
    texts = ["great guitar", "", "the plot was " * 30, "a", "👍 naïve", "x" * 300]
    tokens = Tokenizer(toy_base / "tokenizer.json", 20)(texts)
    expected = theirs(texts, truncation=True, max_length=20, padding=False)["input_ids"]
    parts = np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])
    assert [part.tolist() for part in parts] == expected
    assert tokens.n_truncated == sum(len(ids) > 20 for ids in theirs(texts)["input_ids"]) == 1
    assert tokens.lengths.max() == 20


def test_no_texts_are_no_tokens(toy_base: Path) -> None:
    tokens = Tokenizer(toy_base / "tokenizer.json", 20)([])
    assert (len(tokens.flat_ids), len(tokens.lengths), tokens.n_truncated) == (0, 0, 0)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadArtifact, match=r"tokenizer\.json: the tokenizer cannot be read"):
        Tokenizer(tmp_path / "tokenizer.json", 20)
