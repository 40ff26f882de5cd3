"""`bdlm pairs`: draws labeled pairs of the interactions of a domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.clicks.drawing import N_NEAREST, TRAINING, DrawnPairs, draw_pairs
from loid_infer.data.canonical import ClickFacts, finish_clicks, row_writer
from loid_infer.data.kinds import CLICKS, PARTS
from loid_infer.data.sequences import Sequences, split_sequences
from loid_infer.neighbors import build, directions
from loid_infer.settings import TEMPLATE, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import NO_TIME, SILENT, Floats, Ints, Progress
from loid_infer.verbs.encoder import resolve_or_export
from loid_infer.verbs.sequences import encode_items, item_texts, read_sequences, stored

_GROUP_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class DrawResult:
    """The written labeled pairs. `digest` is that of the table with all negatives."""

    domain: str
    encoder: str  # of the titles
    n_rows: int
    n_users: int
    n_items: int
    n_positive: int
    n_valid: int
    n_test: int
    n_tested: int  # users with a target and negatives for test
    n_negatives: int  # of each target
    seed: int
    digest: str
    path: str


def bdlm_pairs(
    domain: str,
    *,
    negatives: int = 19,
    training: str = "even",
    users: int | None = None,
    encoder: str | None = None,
    template: str = TEMPLATE,
    seed: int = 0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> DrawResult:
    """Draw labeled pairs from the interactions of `domain` by leave-one-out, into `data/<domain>.clicks.parquet`.

    Protocol of BDLM (arXiv 2311.03778, section 4.1); see `clicks.drawing`. Labeled pairs that were there are replaced.

    Args:
        negatives: of each target of validation and test.
        training: how the one negative of each training interaction is drawn: even | popular.
        users: number of users whose targets are tested, drawn at random; by default all with 3 interactions.
        encoder: of the titles; by default the domain's, else `base`.
        seed: of everything that is drawn, and of the order of interactions at the same time.

    Raises:
        BadTable: there are no interactions, or no titles.
        BadSetting: too few items, or an invalid number.
        BadArtifact, StoreBusy, BadStore, NoSpace: see `encode`.
    """
    workspace = Workspace.of(workspace)
    check_number("--negatives", negatives, 1, math.inf)
    check_choice("training", training, TRAINING)
    check_number("--users", math.inf if users is None else users, 1, math.inf)
    sequences = read_sequences(workspace, [domain], seed, progress)
    split = split_sequences(sequences, "leave-one-out")
    texts = item_texts(workspace, sequences, template, progress)
    folder, _ = resolve_or_export(workspace, encoder, domain, None, progress)
    encode_items(workspace, sequences, texts, folder, progress)
    vectors = stored(workspace, folder.spec, folder.fingerprint, "")(texts.digests)
    nearest = _Nearest(vectors)
    drawn = draw_pairs(sequences, split, nearest, negatives, users, seed, training)
    path = workspace.clicks(domain)
    facts = _write(drawn, sequences, path)
    return DrawResult(
        domain=domain,
        encoder=folder.name,
        n_rows=facts.n_rows,
        n_users=facts.n_users,
        n_items=facts.n_items,
        n_positive=facts.n_positive,
        n_valid=facts.n_valid,
        n_test=facts.n_test,
        n_tested=int(((drawn.parts == PARTS.index("test")) & (drawn.labels == 1)).sum()),
        n_negatives=negatives,
        seed=seed,
        digest=facts.digest,
        path=str(path),
    )


class _Nearest:
    """The items with the nearest titles."""

    def __init__(self, vectors: Floats) -> None:
        center = vectors.mean(axis=0)
        self._directions, self._index = directions(vectors, center), build(vectors, center)

    def __call__(self, items: Ints) -> Ints:
        """The nearest others of each of `items [m]`, `[m, N_NEAREST]`, -1 where there are fewer."""
        found = np.full((len(items), N_NEAREST), -1)
        for row, item in enumerate(items.tolist()):
            near = self._index.search(self._directions[item], N_NEAREST + 1)[0]
            near = near[near != item][:N_NEAREST]
            found[row, : len(near)] = near
        return found


def _write(drawn: DrawnPairs, sequences: Sequences, path: Path) -> ClickFacts:
    times = sequences.times[sequences.starts[drawn.users] + drawn.positions]
    with new_file(path) as temporary, row_writer(temporary, CLICKS.schema) as writer:
        for start in range(0, len(drawn.users), _GROUP_ROWS):
            part = slice(start, start + _GROUP_ROWS)
            columns = {
                "user_id": [sequences.user_ids[user] for user in drawn.users[part].tolist()],
                "item_id": [sequences.item_ids[item] for item in drawn.items[part].tolist()],
                "timestamp": [None if time == NO_TIME else time for time in times[part].tolist()],
                "position": drawn.positions[part].tolist(),
                "label": drawn.labels[part].tolist(),
                "split": [PARTS[code] for code in drawn.parts[part].tolist()],
            }
            writer.write_named(columns)
        return finish_clicks(writer, n_users=len(np.unique(drawn.users)), n_items=len(np.unique(drawn.items)))
