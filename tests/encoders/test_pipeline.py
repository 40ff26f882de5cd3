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


@pytest.mark.parametrize(("piece", "first_window"), [(7, 5), (1000, 16), (300, 512), (1, 512)])
def test_every_text_comes_out_once_whatever_the_pieces(
    toy_base: Path, monkeypatch, piece: int, first_window: int
) -> None:
    monkeypatch.setattr(pipeline, "_FIRST_WINDOW", first_window)
    texts = toy_texts(700)
    tokenizer, stages = Tokenizer(toy_base / "tokenizer.json", 32), Stages()
    pieces = ((np.arange(at, min(at + piece, 700)), texts[at : at + piece]) for at in range(0, 700, piece))
    runtime = FakeRuntime(8)
    runtime.max_batch_tokens = 256
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


def test_ahead_keeps_order_raises_and_stops_its_thread() -> None:
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
