"""Texts that are encoded though no table holds them: in memory, and as the digests by which `cache gc` keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.errors import BadTable
from loid_infer.settings import slug
from loid_infer.types import DIGEST_BYTES, Array, Corpus, Digests, Ints, Progress, check_texts

_PIECE_TEXTS = 4_096


class Texts:
    """A corpus of texts in memory: item titles, user histories, prompts."""

    def __init__(self, name: str, texts: Iterable[str]) -> None:
        """Name `texts [n]`, which may repeat.

        Raises:
            BadName: `name` is no slug.
            BadSetting: not a sequence of Unicode texts.
        """
        self.name, self._texts = slug(name, "corpus"), check_texts(texts, name)

    @property
    def n_rows(self) -> int:
        """Number of texts."""
        return len(self._texts)

    def digests(self, progress: Progress) -> Digests:
        """See `Corpus`."""
        return digests_of(self._texts)

    def texts(self, rows: Ints) -> Iterator[tuple[Ints, Sequence[str]]]:
        """See `Corpus`."""
        for at in range(0, len(rows), _PIECE_TEXTS):
            part = rows[at : at + _PIECE_TEXTS]
            yield part, [self._texts[row] for row in part.tolist()]


def digests_of(texts: Sequence[str]) -> Digests:
    """blake2b-128 of the UTF-8 bytes of each of `texts [n]`, `[n, 16]`: what a text is known by in every store."""
    joined = b"".join([blake2b(text.encode(), digest_size=DIGEST_BYTES).digest() for text in texts])
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def checked_texts(corpus: Corpus, rows: Ints, digests: Digests) -> Iterator[tuple[Ints, Sequence[str]]]:
    """What `corpus.texts` gives, each text compared with its row of `digests [n_rows, 16]`.

    Raises:
        BadTable: the texts are others than when their digests were taken.
        BadSetting: something is no text.
    """
    for found, texts in corpus.texts(rows):
        try:
            same = np.array_equal(digests_of(texts), digests[found])
        except (UnicodeEncodeError, AttributeError):
            check_texts(texts, corpus.name)
            raise
        if not same:
            raise BadTable(
                "the texts were replaced while they were being read",
                where=corpus.name,
                fix="Run the same command again.",
            )
        yield found, texts


def record(path: Path, digests: Digests) -> None:
    """Keep `digests [n, 16]` in the file `path`.

    Raises:
        NoSpace: it cannot be written.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(np.ascontiguousarray(digests).tobytes())


def recorded(path: Path) -> Digests:
    """What `record` kept.

    Raises:
        BadTable: it is something else.
    """
    content: Array = np.fromfile(path, np.uint8)
    if len(content) % DIGEST_BYTES:
        raise BadTable(
            "not the digests of a corpus",
            where=str(path),
            expected=f"a multiple of {DIGEST_BYTES} bytes",
            got=str(len(content)),
            fix="Encode that corpus again, or remove the file.",
        )
    return content.reshape(-1, DIGEST_BYTES)
