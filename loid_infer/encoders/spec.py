"""Digests for an encoder's spec: fingerprint, weights and tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
from msgspec import to_builtins

from loid_infer.artifact import digest_json
from loid_infer.types import Array, Spec

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"


def fingerprint(spec: Spec) -> str:
    """The digest of all fields of `spec`, 32 hex digits; the name of its store."""
    return digest_json(to_builtins(spec))[:32]


def weights_digest(tensors: Mapping[str, Array], uses: Callable[[str], bool]) -> str:
    """sha256 of the tensors whose names `uses` accepts, sorted: name, shape, little-endian float32; 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(filter(uses, tensors)):
        tensor = np.ascontiguousarray(tensors[name], "<f4")
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).data)
    return digest.hexdigest()


def tokenizer_content_digest(content: str) -> str:
    """sha256 of the text of a tokenizer.json without truncation and padding, which have fields of their own in the
    spec."""
    parts = json.loads(content)
    return digest_json({name: part for name, part in parts.items() if name not in ("truncation", "padding")})
