import threading
import time
from pathlib import Path

import numpy as np
import pytest

from loid_infer.encoders import pipeline
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.pipeline import Stages, ahead, encode_stream
from loid_infer.encoders.tokens import Tokenizer
from tests.conftest import toy_texts


@pytest.mark.parametrize(
    ("piece", "first_window", "n_tokenizers"),
    [(7, 5, 1), (1000, 16, 1), (300, 512, 1), (1, 512, 1), (7, 5, 4), (1000, 16, 3), (1, 512, 2)],
)
def test_every_text_is_encoded_once_for_all_sizes_of_pieces(
    toy_base: Path, monkeypatch, piece: int, first_window: int, n_tokenizers: int
) -> None:
    monkeypatch.setattr(pipeline, "_FIRST_WINDOW", first_window)
    monkeypatch.setattr(pipeline, "_PIECE", 50)
    texts = toy_texts(700)
    tokenizer, stages = Tokenizer(toy_base / "tokenizer.json", 32), Stages()
    pieces = (
        (np.arange(start, min(start + piece, 700)), texts[start : start + piece]) for start in range(0, 700, piece)
    )
    runtime = FakeRuntime(8)
    runtime.max_batch_tokens, runtime.n_tokenizers = 256, n_tokenizers
    slots, vectors = zip(*encode_stream(pieces, tokenizer, runtime, stages), strict=True)
    order = np.argsort(np.concatenate(slots))
    assert np.concatenate(slots)[order].tolist() == list(range(700))
    alone = [
        next(encode_stream(iter([(np.zeros(1, int), [text])]), tokenizer, FakeRuntime(8), Stages()))[1][0]
        for text in texts[:40]
    ]
    np.testing.assert_array_equal(np.concatenate(vectors)[order][:40], alone)
    lengths = tokenizer(texts).lengths
    assert stages.n_tokens == lengths.sum()
    assert stages.n_truncated == tokenizer(texts).n_truncated > 0
    assert 0 <= stages.padding < 0.5


def test_ahead_keeps_the_order_raises_errors_and_stops_its_thread() -> None:
    assert list(ahead(iter(range(100)), 3)) == list(range(100))

    def failing():
        yield 1
        raise OSError("lost the file")

    items = ahead(failing(), 1)
    assert next(items) == 1
    with pytest.raises(OSError, match="lost the file"):
        next(items)

    before = threading.active_count()
    endless = ahead(iter(int, 1), 1)
    next(endless)
    endless.close()
    time.sleep(0.2)
    assert threading.active_count() == before


@pytest.mark.parametrize("n_tokenizers", [1, 3])
def test_a_closed_stream_leaves_no_thread_and_errors_of_the_source_are_raised(
    toy_base: Path, n_tokenizers: int
) -> None:
    def pieces():
        for _ in range(40):
            yield np.arange(100), toy_texts(100)
        raise OSError("lost the file")

    tokenizer, runtime, before = Tokenizer(toy_base / "tokenizer.json", 32), FakeRuntime(8), threading.active_count()
    runtime.n_tokenizers = n_tokenizers
    stream = encode_stream(pieces(), tokenizer, runtime, Stages())
    next(stream)
    stream.close()
    assert threading.active_count() == before
    with pytest.raises(OSError, match="lost the file"):
        list(encode_stream(pieces(), tokenizer, runtime, Stages()))
    assert threading.active_count() == before
