"""loid-infer: review vectors computed once, cached for good, and a light recommender head on top of them.

After the paper LoID (arXiv 2404.00236).

The verbs of the command line are functions here: `from loid_infer import encode, fit, score`. `Encoder` turns texts
into vectors, `encode_corpus` stores those of any `Texts`. All are resolved on first use, so importing the package
imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Encoder": "encoder",
    "Texts": "data.corpora",
    "sample": "verbs.tables",
    "ingest": "verbs.tables",
    "ingest_items": "verbs.items",
    "ingest_implicit": "verbs.implicit",
    "ingest_clicks": "verbs.clicks",
    "export": "verbs.export",
    "encode": "verbs.encode",
    "encode_corpus": "verbs.encode",
    "encode_dry_run": "verbs.encode",
    "encode_shard": "verbs.shards",
    "encode_status": "verbs.shards",
    "encode_collect": "verbs.shards",
    "encode_ray": "verbs.cluster",
    "fit": "verbs.fit",
    "score": "verbs.score",
    "evaluate": "verbs.evaluate",
    "evaluate_ranking": "verbs.rankings",
    "llmrec_fit": "verbs.rank",
    "cf_fit": "verbs.rank",
    "cf_fit_clicks": "verbs.cora",
    "cora_fit": "verbs.cora",
    "cora_train": "verbs.tallrec",
    "bdlm_fit": "verbs.bdlm",
    "bdlm_pairs": "verbs.drawing",
    "evaluate_clicks": "verbs.labels",
    "llmrec_train": "verbs.llmrec",
    "recommend": "verbs.recommend",
    "report": "verbs.report",
    "similar": "verbs.similar",
    "cache_compact": "verbs.upkeep",
    "cache_gc": "verbs.upkeep",
    "cache_import": "verbs.cache",
    "cache_info": "verbs.cache",
    "cache_salvage": "verbs.upkeep",
    "cache_verify": "verbs.cache",
    "cache_export": "verbs.cache",
    "plugin_train": "verbs.train",
    "plugin_merge": "verbs.plugins",
    "plugin_import": "verbs.plugins",
    "plugin_list": "verbs.plugins",
    "plugin_show": "verbs.plugins",
    "doctor": "verbs.doctor",
    "plugin_similarity": "verbs.similarity",
}
__all__ = [*_PLACES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"loid_infer.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'loid_infer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
