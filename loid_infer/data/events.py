"""Reads who met what and when from a table of reviews or of interactions, for everything that models sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loid_infer.data.canonical import INTERACTION_FORMAT, InteractionFacts, arrow_errors
from loid_infer.data.kinds import INTERACTIONS
from loid_infer.data.reviews import coded, is_implicit, open_file, open_table
from loid_infer.types import NO_TIME, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Interactions of users with items, one row per interaction, in the order of the table.

    The order within a user is that of `times`, then of `positions`. Where some are missing, all of the other are there.
    """

    user_ids: Sequence[str]  # [n_users], ascending
    item_ids: Sequence[str]  # [n_items], ascending
    users: Ints  # [n], codes into user_ids
    items: Ints  # [n], codes into item_ids
    times: Ints  # [n], int64 seconds since 1970; NO_TIME if missing
    positions: Ints  # [n], int64; NO_TIME if missing
    digest: str  # of the table

    @property
    def n(self) -> int:
        """Number of interactions."""
        return len(self.users)


def read_events(path: Path, domain: str) -> Events:
    """The interactions of a domain: those of its reviews, without positions, or those of `ingest --implicit`.

    Raises BadTable if the table is missing, damaged, or not written by `ingest`.
    """
    columns, fix = ["user_id", "item_id", "timestamp", "position"], f"Run: loid-infer ingest SRC --domain {domain}"
    if is_implicit(path):
        fix += " --implicit"
        digest = open_file(path, INTERACTIONS.schema, INTERACTION_FORMAT, InteractionFacts, fix)[0].digest
    else:
        columns, digest = columns[:3], open_table(path, domain).digest
    with (
        arrow_errors("the table is damaged", str(path), fix),
        pq.ParquetFile(path, read_dictionary=columns[:2], page_checksum_verification=True) as file,
    ):
        table = file.read(columns=columns)
    user_ids, users = coded(table.column("user_id"))
    item_ids, items = coded(table.column("item_id"))
    times = filled(table.column("timestamp"))
    positions = filled(table.column("position")) if "position" in columns else np.full_like(times, NO_TIME)
    return Events(user_ids, item_ids, users, items, times, positions, digest)


def filled(column: Any) -> Ints:
    """An Arrow column of int64 `[n]` with NO_TIME for missing values."""
    filled: Ints = pc.fill_null(column, NO_TIME).to_numpy()
    return filled
