"""Which texts of a corpus a process computes: those of a shard, by digest, or all that are missing in the store.

Neither needs the digests of the whole corpus in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from loid_infer.kernels.unique import first_rows, prefixes
from loid_infer.types import DIGEST_BYTES, Array, Bools, Corpus, Digests, Ints, Progress

Stored = Callable[[Digests], Bools]  # whether each of digests [n, 16] needs no work, [n]
_BUCKET_ROWS = 65_536
_MAX_BUCKETS = 512  # files that are written at once
_ZEROS = 1 << 20
_RECORD = [("digest", f"V{DIGEST_BYTES}"), ("row", "<i8")]


def shard_rows(corpus: Corpus, shard: int, n_shards: int, progress: Progress) -> tuple[Ints, Digests]:
    """The rows `[m]` of a shard, ascending, and their digests `[m, 16]`; of equal texts the first.

    A text belongs to the shard that its digest says, so equal texts belong to one, and a shard is a random sample.
    """
    rows: list[Ints] = [np.zeros(0, np.int64)]
    parts: list[Digests] = [np.zeros((0, DIGEST_BYTES), np.uint8)]
    for start, digests in corpus.pieces(progress):
        inside = np.flatnonzero(shards_of(digests, n_shards) == shard)
        rows.append(start + inside)
        parts.append(digests[inside])
    all_rows, digests = np.concatenate(rows), np.concatenate(parts)
    first = first_rows(digests)
    return all_rows[first], digests[first]


def shards_of(digests: Digests, n_shards: int) -> Ints:
    """The shard of each of `digests [n, 16]`, `[n]`: its first 8 bytes as a number, modulo the number of shards."""
    return (prefixes(digests) % np.uint64(n_shards)).astype(np.int64)


def missing_rows(corpus: Corpus, stored: Stored, folder: Path, progress: Progress) -> tuple[Bools, int]:
    """Whether each text is the first of its kind and not `stored`, `[n_rows]`, and the number of different texts.

    The answer is a view of a file in the empty `folder`.

    Digests are sorted into files of neighbors first, so equal ones meet, and lookups of a store touch few pages.
    """
    with (folder / "missing").open("wb") as file:  # written, since a map of a file without its disk space may crash
        for start in range(0, max(corpus.n_rows, 1), _ZEROS):
            file.write(bytes(min(_ZEROS, max(corpus.n_rows, 1) - start)))
    missing: Array = np.memmap(folder / "missing", np.bool_, "r+")
    n_buckets = min(max(corpus.n_rows // _BUCKET_ROWS, 1), _MAX_BUCKETS)
    for start, digests in corpus.pieces(progress):
        buckets = ((prefixes(digests) >> np.uint64(32)) * np.uint64(n_buckets)) >> np.uint64(32)
        order = np.argsort(buckets, kind="stable")
        records = np.empty(len(digests), _RECORD)
        records["digest"] = np.ascontiguousarray(digests[order]).view(f"V{DIGEST_BYTES}").ravel()
        records["row"] = start + order
        bounds = np.searchsorted(buckets[order], np.arange(n_buckets + 1))
        for bucket in np.flatnonzero(np.diff(bounds)).tolist():
            with (folder / f"{bucket}.rows").open("ab") as file:
                file.write(records[bounds[bucket] : bounds[bucket + 1]].tobytes())
    n_unique = 0
    for path in sorted(folder.glob("*.rows")):
        records = np.fromfile(path, _RECORD)
        digests = np.ascontiguousarray(records["digest"]).view(np.uint8).reshape(-1, DIGEST_BYTES)
        first = first_rows(digests)
        missing[records["row"][first[~stored(digests[first])]]] = True
        n_unique += len(first)
        path.unlink()
    return missing[: corpus.n_rows], n_unique
