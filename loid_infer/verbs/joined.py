"""Vectors of texts that a head makes: from the store, to which those that are missing are written first."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from loid_infer.data.corpora import Texts
from loid_infer.data.sequences import Histories
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import NotEncoded
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.settings import Workspace
from loid_infer.store.reader import StoreReader, open_store
from loid_infer.types import Digests, Floats, Ints, Progress
from loid_infer.verbs.encode import encode_corpus, encode_texts

_FIX = "Run the same command again."


class TextReader:
    """Texts to their vectors of one encoder. Several threads may call it."""

    def __init__(
        self, workspace: Workspace, folder: EncoderFolder, name: str, progress: Progress, *, keep: bool = False
    ) -> None:
        """The runtime of `folder` is opened when a text is missing for the first time.

        `name` is that of the corpus. With `keep`, `cache gc` keeps the texts that were missing last.
        """
        self._folder, self._name, self._workspace, self._progress = folder, name, workspace, progress
        self._encode = encode_corpus if keep else encode_texts
        self._encoder = Encoder.open(folder, workspace=workspace, progress=progress)
        self._lock = threading.Lock()
        self._store: StoreReader | None = None  # kept open, so that chunks are checked once

    def prepare(self, texts: Sequence[str]) -> None:
        """Store the vectors of these texts in one go; empty ones have none.

        Raises:
            RuntimeMissing, ParityError, StoreBusy, BadStore, NoSpace: see `encode`.
        """
        texts = [text for text in texts if text]
        if texts:
            with self._lock:
                self._rows(Texts(self._name, texts))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """The vectors `[n, d]` float32 of `texts [n]`, 0 for those that are empty; errors as in `prepare`."""
        filled = np.flatnonzero([bool(text) for text in texts])
        vectors = np.zeros((len(texts), self._folder.spec.dim), np.float32)
        if len(filled):
            with self._lock:
                store, rows, digests = self._rows(Texts(self._name, [texts[row] for row in filled.tolist()]))
                vectors[filled] = store.gather(rows, digests)
        return vectors

    def _rows(self, corpus: Texts) -> tuple[StoreReader, Ints, Digests]:
        """Where the vectors of the corpus are, of which those that are missing are computed first."""
        digests = corpus.digests(self._progress)
        try:
            store = self._opened()
            return store, store.rows_of(digests, _FIX), digests
        except NotEncoded:
            self._close()
            self._encode(corpus, self._encoder, workspace=self._workspace, progress=self._progress)
            store = self._opened()
            return store, store.rows_of(digests, _FIX), digests

    def _opened(self) -> StoreReader:
        if self._store is None:
            folder = self._folder
            self._store = open_store(self._workspace.store(folder.fingerprint), folder.spec, folder.fingerprint, _FIX)
        return self._store

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


class HistoryReader:
    """A `HistoryVectors` of one encoder, which reads joined texts."""

    def __init__(self, workspace: Workspace, folder: EncoderFolder, joined: JoinedTexts, progress: Progress) -> None:
        self._joined, self._reader = joined, TextReader(workspace, folder, "histories", progress)

    def prepare(self, histories: Histories) -> None:
        """Store the vectors of these histories in one go; see `TextReader`."""
        self._reader.prepare(self._joined(histories))

    def __call__(self, histories: Histories) -> Floats:
        """The vectors `[n, d]` float32 of n histories, 0 for those without text."""
        return self._reader(self._joined(histories))
