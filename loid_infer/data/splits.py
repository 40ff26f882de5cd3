"""The one partition of a domain into training, validation and test reviews, 8:1:1, by hash of the pair or by time.

This file sees codes, ids and timestamps; it knows no text, no rating and no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash

from loid_infer.artifact import digest_json
from loid_infer.errors import BadSetting
from loid_infer.types import NO_TIME, Array, Floats, Interactions, Split, TrainingRun

_FRACTIONS = (0.8, 0.9)  # where training and validation end


def split(interactions: Interactions, kind: str, seed: int) -> Split:
    """Every review in exactly one of the three parts.

    `random`: `x = hash64(seed, user_id, item_id) / 2^64`, training `x < 0.8`, validation `x < 0.9`, else test, so a
    review's part depends on nothing but its pair: neither on the order of the rows nor on what else the table holds.
    `time`: the 80 % and 90 % quantiles of the timestamps are the cuts; equal timestamps stay on one side. The seed
    changes nothing there and is recorded all the same.

    Raises:
        BadSetting: unknown kind, a seed beyond 64 bits, a review without a timestamp under `time`, or an empty part.
    """
    cuts: Sequence[float] = _FRACTIONS
    if kind == "random":
        values: Array = pair_positions(interactions, seed)
    elif kind == "time":
        n_missing = int(np.count_nonzero(interactions.timestamps == NO_TIME))
        if n_missing:
            raise BadSetting(
                "a split by time needs a timestamp on every review",
                where="--split time",
                got=f"{n_missing:,} of {interactions.n:,} reviews without one",
                fix="Use --split random, or ingest with --columns timestamp=NAME.",
            )
        values = interactions.timestamps
        if interactions.n:
            # Order statistics themselves, nothing between: cuts are times that occur, and integers compare exactly.
            cuts = np.sort(values)[[int(fraction * interactions.n) for fraction in _FRACTIONS]].tolist()
    else:
        raise BadSetting("unknown kind of split", where="--split", expected="random or time", got=repr(kind))
    train, test = values < cuts[0], values >= cuts[1]
    valid = ~(train | test)
    sizes = {"training": int(train.sum()), "validation": int(valid.sum()), "test": int(test.sum())}
    if not all(sizes.values()):
        raise BadSetting(
            "too few reviews for an 8:1:1 split: a part would be empty",
            where=f"--split {kind}",
            expected="at least one review in each part",
            got=f"{interactions.n:,} reviews: " + ", ".join(f"{n:,} {part}" for part, n in sizes.items()),
            fix="Ingest more reviews" + (", or try another --split-seed." if kind == "random" else "."),
        )
    told = {"kind": kind, "seed": seed, "fractions": _FRACTIONS, "cuts": cuts if kind == "time" else []}
    return Split(kind, seed, train, valid, test, digest_json(told))


def refuse_leak(seen: Iterable[TrainingRun], domain: str, split: Split, who: str) -> None:
    """See that nothing trained on `domain` saw the test reviews of `split`.

    Args:
        seen: every training run, as manifests record them in `trained_on`.
        who: what was trained, for the message.

    Raises:
        BadSetting: a run on this domain had another split.
    """
    for run in seen:
        if run.domain == domain and run.split_digest != split.digest:
            raise BadSetting(
                f"{who} was trained on another split of {domain!r} and has seen reviews that are to be tested on",
                expected=f"--split {run.split} --split-seed {run.split_seed}",
                got=f"--split {split.kind} --split-seed {split.seed}",
                fix=f"Give --split {run.split} --split-seed {run.split_seed}, or train a plugin on this split.",
            )


def pair_positions(interactions: Interactions, seed: int) -> Floats:
    """`x [n]` in 0..1: xxh3-64 of seed, user id and item id over 2^64.

    The hashed bytes are the seed (8 bytes, two's complement, little-endian), the user id's length in bytes (8 bytes),
    the user id and the item id in UTF-8: no two (seed, user, item) give the same bytes.

    Raises:
        BadSetting: the seed needs more than 64 bits.
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
