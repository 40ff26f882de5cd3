"""Corpora that are not tables: texts in memory, and files with the digests of encoded corpora for `cache gc`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.errors import BadTable
from loid_infer.settings import slug
from loid_infer.types import DIGEST_BYTES, Array, Corpus, Digests, Ints, Progress, check_texts

_PIECE_TEXTS = 4_096
_DIGEST_ROWS = 65_536


class Texts:
    """A corpus of texts in memory: item titles, user histories, prompts."""

    def __init__(self, name: str, texts: Iterable[str]) -> None:
        """`texts [n]` may contain duplicates. Raises BadName if `name` is not a slug, and see `check_texts`."""
        self.name, self._texts = slug(name, "corpus"), check_texts(texts, name)

    @property
    def n_rows(self) -> int:
        """Number of texts."""
        return len(self._texts)

    @property
    def digest(self) -> str:
        """See `Corpus`."""
        return sha256(digests_of(self._texts).tobytes()).hexdigest()

    def digests(self, progress: Progress) -> Digests:
        """See `Corpus`."""
        return digests_of(self._texts)

    def pieces(self, progress: Progress) -> Iterator[tuple[int, Digests]]:
        """See `Corpus`."""
        for at in range(0, len(self._texts), _DIGEST_ROWS):
            yield at, digests_of(self._texts[at : at + _DIGEST_ROWS])

    def texts(self, rows: Ints) -> Iterator[tuple[Ints, Sequence[str]]]:
        """See `Corpus`."""
        for at in range(0, len(rows), _PIECE_TEXTS):
            part = rows[at : at + _PIECE_TEXTS]
            yield part, [self._texts[row] for row in part.tolist()]


def digests_of(texts: Sequence[str]) -> Digests:
    """blake2b-128 of the UTF-8 bytes of each of `texts [n]`, `[n, 16]`: the key of a text in a store."""
    return hashed(map(str.encode, texts))


def hashed(contents: Iterable[bytes | memoryview]) -> Digests:
    """blake2b-128 of each of n `contents`, `[n, 16]`."""
    joined = b"".join([blake2b(content, digest_size=DIGEST_BYTES).digest() for content in contents])
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def checked_texts(corpus: Corpus, rows: Ints, digests: Digests) -> Iterator[tuple[Ints, Sequence[str]]]:
    """`corpus.texts(rows)`, the texts of the ascending `rows [m]` compared with their `digests [m, 16]`.

    Raises BadTable if a text has changed since its digest was computed, and see `check_texts`.
    """
    at = 0
    for part, texts in corpus.texts(rows):
        try:
            same = np.array_equal(digests_of(texts), digests[at : at + len(part)])
        except (UnicodeEncodeError, TypeError):
            check_texts(texts, corpus.name)
            raise
        if not same:
            raise BadTable("the texts changed while being read", where=corpus.name, fix="Run the same command again.")
        at += len(part)
        yield part, texts


def record(path: Path, digests: Digests) -> None:
    """Write `digests [n, 16]` to the file `path`. Raises NoSpace if that fails."""
    with new_file(path) as temporary:
        temporary.write_bytes(np.ascontiguousarray(digests).tobytes())


def recorded(path: Path) -> Digests:
    """Read the digests `[n, 16]` written by `record`. Raises BadTable if the file is damaged."""
    content: Array = np.fromfile(path, np.uint8)
    if len(content) % DIGEST_BYTES:
        what = f"an invalid file of digests: its {len(content):,} bytes are not a multiple of {DIGEST_BYTES} bytes"
        raise BadTable(what, where=str(path), fix="Encode that corpus again, or remove the file.")
    return content.reshape(-1, DIGEST_BYTES)
