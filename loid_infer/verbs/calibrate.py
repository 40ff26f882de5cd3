"""The domain an int8 encoder is calibrated on: its texts, and whether a head notices the difference.

Behind `export --precision int8`. It writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.data.splits import split as split_of
from loid_infer.encoder import Encoder
from loid_infer.errors import BadSetting, ParityError
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.heads.presets import head_settings
from loid_infer.settings import Workspace
from loid_infer.types import SILENT, Floats, Interactions, Ints, Progress, Task

SEEDS = (0, 1, 2, 3, 4)  # of the splits
MAX_CHANGE = 0.005  # of the head's test MSE, relative
_N_TEXTS = 512  # to calibrate on and to measure
_MIN_TEXTS = 64
_MAX_REVIEWS = 12_000  # that the head gate looks at


@dataclass(frozen=True, slots=True)
class HeadGate:
    """Test MSE of heads on float32 and on int8 vectors: means over the same splits."""

    mse_fp32: float
    mse_int8: float
    change: float  # of the mean, relative; positive where int8 is worse
    n_reviews: int
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """A domain to calibrate on."""

    table: ReviewTable
    interactions: Interactions  # at most _MAX_REVIEWS reviews, of whole users
    rows: Ints  # [n_texts], a row of the table for each of their texts
    drawn: Ints  # ascending rows of different texts from all over the table, to calibrate on

    def texts(self) -> list[str]:
        """The texts to calibrate on."""
        return [text for _, texts in self.table.texts(self.drawn) for text in texts]

    def vectors(self, encoder: Encoder, progress: Progress) -> Floats:
        """What the store would hold for every text, `[n_texts, d]`.

        Raises:
            RuntimeMissing, ParityError: see `Encoder.runtime`.
        """
        spec = encoder.spec
        vectors = np.empty((len(self.rows), spec.dim), np.float16 if spec.store_dtype == "fp16" else np.float32)
        order = np.argsort(self.rows)
        ordered = self.rows[order]
        with progress.task(f"encode {spec.precision}", len(order), "texts") as task:
            for rows, found in encoder.stream(self.table.texts(ordered)):
                vectors[order[np.searchsorted(ordered, rows)]] = found
                task.advance(len(rows))
        return vectors

    def head_gate(self, exact: Floats, quantized: Floats, where: str, progress: Progress) -> HeadGate:
        """Fit a head on both for each seed, on equal splits, and compare.

        Raises:
            ParityError: int8 costs the head more than the gate admits.
        """
        with progress.task("head gate", 2 * len(SEEDS), "fits") as task:
            errors = np.array([[self._error(vectors, seed, task) for vectors in (exact, quantized)] for seed in SEEDS])
        of_exact, of_quantized = errors.mean(0).tolist()
        gate = HeadGate(of_exact, of_quantized, of_quantized / of_exact - 1, self.interactions.n, len(SEEDS))
        progress.say(f"head MSE with int8 vectors: {gate.change:+.2%} against float32, mean of {len(SEEDS)} splits")
        if not gate.change <= MAX_CHANGE:  # also for NaN
            raise ParityError(
                "int8 vectors cost the head too much on the calibration domain",
                where=where,
                expected=f"test MSE at most {MAX_CHANGE:.1%} above float32's, mean of {len(SEEDS)} splits",
                got=f"{gate.change:+.2%}",
                mend="Export with --precision bf16 or fp32. Nothing was written.",
            )
        return gate

    def _error(self, vectors: Floats, seed: int, task: Task) -> float:
        from loid_infer.heads.training import fit_head, pairs_of  # torch: a second that no other command should pay

        parts = split_of(self.interactions, "random", seed)
        fitted = fit_head(self.interactions, parts, vectors, head_settings("default", "strict"), seed, SILENT)
        predicted = fitted.predictor.predict(pairs_of(self.interactions, parts, parts.test))
        task.advance(1)
        return mse(clipped(predicted, self.interactions.rating_range), self.interactions.ratings[parts.test])


def open_calibration(workspace: Workspace, precision: str, domain: str | None) -> Calibration | None:
    """The domain to calibrate on, if `precision` asks for one.

    Raises:
        BadSetting: int8 without a domain, a domain without int8, or one with too few texts.
        BadTable: it has no table.
    """
    if precision != "int8":
        if domain is None:
            return None
        raise BadSetting(
            "only int8 is calibrated",
            got=f"--calibrate-on {domain} with --precision {precision}",
            mend="Give --precision int8, or leave --calibrate-on out.",
        )
    if domain is None:
        raise BadSetting(
            "int8 is calibrated on reviews", expected="--calibrate-on DOMAIN", mend="Name a domain that was ingested."
        )
    table = open_table(workspace.table(domain), domain)
    interactions = table.interactions(SILENT)
    if len(interactions.digests) < _MIN_TEXTS:
        raise BadSetting(
            "too few texts to calibrate on",
            where=domain,
            expected=f"at least {_MIN_TEXTS} different ones",
            got=str(len(interactions.digests)),
            mend="Calibrate on a larger domain, or export with --precision bf16 or fp32.",
        )
    unique = np.unique(interactions.texts, return_index=True)[1]
    drawn = np.sort(np.random.default_rng(0).permutation(unique)[:_N_TEXTS])
    chosen = _whole_users(interactions)
    codes, first, texts = np.unique(interactions.texts[chosen], return_index=True, return_inverse=True)
    of_reviews = {name: getattr(interactions, name)[chosen] for name in ("users", "items", "ratings", "timestamps")}
    of_texts = {name: getattr(interactions, name)[codes] for name in ("digests", "empty")}
    part = replace(interactions, **of_reviews, **of_texts, texts=texts)
    return Calibration(table, part, chosen[first], drawn)


def _whole_users(interactions: Interactions) -> Ints:
    """Rows of all reviews of randomly drawn users, ascending, about as many as the head gate looks at."""
    n_reviews = np.bincount(interactions.users, minlength=len(interactions.user_ids))
    users = np.random.default_rng(0).permutation(len(n_reviews))
    drawn = users[: int(np.searchsorted(np.cumsum(n_reviews[users]), _MAX_REVIEWS)) + 1]
    return np.flatnonzero(np.isin(interactions.users, drawn))
