"""loid-infer: review vectors computed once, cached for good, and a light recommender head on top of them.

After the paper LoID (arXiv 2404.00236).

The verbs of the command line are functions here: `from loid_infer import encode, fit, score`. They are resolved on
first use, so importing the package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "sample": "sample",
    "ingest": "ingest",
    "export": "export",
    "encode": "encode",
    "encode_all": "encode",
    "fit": "fit",
    "score": "score",
    "evaluate": "evaluate",
    "report": "report",
    "similar": "similar",
    "cache_compact": "upkeep",
    "cache_gc": "upkeep",
    "cache_import": "imports",
    "cache_info": "cache",
    "cache_salvage": "upkeep",
    "cache_verify": "cache",
    "cache_export": "cache",
    "plugin_train": "train",
    "plugin_merge": "plugins",
    "plugin_import": "plugins",
    "plugin_list": "plugins",
    "plugin_show": "plugins",
    "doctor": "doctor",
    "plugin_similarity": "similarity",
}
__all__ = [*_VERBS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module(f"loid_infer.verbs.{_VERBS[name]}"), name)
    raise AttributeError(f"module 'loid_infer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
