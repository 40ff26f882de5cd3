"""A synthetic workspace with files as the commands write them, for tests of the report."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from msgspec import Struct, structs, to_builtins

from loid_infer.heads.presets import HeadOptions
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace

BASE = {"name": "tiny-bert", "digest": "b" * 64}
FINGERPRINT = "f" * 32
SPEC = {
    "weights": "w",
    "architecture": "bert",
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 384,
    "feed_forward_dim": 1536,
    "activation": "gelu",
    "layer_norm_eps": 1e-12,
    "position_type": "absolute",
    "tokenizer": "t",
    "max_tokens": 256,
    "truncation_side": "right",
    "pooling": "cls",
    "precision": "bf16",
    "quantized_graph": "",
    "store_dtype": "fp16",
    "format": 1,
}


def replace(record: Any, **changes: Any) -> Any:
    """A dataclass or Struct with other values."""
    return (structs if isinstance(record, Struct) else dataclasses).replace(record, **changes)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def errors(model: str, mse: float, bias: tuple, head: tuple, encoder: str | None = None) -> dict[str, Any]:
    names = ("against_bias", "against_bias_low", "against_bias_high")
    others = ("against_head", "against_head_low", "against_head_high")
    against = dict(zip(names, bias, strict=True)) | dict(zip(others, head, strict=True))
    return {"model": model, "encoder": encoder, "mse": mse, "mae": 0.6} | against


def evaluation(domain: str = "toys", **changes: Any) -> dict[str, Any]:
    """An evaluation in which the head is better than the biases and zeroed vectors are worse than the head."""
    rows = [
        errors("global mean", 0.8311, (0.0711, 0.05, 0.09), (0.1011, 0.08, 0.12)),
        errors("bias", 0.76, (0.0, 0.0, 0.0), (0.03, 0.01, 0.05)),
        errors("mf", 0.7777, (0.0177, -0.01, 0.04), (0.0477, 0.01, 0.09)),
        errors("head", 0.7301, (-0.0299, -0.0412, -0.0186), (0.0, 0.0, 0.0), "base"),
        errors("reads the target's own text (impossible)", 0.4, (-0.36, -0.4, -0.3), (-0.33, -0.4, -0.3), "base"),
        errors("vectors zeroed", 0.7444, (-0.0156, -0.03, 0.0), (0.0143, 0.0021, 0.0265), "base"),
    ]
    runs = [
        {
            "seed": seed,
            "model": row["model"],
            "encoder": row["encoder"],
            "n_test": 1234,
            "mse": row["mse"] + seed / 1000,
            "mae": 0.6,
            "train_mse": None,
            "network_share": 0.87 if row["model"] == "head" else None,
            "seconds": 1.0,
        }
        for seed in (0, 1)
        for row in rows
    ]
    kinds = [("history", "0", 11), ("history", "more", 4321), ("rating", "1", 17), ("rating", "5", 999)]
    buckets = [
        {"by": by, "bucket": name, "n_test": n, "global_mean": 1.5, "bias": 1.2, "mf": 1.1, "head": 1.0}
        for by, name, n in kinds
    ]
    bins = [{"predicted": 3 + i / 10, "rated": 3.1 + i / 11, "n_test": 100} for i in range(10)]
    return {
        "domain": domain,
        "encoders": ["base"],
        "preset": "default",
        "protocol": "strict",
        "split": "random",
        "n_seeds": 2,
        "interval": "splits, corrected for their overlap",
        "runs": runs,
        "summary": rows,
        "buckets": buckets,
        "calibration": bins,
        "path": "/somewhere/else",
        "seconds": 5.0,
        **changes,
    }


def encoding(domain: str = "toys", encoder: str = "base", **changes: Any) -> dict[str, Any]:
    return {
        "domain": domain,
        "encoder": encoder,
        "fingerprint": FINGERPRINT,
        "runtime": "openvino",
        "runtime_detail": "CPU, 2 streams",
        "precision": "bf16",
        "max_tokens": 256,
        "n_rows": 1000,
        "n_unique": 990,
        "n_hits": 0,
        "n_encoded": 990,
        "n_truncated": 12,
        "n_tokens": 98_765,
        "padding": 0.031,
        "seconds": 4.0,
        "export_s": 0.0,
        "setup_s": 1.5,
        "tokens_per_s": 24_691.25,
        "texts_per_s": 247.5,
        "peak_rss_bytes": 2**29,
        "stages": {"read_s": 0.1, "tokenize_s": 0.5, "forward_s": 3.8, "commit_s": 0.2},
        "store": "/somewhere/cache",
        **changes,
    }


def head(name: str = "toys", domain: str = "toys", encoder: str = "base", **changes: Any) -> dict[str, Any]:
    baselines = {"global_mean": 0.83, "bias": 0.7654, "mf": 0.77}
    return {
        "kind": "head",
        "head": name,
        "domain": domain,
        "encoder": encoder,
        "fingerprint": FINGERPRINT,
        "preset": "default",
        "protocol": "strict",
        "split": "random",
        "split_seed": 3,
        "split_digest": "s",
        "train_mse": 0.5,
        "bias_train_mse": 0.6,
        "val_mse": 0.7,
        "test_mse": 0.7321,
        "test_mae": 0.61,
        "warm_test_mse": 0.7,
        "cold_test_mse": None,
        "n_train": 800,
        "n_valid": 100,
        "n_test": 100,
        "n_cold_test": 0,
        "baselines": baselines,
        "network_share": 0.91,
        "epochs": 12,
        "best_epoch": 9,
        "format": 2,
        "card": SPEC,
        "settings": to_builtins(HeadOptions().settings()),
        "seed": 0,
        "share": 0.91,
        "mean": 4.0,
        "intercept": 0.0,
        "rating_range": [1.0, 5.0],
        "table_digest": "t",
        "device": "cpu",
        "versions": {},
        "files": {},
        **changes,
    }


def encoder(name: str = "base", plugins: tuple[tuple[str, str], ...] = (), **changes: Any) -> dict[str, Any]:
    measured = {"cos_min": 0.999984, "cos_mean": 0.999991, "max_abs": 0.0078, "n_texts": 64}
    return {
        "kind": "encoder",
        "name": name,
        "fingerprint": FINGERPRINT,
        "base": BASE,
        "plugins": [
            {"name": plugin, "digest": digest, "method": "train", "trained_on": []} for plugin, digest in plugins
        ],
        "card": SPEC,
        "precision_reason": "native",
        "parity": {
            **measured,
            "passed": True,
            "gate": "cosine >= 0.9999",
            "runtime": "openvino",
            "runtimes": {"openvino": measured, "torch": measured | {"cos_min": 0.9998}},
        },
        **changes,
    }


def training_run(domain: str) -> dict[str, Any]:
    return {"domain": domain, "table_digest": "t", "split": "random", "split_seed": 0, "split_digest": "s"}


def plugin(name: str, digest: str, *, method: str = "train", on=(), parents=(), **changes: Any) -> dict[str, Any]:
    trained = method == "train"
    return {
        "kind": "plugin",
        "name": name,
        "digest": digest,
        "method": method,
        "base": BASE,
        "on": list(on),
        "parents": [{"name": parent, "digest": parent_digest} for parent, parent_digest in parents],
        "holds": [parent_digest for _, parent_digest in parents],
        "trained_on": [training_run(name)],
        "settings": {"rank": 32 if trained else None},
        "metrics": {"val_mse": 0.5, "test_mse": 0.5678, "test_variance": 0.9} if trained else {},
        "parent_digest": "b" * 64,
        "seed": 0,
        "versions": {},
        **changes,
    }


def ranking_head(name: str = "toys-text", domains=("toys",), model: str = "text", **changes: Any) -> dict[str, Any]:
    trained, has_texts = model in ("mf", "sasrec", "sequence", "sequence+id"), model in ("text", "sequence+id")
    about = {"encoder": "base", "fingerprint": FINGERPRINT, "card": SPEC, "template": "{title}; "} if has_texts else {}
    return {
        "kind": "ranking",
        "format": 1,
        "head": name,
        "model": model,
        "domains": list(domains),
        "sequences_digest": "q" * 8,
        "split": "leave-one-out",
        "split_digest": "p" * 8,
        "seed": 0,
        "options": to_builtins(RankOptions()),
        "trials": [{"settings": {"whitening": 0.5}, "ndcg": 0.0876}, {"settings": {}, "ndcg": 0.0654}],
        "val": {"recall@10": 0.1414, "ndcg@10": 0.0876, "mrr@10": 0.0717},
        "epochs": 3 if trained else 0,
        "sequences_per_s": 425.6 if trained else 0.0,
        "files": {},
        **about,
        **changes,
    }


def ranking(domains=("toys",), heads=("toys-text", "toys-sasrec"), **changes: Any) -> dict[str, Any]:
    """A ranking evaluation: the first head is better than everything else."""
    systems = {**{head: 0.08 - i / 100 for i, head in enumerate(heads)}, "popularity": 0.0123}
    parts = [*domains, *([""] if len(domains) > 1 else [])]

    def row(system: str, domain: str, metric: str, value: float, n_users: int, group: str = "") -> dict[str, Any]:
        what = {"system": system, "domain": domain, "metric": metric, "group": group, "n_users": n_users}
        return what | {"value": value, "low": value - 0.01, "high": value + 0.01}

    scales = {"recall@10": 1.6, "ndcg@10": 1.0, "mrr@20": 0.9, "mrr@10": 0.85}
    groups = [("length of the history", "1 to 3", 0.5, 700), ("length of the history", "more", 2.0, 534)]
    groups += [("training interactions of the item", "1 to 5", 1.5, 1234)]
    return {
        "domains": list(domains),
        "split": "leave-one-out",
        "seed": 0,
        "candidates": "full",
        "candidates_file": "",
        "sequences_digest": "q" * 8,
        "n_users": 1234,
        "n_tied_times": 0,
        "summary": [
            row(system, domain, metric, value * scale, 1234)
            for system, value in systems.items()
            for domain in parts
            for metric, scale in scales.items()
        ],
        "groups": [
            row(system, "", "recall@10", value * scale, n, f"{kind}={name}")
            for system, value in systems.items()
            for kind, name, scale, n in groups
        ],
        "differences": [
            {"system": head, "reference": other, "domain": "", "metric": "ndcg@10"}
            | {"difference": gain, "low": gain - 0.02, "high": gain + 0.02}
            for head in heads
            for other in systems
            if other != head
            for gain in [systems[head] - systems[other]]
        ],
        "rank_s": dict.fromkeys(systems, 0.5),
        "note": "leave-one-out: training contains interactions that happened after test targets",
        "path": "/somewhere/else",
        "seconds": 5.0,
        "examples": [
            {
                "user": "u7",
                "domain": domains[0],
                "n_history": 17,
                "history": ["a drum", "a string"],
                "target": "a guitar",
                "rankings": [
                    {"head": head, "rank": 3.5 if i == 0 else None, "first": ["a cable", "B000123"]}
                    for i, head in enumerate(heads)
                ],
            }
        ],
        **changes,
    }


CURVE = {"losses": [1.0 / (1 + i) for i in range(60)], "eval_steps": [30, 60], "eval_mse": [0.4, 0.3456]}
RANKING_CURVE = {"losses": [7.7, 7.1, 6.9], "eval_steps": [80, 160, 240], "eval_mse": [0.95, 0.9124, 0.92]}
SIMILARITY = {
    "domains": ["toys", "books"],
    "matrix": [[0.351, 0.273], [0.273, 0.316]],
    "pooling": "mean",
    "n_texts": 60,
    "base": "tiny-bert",
    "max_tokens": 256,
    "seed": 0,
}


def full_workspace(root: Path) -> Workspace:
    """A workspace with every measurement that the report shows."""
    workspace = Workspace(root)
    write(workspace.reports / "toys.evaluation.json", evaluation())
    write(workspace.reports / "toys.base.encoding.json", encoding())
    write(workspace.reports / "similarity.json", SIMILARITY)
    write(workspace.head("toys") / "manifest.json", head())
    write(workspace.head("toys") / "curve.json", CURVE | {"losses": [0.9, 0.8]})
    write(workspace.encoder("base") / "manifest.json", encoder())
    write(workspace.encoder("mixed") / "manifest.json", encoder("mixed", (("one", "1" * 64), ("two", "2" * 64))))
    write(workspace.plugin("one") / "manifest.json", plugin("one", "1" * 64))
    write(workspace.plugin("two") / "manifest.json", plugin("two", "2" * 64, on=["1" * 64]))
    merged = plugin("sum", "3" * 64, method="ties", parents=(("one", "1" * 64), ("two", "2" * 64)))
    write(workspace.plugin("sum") / "manifest.json", merged)
    write(workspace.reports / "toys.ranking.json", ranking())
    write(workspace.head("toys-text") / "manifest.json", ranking_head())
    write(workspace.head("toys-sasrec") / "manifest.json", ranking_head("toys-sasrec", model="sasrec"))
    write(workspace.head("toys-sasrec") / "curve.json", RANKING_CURVE)
    for name in ("one", "two"):
        write(workspace.plugin(name) / "curve.json", CURVE)
    return workspace
