"""Negatives that a target is ranked among, drawn once and kept in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from loid_infer.artifact import digest_json, new_file
from loid_infer.data.sequences import Sequences, SequenceSplit, Targets
from loid_infer.errors import BadSetting
from loid_infer.kernels import sampling
from loid_infer.tensors import save_tensors
from loid_infer.types import Ints

_BLOCK_CELLS = 1 << 22


def kept_candidates(folder: Path, sequences: Sequences, split: SequenceSplit, n: int, seed: int) -> tuple[Ints, Path]:
    """The candidates `[m, n]` of the test targets, and their file in `folder`, which is written if there is none.

    Raises:
        BadSetting: a domain has fewer items than that.
        NoSpace: the file cannot be written.
    """
    identity = digest_json(["uniform", split.digest, n, seed])
    path = folder / f"{'+'.join(sequences.domains)}.{n}-candidates.{identity[:12]}.safetensors"
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("identity") == identity:
                kept: Ints = file.get_tensor("negatives")
                return kept, path
    except (FileNotFoundError, SafetensorError):
        pass
    negatives = draw_candidates(sequences, split.test, n, seed)
    with new_file(path) as temporary:
        tensors = {"users": split.test.users, "targets": sequences.items[split.test.at], "negatives": negatives}
        save_tensors(temporary, tensors, {"identity": identity})
    return negatives, path


def draw_candidates(sequences: Sequences, targets: Targets, n: int, seed: int) -> Ints:
    """`n` different items `[m, n]` of each target's domain that its user never interacted with, before or after.

    All sets are equally likely; a set depends on the seed and the user only. Raises BadSetting if there are too few.
    """
    drawn = np.empty((targets.n, n), np.int32)
    domains = sequences.item_domains[sequences.items[targets.at]]
    longest = int(np.diff(sequences.bounds).max(initial=1))
    size = max(_BLOCK_CELLS // longest, 1)
    for number, domain in enumerate(sequences.domains):
        low, high = sequences.bounds[number], sequences.bounds[number + 1]
        rows = np.flatnonzero(domains == number)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            users = targets.users[part]
            draws = sampling.uniform(
                sampling.keys(seed, np.repeat(users, high - low), np.tile(np.arange(low, high), len(part)))
            )
            draws = draws.reshape(len(part), high - low)
            for row, user in enumerate(users.tolist()):
                own = sequences.items[sequences.starts[user] : sequences.starts[user + 1]]
                draws[row, own[(own >= low) & (own < high)] - low] = np.inf
            n_free = int(np.isfinite(draws).sum(axis=1).min())
            if n_free < n:
                what, fix = (
                    f"{domain} has too few items for {n:,} candidates",
                    f"Give --candidates {n_free} or fewer, or full." if n_free else "Give --candidates full.",
                )
                raise BadSetting(what, where="--candidates", got=f"{n_free:,} that a user does not have", fix=fix)
            drawn[part] = low + np.sort(np.argpartition(draws, n - 1, axis=1)[:, :n], axis=1)
    return drawn
