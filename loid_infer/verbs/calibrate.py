"""Loads the domain on which `export --precision int8` calibrates and tests an encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoder import Encoder
from loid_infer.errors import BadSetting
from loid_infer.settings import Workspace
from loid_infer.types import SILENT, Floats, Interactions, Ints, Progress

_N_TEXTS = 512  # for calibration and for measuring
_MIN_TEXTS = 64
_MAX_REVIEWS = 12_000  # for the judge


@dataclass(frozen=True, slots=True)
class Calibration:
    """A domain for calibration and for the judge."""

    table: ReviewTable
    interactions: Interactions  # about _MAX_REVIEWS reviews: all reviews of sampled users
    rows: Ints  # [n_texts], a row of the table for each text of `interactions`
    drawn: Ints  # ascending rows of different texts of the table, for calibration

    def texts(self) -> list[str]:
        """The texts for calibration."""
        return [text for _, texts in self.table.texts(self.drawn) for text in texts]

    def vectors(self, encoder: Encoder, progress: Progress) -> Floats:
        """The vectors of `interactions` as a store would contain them, `[n_texts, d]`."""
        spec = encoder.spec
        vectors = np.empty((len(self.rows), spec.dim), np.float16 if spec.store_dtype == "fp16" else np.float32)
        order = np.argsort(self.rows)
        ordered = self.rows[order]
        with progress.task(f"encode {spec.precision}", len(order), "texts") as task:
            for rows, part in encoder.stream(self.table.texts(ordered)):
                vectors[order[np.searchsorted(ordered, rows)]] = part
                task.advance(len(rows))
        return vectors


def open_calibration(workspace: Workspace, precision: str, domain: str | None) -> Calibration | None:
    """The calibration domain if `precision` is int8, else None.

    Raises:
        BadSetting: int8 without a domain, a domain without int8, or a domain with too few texts.
        BadTable: the domain has no table.
    """
    if precision != "int8":
        if domain is None:
            return None
        raise BadSetting(
            "only int8 is calibrated",
            got=f"--calibrate-on {domain} with --precision {precision}",
            fix="Give --precision int8, or omit --calibrate-on.",
        )
    if domain is None:
        raise BadSetting(
            "int8 needs a calibration domain", expected="--calibrate-on DOMAIN", fix="Give a domain that was ingested."
        )
    table = open_table(workspace.table(domain), domain)
    interactions = table.interactions(SILENT)
    if len(interactions.digests) < _MIN_TEXTS:
        raise BadSetting(
            "too few texts to calibrate on",
            where=domain,
            expected=f"at least {_MIN_TEXTS} different texts",
            got=str(len(interactions.digests)),
            fix="Calibrate on a larger domain, or export with --precision bf16 or fp32.",
        )
    unique = np.unique(interactions.texts, return_index=True)[1]
    drawn = np.sort(np.random.default_rng(0).permutation(unique)[:_N_TEXTS])
    chosen = _rows_of_sampled_users(interactions)
    codes, first, texts = np.unique(interactions.texts[chosen], return_index=True, return_inverse=True)
    of_reviews = {name: getattr(interactions, name)[chosen] for name in ("users", "items", "ratings", "timestamps")}
    of_texts = {name: getattr(interactions, name)[codes] for name in ("digests", "empty")}
    part = replace(interactions, **of_reviews, **of_texts, texts=texts)
    return Calibration(table, part, chosen[first], drawn)


def _rows_of_sampled_users(interactions: Interactions) -> Ints:
    """Ascending rows of all reviews of sampled users, about `_MAX_REVIEWS`."""
    n_reviews = np.bincount(interactions.users, minlength=len(interactions.user_ids))
    users = np.random.default_rng(0).permutation(len(n_reviews))
    drawn = users[: int(np.searchsorted(np.cumsum(n_reviews[users]), _MAX_REVIEWS)) + 1]
    return np.flatnonzero(np.isin(interactions.users, drawn))
