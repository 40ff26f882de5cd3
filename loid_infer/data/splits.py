"""Splits a domain into training, validation and test reviews (8:1:1), by hash of the pair or by time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash

from loid_infer.artifact import digest_json
from loid_infer.errors import BadSetting
from loid_infer.settings import check_choice
from loid_infer.types import NO_TIME, Array, Floats, Interactions, Split, TrainingRun

_FRACTIONS = (0.8, 0.9)  # ends of the training and validation parts


def split(interactions: Interactions, kind: str, seed: int) -> Split:
    """Assign every review to one of three parts.

    `random`: `x = hash64(seed, user_id, item_id) / 2^64`, training `x < 0.8`, validation `x < 0.9`, else test; a
    review's part depends on its pair only. `time`: cut at the 80 % and 90 % quantiles of the timestamps; the seed is
    only recorded. Raises BadSetting for an unknown kind, a seed of more than 64 bits, a missing timestamp with `time`,
    or an empty part.
    """
    check_choice("split", kind, ("random", "time"))
    cuts: Sequence[float] = _FRACTIONS
    if kind == "random":
        values: Array = pair_positions(interactions, seed)
    else:
        n_missing = int(np.count_nonzero(interactions.timestamps == NO_TIME))
        if n_missing:
            got = f"{n_missing:,} of {interactions.n:,} reviews without one"
            fix = "Use --split random, or ingest with --columns timestamp=NAME."
            raise BadSetting("a split by time needs all timestamps", where="--split time", got=got, fix=fix)
        values = interactions.timestamps
        if interactions.n:
            # Order statistics without interpolation, so that integers are compared exactly.
            cuts = np.sort(values)[[int(fraction * interactions.n) for fraction in _FRACTIONS]].tolist()
    train, test = values < cuts[0], values >= cuts[1]
    valid = ~(train | test)
    sizes = {"training": int(train.sum()), "validation": int(valid.sum()), "test": int(test.sum())}
    if not all(sizes.values()):
        what = "too few reviews for an 8:1:1 split: a part would be empty"
        got = f"{interactions.n:,} reviews: " + ", ".join(f"{n:,} {part}" for part, n in sizes.items())
        fix = "Ingest more reviews" + (", or try another --split-seed." if kind == "random" else ".")
        raise BadSetting(what, where=f"--split {kind}", got=got, fix=fix)
    identity = {"kind": kind, "seed": seed, "fractions": _FRACTIONS, "cuts": cuts if kind == "time" else []}
    return Split(kind, seed, train, valid, test, digest_json(identity))


def refuse_leak(runs: Iterable[TrainingRun], domain: str, split: Split, who: str) -> None:
    """Raise BadSetting if one of the training `runs` of `who` used another split of `domain`.

    What was trained to predict next items saw titles and no review.
    """
    runs = [run for run in runs if run.domain == domain and run.task == "ratings"]
    for run in runs:
        if run.split_digest != split.digest:
            what = f"{who} was trained on another split of {domain!r}, which contains test reviews of this one"
            got = f"--split {split.kind} --split-seed {split.seed}"
            fix = f"Give --split {run.split} --split-seed {run.split_seed}, or train a plugin on this split."
            if len({other.split_digest for other in runs}) > 1:  # no split satisfies all
                fix = "Its plugins were trained on different splits: train them again on this one."
            raise BadSetting(what, got=got, fix=fix)


def pair_positions(interactions: Interactions, seed: int) -> Floats:
    """`x [n]` in 0..1: xxh3-64 of seed, user id and item id, over 2^64.

    The hashed bytes are the seed (8 bytes, little-endian), the length of the user id in bytes (8 bytes), and both ids
    in UTF-8. Raises BadSetting if the seed has more than 64 bits.
    """
    if not -(1 << 63) <= seed < 1 << 63:
        raise BadSetting("the seed is too large", where="--split-seed", expected="a 64-bit integer", got=str(seed))
    start = seed.to_bytes(8, "little", signed=True)
    users = [start + len(user).to_bytes(8, "little") + user for user in map(str.encode, interactions.user_ids)]
    items = [item_id.encode() for item_id in interactions.item_ids]
    hash64 = xxhash.xxh3_64_intdigest
    pairs = zip(interactions.users.tolist(), interactions.items.tolist(), strict=True)
    hashes = (hash64(users[user] + items[item]) for user, item in pairs)
    return np.fromiter(hashes, np.uint64, interactions.n).astype(np.float64) / 2.0**64
