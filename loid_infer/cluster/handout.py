"""Hands out texts: files of them in the folder of a run, and the encoder where that is at an address."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from loid_infer.cluster.workers import texts_name
from loid_infer.data.addresses import Folder
from loid_infer.data.parts import write_texts
from loid_infer.types import Bools, Corpus, Progress

_ENCODER = "encoder"
_MAX_TEXTS, _MIN_TEXTS = 8_192, 128
_ROUNDS = 4  # a file has this share of what is left for a worker: the last are small, and all workers end together
_STEP = 65_536


def hand_out(folder: Folder, corpus: Corpus, missing: Bools, n_workers: int, progress: Progress) -> int:
    """Write the texts of `corpus` that are `missing [n_rows]` to files. Returns the number of files."""
    # A worker of an earlier job may still be at its part: names of parts occur once.
    n, n_files, job = int(np.count_nonzero(missing)), 0, uuid.uuid4().hex[:8]
    with progress.task("hand out", n, "texts") as task:
        for texts in _parts(corpus, missing, n_workers * _ROUNDS):
            with folder.new(texts_name(f"{n_files:05d}-{job}")) as path:
                write_texts(path, texts)
            n_files += 1
            task.advance(len(texts))
    return n_files


def _parts(corpus: Corpus, missing: Bools, n_shares: int) -> Iterator[Sequence[str]]:
    waiting: list[str] = []
    n_left = int(np.count_nonzero(missing))
    for start in range(0, len(missing), _STEP):
        rows = start + np.flatnonzero(missing[start : start + _STEP])
        for _, texts in corpus.texts(rows):
            waiting.extend(texts)
            while len(waiting) >= (size := min(_MAX_TEXTS, max(_MIN_TEXTS, -(-n_left // n_shares)))):
                yield waiting[:size]
                waiting, n_left = waiting[size:], n_left - size
    if waiting:
        yield waiting


def share_encoder(folder: Folder, encoder: Path) -> str:
    """The path of the encoder's folder for all machines. If the run is at an address, its files are sent there."""
    if not folder.is_remote:
        return str(encoder.absolute())
    for file in sorted(encoder.iterdir()):
        if file.is_file():
            with folder.new(f"{_ENCODER}/{file.name}") as path:
                shutil.copyfile(file, path)
    return folder.path(_ENCODER)
