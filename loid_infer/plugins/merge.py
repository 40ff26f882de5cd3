"""Merges deltas tensor by tensor, and truncates the result to a low rank.

The result depends neither on the order of plugins and tensors nor on a global random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.artifact import digest_json
from loid_infer.errors import BadSetting
from loid_infer.kernels.merging import drop_and_rescale, elect, kept, linear, trim
from loid_infer.kernels.sampling import words
from loid_infer.plugins.delta import Delta, LowRank, Part, dense
from loid_infer.settings import check_choice
from loid_infer.types import Bools, Floats, Progress

METHODS = ("linear", "ties", "dare", "dare_ties")
DEFAULT_DENSITY = 0.8  # high because LoRA deltas have little redundancy (DARE paper)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A plugin to merge."""

    digest: str  # of its delta
    delta: Delta
    weight: float


@dataclass(frozen=True, slots=True)
class Merge:
    """The settings of a merge."""

    method: str  # of METHODS
    density: float | None  # ties: share of entries kept; dare: probability to keep an entry; linear: None
    seed: int  # of dare's masks
    rank: int | None = None  # of the low-rank approximation; None: keep the merge in full


@dataclass(frozen=True, slots=True)
class TensorError:
    """The error of the truncation of one tensor."""

    tensor: str
    relative_error: float  # Frobenius norm of the error / norm of the tensor


def merge_settings(method: str, density: float | None, rank: int | None, seed: int) -> Merge:
    """Check options and set the default density.

    Raises:
        BadSetting: an option is outside its range.
    """
    check_choice("method", method, METHODS)
    if rank is not None and rank < 1:
        raise BadSetting("rank out of range", expected="--rank 1 or more", got=str(rank), fix="Leave --rank out.")
    if method == "linear":
        if density is not None:
            raise BadSetting("the method linear has no density", got=f"--density {density:g}", fix="Leave it out.")
    elif density is None:
        density = DEFAULT_DENSITY
    elif not 0 < density <= 1:
        raise BadSetting("density out of range", expected="above 0, at most 1", got=f"--density {density:g}")
    return Merge(method, density, seed, rank)


def merge(
    sources: Sequence[Source], how: Merge, progress: Progress
) -> tuple[Delta, float | None, tuple[TensorError, ...]]:
    """Merge `sources`. Only one tensor of each source is dense at a time.

    Returns:
        The delta and, if it is truncated, the relative error of all tensors together and of each; else None and ().

    Raises:
        BadSetting: two sources have different shapes for a tensor, or the rank is too large.
    """
    names, delta = names_of(sources), dict[str, Part]()
    losses: dict[str, tuple[float, float]] = {}
    with progress.task("merge", len(names), "tensors") as task:
        for name in names:
            full = merge_tensor(name, sources, how)
            delta[name] = full
            if how.rank is not None:
                delta[name] = part = truncate(name, full, how.rank)
                losses[name] = squared_loss(full, part)
            task.advance(1)
    errors = tuple(TensorError(name, _ratio(*loss)) for name, loss in losses.items())
    error, total = (sum(loss[i] for loss in losses.values()) for i in (0, 1))
    return delta, _ratio(error, total) if losses else None, errors


def _ratio(error: float, total: float) -> float:
    return math.sqrt(error / total) if total else 0.0


def names_of(sources: Sequence[Source]) -> list[str]:
    """The names of all tensors with a delta, sorted.

    Raises:
        BadSetting: two sources have different shapes for a tensor.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for source in sources:
        for name, part in source.delta.items():
            if shapes.setdefault(name, part.shape) != part.shape:
                shape, other = str(shapes[name]), str(part.shape)
                raise BadSetting(
                    "two plugins have different shapes for a tensor", where=name, expected=shape, got=other
                )
    return sorted(shapes)


def merge_tensor(name: str, sources: Sequence[Source], how: Merge) -> Floats:
    """The merged delta of the tensor `name`, float32; a source without it adds nothing to it.

    Deltas are rounded to float32 first, so that trimming does not depend on the linear algebra library. Sums are in
    float64, in digest order.
    """
    present = sorted((source for source in sources if name in source.delta), key=lambda source: source.digest)
    density = 1.0 if how.density is None else how.density

    def sparsified(source: Source) -> Floats:
        delta = dense(source.delta[name]).astype(np.float32)
        if how.method == "linear":
            return delta
        if how.method == "ties":
            return trim(delta, density)
        return drop_and_rescale(delta, mask(how.seed, source.digest, name, delta.shape, density), density)

    combine = elect if "ties" in how.method else linear
    weights = [source.weight for source in present]
    return combine([sparsified(source) for source in present], weights).astype(np.float32)


def mask(seed: int, digest: str, name: str, size: tuple[int, ...], density: float) -> Bools:
    """DARE's mask of one tensor of one plugin: it depends on the arguments only."""
    key = int(digest_json([seed, digest, name])[:16], 16)
    return kept(words(key, int(np.prod(size))), density).reshape(size)


def truncate(name: str, delta: Floats, rank: int) -> LowRank:
    """The best approximation of `delta [d_out, d_in]` of this rank (Eckart & Young 1936), both factors of equal norm.

    Raises:
        BadSetting: the tensor is not a matrix, or the rank is too large.
    """
    max_rank = min(delta.shape) if delta.ndim == 2 else 0
    if rank > max_rank:
        what = f"no factors of rank {rank} for a tensor of shape {list(delta.shape)}"
        expected = f"--rank at most {max_rank}" if max_rank else "a matrix"
        raise BadSetting(what, where=name, expected=expected, fix="Leave --rank out to keep the merge in full.")
    u, s, v = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    root = np.sqrt(s[:rank])
    return LowRank((u[:, :rank] * root).astype(np.float32), (root[:, None] * v[:rank]).astype(np.float32), 1.0)


def squared_loss(delta: Floats, part: LowRank) -> tuple[float, float]:
    """Squared Frobenius norms of `delta - part` and of `delta`: the relative error is the root of their ratio."""
    exact = delta.astype(np.float64)
    return float(np.square(exact - part.dense64()).sum()), float(np.square(exact).sum())
