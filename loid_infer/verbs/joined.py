"""Vectors of joined histories: from the store, to which those that are missing are written first."""

from __future__ import annotations

import threading

import numpy as np

from loid_infer.data.corpora import Texts
from loid_infer.data.sequences import Histories
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import NotEncoded
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.settings import Workspace
from loid_infer.store.reader import open_store
from loid_infer.types import SILENT, Digests, Floats, Progress
from loid_infer.verbs.encode import encode_texts


class HistoryReader:
    """A `HistoryVectors` of one encoder. Several threads may call it."""

    def __init__(self, workspace: Workspace, folder: EncoderFolder, joined: JoinedTexts, progress: Progress) -> None:
        """Open `folder` when a text is missing for the first time."""
        self._folder, self._joined, self._workspace = folder, joined, workspace
        self._encoder = Encoder.open(folder, workspace=workspace, progress=progress)
        self._lock = threading.Lock()

    def __call__(self, histories: Histories) -> Floats:
        """The vectors `[n, d]` float32 of n histories, 0 for those without text.

        Raises:
            RuntimeMissing, ParityError, StoreBusy, BadStore, NoSpace: see `encode`.
        """
        texts = self._joined(histories)
        filled = np.flatnonzero([bool(text) for text in texts])
        vectors = np.zeros((histories.n, self._folder.spec.dim), np.float32)
        if len(filled):
            corpus = Texts("histories", [texts[row] for row in filled.tolist()])
            digests = corpus.digests(SILENT)
            with self._lock:
                try:
                    vectors[filled] = self._stored(digests)
                except NotEncoded:
                    encode_texts(corpus, self._encoder, workspace=self._workspace)
                    vectors[filled] = self._stored(digests)
        return vectors

    def _stored(self, digests: Digests) -> Floats:
        folder, fix = self._folder, "Run the same command again."
        with open_store(self._workspace.store(folder.fingerprint), folder.spec, folder.fingerprint, fix) as store:
            return store.gather(store.rows_of(digests, fix), digests)
