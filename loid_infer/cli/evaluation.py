"""What `evaluate` prints: of a head on reviews, of ranking heads, or of those on labeled pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loid_infer.clicks.comparison import ClickEvaluation, ClickRow
    from loid_infer.heads.comparison import EvaluateResult
    from loid_infer.rankers.comparison import RankDifference, RankEvaluation

_SHOWN = ("recall@10", "ndcg@10", "mrr@20")


def unwritten(result: Any) -> str | None:
    """Why the file of an evaluation could not be written."""
    return getattr(result, "unwritten", None)


def tables(result: EvaluateResult | RankEvaluation | ClickEvaluation) -> dict[str, Any]:
    """The parts of an evaluation that are printed; the rest is in the file it names."""
    if hasattr(result, "n_both"):
        return _of_labels(result)  # type: ignore[arg-type]
    return _of_rankings(result) if hasattr(result, "groups") else _of_reviews(result)  # type: ignore[arg-type]


def _difference(row: RankDifference | ClickRow, value: float) -> dict[str, str]:
    cells = {"system": row.system, "minus": row.reference, "metric": row.metric, "difference": f"{value:+.4f}"}
    bounds = {"low": row.low, "high": row.high}
    return cells | {name: "" if bound is None else f"{bound:+.4f}" for name, bound in bounds.items()}


def _of_labels(result: ClickEvaluation) -> dict[str, Any]:
    names, metrics = [*result.by_system()], [*dict.fromkeys(row.metric for row in result.summary)]
    systems = [
        {"metric": row.metric, "system": row.system, "value": f"{row.value:.4f}"}
        | {name: "" if bound is None else f"{bound:.4f}" for name, bound in (("low", row.low), ("high", row.high))}
        for row in sorted(result.summary, key=lambda row: metrics.index(row.metric))
    ]
    compared = [  # each pair of systems once
        _difference(row, row.value)
        for row in result.differences
        if names.index(row.system) < names.index(row.reference)
    ]
    return {
        "domain": result.domain,
        "split": result.split,
        "pairs": result.n_pairs,
        "users": f"{result.n_users:,}, {result.n_both:,} of them with both labels",
        "path": result.path,
        "seconds": result.seconds,
        "test pairs, 95 % intervals": systems,
        "paired differences, 95 % intervals over users": compared,
    }


def _of_rankings(result: RankEvaluation) -> dict[str, Any]:
    systems: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result.summary:
        if row.metric in _SHOWN:
            cells = systems.setdefault((row.domain, row.system), {"domain": row.domain or "all", "system": row.system})
            cells[row.metric] = f"{row.value:.4f}"
    compared = [_difference(row, row.difference) for row in result.differences if row.metric == "ndcg@10"]
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result.groups:
        if row.metric == "recall@10":
            kind, _, name = row.group.partition("=")
            cells = groups.setdefault((kind, name), {"by": kind, "group": name, "targets": row.n_users})
            cells[row.system] = f"{row.value:.4f}"
    return {
        "domains": result.domains,
        "split": result.split,
        "candidates": result.candidates,
        "users": result.n_users,
        "path": result.path,
        "seconds": result.seconds,
        "full ranking" if result.candidates == "full" else f"among {result.candidates} candidates": [*systems.values()],
        "paired differences, 95 % intervals over users": compared,
        "recall@10 by group": [*groups.values()],
    }


def _of_reviews(result: EvaluateResult) -> dict[str, Any]:
    from loid_infer.heads.comparison import BASELINES, HEAD, NO_VARIANTS, model_and_encoder

    models = []
    for entry in result.summary:
        model, encoder = model_and_encoder(entry.system)
        reference = BASELINES[1] if model in NO_VARIANTS else HEAD
        if entry.metric == "mse" and reference == model_and_encoder(entry.reference)[0]:
            figures = {"MSE": f"{entry.value:.4f}", "difference": f"{entry.difference:+.4f}", "from": reference}
            bounds = {"low": entry.low, "high": entry.high}
            interval = {name: "" if bound is None else f"{bound:+.4f}" for name, bound in bounds.items()}
            models.append({"model": model, "encoder": encoder or "", **figures, **interval})
    buckets = [
        {"by": bucket["by"], "bucket": bucket["bucket"], "pairs": bucket["n_test"]}
        | {name: f"{bucket[name]:.4f}" for name in ("bias", "head")}
        for bucket in result.by_bucket()
    ]
    last = result.split_seed + result.n_seeds - 1
    return {
        "domain": result.domain,
        "preset": result.preset,
        "protocol": result.protocol,
        "split": f"{result.split}, seeds {result.split_seed} to {last}",
        "95 % intervals over": result.interval,
        "path": result.path,
        "seconds": result.seconds,
        "test MSE": models,
        "by fewest reviews, and by rating": buckets,
    }
