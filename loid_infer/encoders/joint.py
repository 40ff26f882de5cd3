"""Encoders of one shape in one pass: which may be, what they have in common, which columns are whose.

Knows tensor names of a Hugging Face BertModel and the protocol of a runtime; not ONNX, not stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

from loid_infer.encoders.card import WEIGHTS_FILE, weights_digest
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.protocol import Graph, Runtime
from loid_infer.types import Array, Card, Floats, Ints, TokenBatch

Join: TypeAlias = Callable[[Sequence[Path]], Graph]  # graphs -> one graph, its output theirs side by side


def shape(card: Card) -> Card:
    """What encoders must have in common to be computed in one pass: all but their weights and stored dtype. Two int8
    graphs differ, so they never are."""
    return replace(card, weights="", store_dtype="")


@dataclass(frozen=True, slots=True)
class Step:
    """The embeddings, or a layer above those before it."""

    key: str  # of its tensors and of all steps before it: equal keys, equal outputs
    n_bytes: int


def steps(encoder: EncoderFolder) -> tuple[Step, ...]:
    """The embeddings and then every layer of `encoder`, which has been compared with its digests."""
    from safetensors.numpy import load_file

    tensors: dict[str, Array] = load_file(encoder.path / WEIGHTS_FILE)
    found: list[Step] = []
    prefixes = ["embeddings.", *(f"encoder.layer.{i}." for i in range(encoder.card.n_layers))]
    for prefix in prefixes:
        part = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        before = found[-1].key if found else ""
        key = hashlib.sha256(f"{before}{weights_digest(part)}".encode()).hexdigest()
        found.append(Step(key, sum(tensor.nbytes for tensor in part.values())))
    return tuple(found)


def n_shared_layers(mine: Sequence[Step], others: Sequence[Sequence[Step]]) -> int:
    """How many layers, from the lowest up, at least one of the others has too."""
    theirs = {step.key for other in others for step in other}
    return sum(1 for _ in takewhile(lambda step: step.key in theirs, mine[1:]))


def n_bytes(encoders: Iterable[Sequence[Step]]) -> int:
    """Bytes of all weights of `encoders`, each shared step once."""
    return sum({step.key: step.n_bytes for parts in encoders for step in parts}.values())


def columns(i: int, dim: int) -> slice:
    """Where the vectors of the i-th encoder are in what a joint runtime gives."""
    return slice(i * dim, (i + 1) * dim)


class OneOf:
    """One encoder's vectors of a runtime that computes several side by side."""

    def __init__(self, joint: Runtime, part: slice) -> None:
        self.name, self.detail = joint.name, joint.detail
        self.max_batch_tokens, self.pads = joint.max_batch_tokens, joint.pads
        self.n_tokenizers = joint.n_tokenizers
        self._joint, self._part = joint, part

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        with closing(self._joint.run(batches)) as found:
            for slots, vectors in found:
                yield slots, vectors[:, self._part]
