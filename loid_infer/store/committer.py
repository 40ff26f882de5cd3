"""Collects vectors into chunks and commits them in a background thread.

A chunk is closed when it is full or a few seconds old, so a killed run loses little work.
"""

from __future__ import annotations

import queue
import threading
import time

import numpy as np

from loid_infer.errors import ParityError
from loid_infer.store.records import DTYPES
from loid_infer.store.writer import CHUNK_ROWS, StoreWriter
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats

_MAX_CHUNK_S = 5.0
# Maximum number of chunks in the queue. They are committed in one transaction, which copies the index pages it changes:
# a longer queue is faster but leaves a larger file.
_MAX_WAITING = 8


class Committer:
    """Feeds a writer from a thread. On exit of the context everything added is committed, also after an error."""

    def __init__(self, writer: StoreWriter, dim: int) -> None:
        self.commit_s = 0.0
        self._writer = writer
        self._digests: Array = np.empty((CHUNK_ROWS, DIGEST_BYTES), np.uint8)
        self._vectors: Array = np.empty((CHUNK_ROWS, dim), DTYPES[writer.reader.environment.spec.store_dtype])
        self._n, self._opened = 0, time.monotonic()
        self._queue: queue.Queue[tuple[Digests, Floats] | None] = queue.Queue(_MAX_WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="commit", daemon=True)

    def add(self, digests: Digests, vectors: Floats) -> None:
        """Add `vectors [n, dim]`, float32 or float16, of the texts with `digests [n, 16]`.

        Raises ParityError if the vectors have another width or are not finite in the stored dtype; none is committed.
        Raises NoSpace if an earlier chunk could not be committed.
        """
        if self._failure is not None:
            raise self._failure
        with np.errstate(over="ignore"):
            stored = vectors.astype(self._vectors.dtype, copy=False)  # copied below
        expected = (len(digests), self._vectors.shape[1])
        if stored.shape != expected:
            what = f"the runtime returned vectors of the wrong shape {stored.shape}"
            raise ParityError(what, expected=str(expected), fix="Choose another --runtime.")
        if not np.isfinite(stored).all():
            what = f"the runtime returned a vector that is not finite in {stored.dtype}"
            fix = "Export with --store fp32 if the encoder's values are large, else choose another --runtime."
            raise ParityError(what, fix=fix)
        at = 0
        while at < len(stored):
            n = min(len(stored) - at, CHUNK_ROWS - self._n)
            self._digests[self._n : self._n + n] = digests[at : at + n]
            self._vectors[self._n : self._n + n] = stored[at : at + n]
            self._n, at = self._n + n, at + n
            if self._n == CHUNK_ROWS or time.monotonic() - self._opened > _MAX_CHUNK_S:
                self._close_chunk()

    def _close_chunk(self) -> None:
        n, self._n, self._opened = self._n, 0, time.monotonic()
        if n:
            self._queue.put((self._digests[:n].copy(), self._vectors[:n].copy()))

    def _work(self) -> None:
        ended = False
        while not ended:
            # Commit all waiting chunks in one transaction: the slower the disk, the fewer and larger the syncs.
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            chunks = [chunk for chunk in waiting if chunk is not None]
            ended = len(chunks) < len(waiting)
            if self._failure is None and chunks:
                start = time.perf_counter()
                try:
                    self._writer.append(*chunks)
                except BaseException as error:  # noqa: BLE001 - raised again by `add`
                    self._failure = error
                self.commit_s += time.perf_counter() - start

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._close_chunk()
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure
