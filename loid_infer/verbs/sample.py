"""`sample`: writes synthetic domains as canonical tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.data.canonical import table_writer
from loid_infer.data.sample import SampleWorld, draw_world
from loid_infer.errors import BadSetting
from loid_infer.settings import SAMPLE_DOMAINS, Workspace, WorkspaceLike
from loid_infer.types import SILENT, Progress

NOTE = "These reviews are synthetic: nobody wrote them, and figures measured on them say nothing of real data."


@dataclass(frozen=True, slots=True)
class SampleDomain:
    """A written synthetic domain."""

    domain: str
    n_reviews: int
    n_users: int
    n_items: int
    path: str


@dataclass(frozen=True, slots=True)
class SampleResult:
    """The written domains, in the requested order."""

    domains: Sequence[SampleDomain]
    note: str = NOTE


def sample(
    domains: Sequence[str] | None = None,
    *,
    n_reviews: int = 2000,
    seed: int = 0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> SampleResult:
    """Write synthetic domains of `n_reviews` reviews each to `data/`, replacing tables of that name.

    The reviews depend only on the name, `n_reviews` and `seed`.

    Args:
        domains: names; None for electronics, movies_tv and video_games.

    Raises:
        BadName: a domain is not a slug.
        BadSetting: `n_reviews` below 1 or `seed` below 0.
        NoSpace: the disk is full or the workspace not writable.
    """
    workspace = Workspace.of(workspace)
    if n_reviews < 1:
        raise BadSetting(
            "too few reviews",
            where="--n-reviews",
            expected="at least 1",
            got=str(n_reviews),
            fix="Give for example --n-reviews 2000",
        )
    if seed < 0:
        raise BadSetting("invalid seed", where="--seed", expected="0 or more", got=str(seed))
    paths = {domain: workspace.table(domain) for domain in domains or SAMPLE_DOMAINS}
    written = [_write(draw_world(domain, n_reviews, seed), path, progress) for domain, path in paths.items()]
    progress.say(NOTE)
    return SampleResult(written)


def _write(world: SampleWorld, path: Path, progress: Progress) -> SampleDomain:
    n_users, n_items = len(np.unique(world.users)), len(np.unique(world.items))
    with (
        new_file(path) as temporary,
        table_writer(temporary) as writer,
        progress.task(f"sample {world.domain}", world.n, "reviews") as task,
    ):
        for rows, texts in world.texts():
            ratings, times = world.ratings[rows].tolist(), world.timestamps[rows].tolist()
            writer.write((*world.ids(rows), ratings, texts, times))
            task.advance(len(texts))
        writer.finish(n_users=n_users, n_items=n_items, rating_range=(1.0, 5.0), synthetic=True)
    return SampleDomain(world.domain, world.n, n_users, n_items, str(path))
