"""From an encoder's folder to its card: what decides its vectors, digested.

Knows the file names of a Hugging Face folder; not ONNX, not runtimes, not stores.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.artifact import digest_json
from loid_infer.errors import BadArtifact
from loid_infer.types import Array, Card

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
FINGERPRINT_DIGITS = 32


def fingerprint(card: Card) -> str:
    """The digest of every field of `card`, 32 hex digits: the name of its store."""
    return digest_json(asdict(card))[:FINGERPRINT_DIGITS]


def reaches_cls(name: str) -> bool:
    """Whether the tensor `name` of a BertModel's state has a part in `last_hidden_state[:, 0]`."""
    return name.startswith(("embeddings.", "encoder.")) and not name.endswith(("position_ids", "token_type_ids"))


def weights_digest(tensors: dict[str, Array]) -> str:
    """sha256 over the tensors that reach CLS, sorted by name: name, shape, little-endian float32; 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(filter(reaches_cls, tensors)):
        tensor = np.ascontiguousarray(tensors[name], "<f4")
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).data)
    return digest.hexdigest()


def tokenizer_digest(path: Path) -> str:
    """sha256 of a tokenizer.json without its truncation and padding, which the card states itself."""
    try:
        return tokenizer_content_digest(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(
            f"the tokenizer cannot be read: {error}", where=str(path), mend="Export the encoder again."
        ) from error


def tokenizer_content_digest(content: str) -> str:
    """`tokenizer_digest` of the text of a tokenizer.json."""
    parts = json.loads(content)
    return digest_json({name: part for name, part in parts.items() if name not in ("truncation", "padding")})


def make_card(
    config: dict[str, Any],
    *,
    weights: str,
    tokenizer: str,
    max_tokens: int,
    precision: str,
    store_dtype: str,
    store_format: int,
    quantized_graph: str = "",
) -> Card:
    """The card of a BERT encoder.

    Args:
        config: the fields of a Hugging Face config.json.
        weights, tokenizer, quantized_graph: digests.
    """
    return Card(
        weights=weights,
        architecture=config["model_type"],
        n_layers=config["num_hidden_layers"],
        n_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        feed_forward_dim=config["intermediate_size"],
        activation=config["hidden_act"],
        layer_norm_eps=float(config["layer_norm_eps"]),
        position_type=config.get("position_embedding_type") or "absolute",
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        truncation_side="right",
        pooling="cls",
        precision=precision,
        quantized_graph=quantized_graph,
        store_dtype=store_dtype,
        format=store_format,
    )
