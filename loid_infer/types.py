"""The nouns that cross package boundaries: frozen, without behavior beyond what their fields already say.

This file knows no file format, no runtime and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.floating[Any]]
Ints: TypeAlias = NDArray[np.integer[Any]]
Bools: TypeAlias = NDArray[np.bool_]
Digests: TypeAlias = NDArray[np.uint8]  # [n, 16], one 128-bit digest a row

DIGEST_BYTES = 16


class Vectors(Protocol):
    """`[n, d]` vectors, float16 or float32, of which parts are read: an array, or a store that stays on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n, d)`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""

    def __getitem__(self, which: Any, /) -> Floats:
        """The vectors of the numbers `which [..]`, `[.., d]`."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """Who rated what, one row a review, in the order of the canonical table."""

    user_ids: Sequence[str]  # [n_users], ascending
    item_ids: Sequence[str]  # [n_items], ascending
    users: Ints  # [n], codes into user_ids
    items: Ints  # [n], codes into item_ids
    ratings: Floats  # [n], float32
    timestamps: Ints  # [n], int64 seconds; NO_TIME where the review has none
    texts: Ints  # [n], codes into the unique texts
    digests: Digests  # [n_texts, 16], digest of each unique text
    empty: Bools  # [n_texts], true for a text of white space only
    rating_range: tuple[float, float]  # lowest and highest rating the table admits
    digest: str  # of the canonical table

    @property
    def n(self) -> int:
        """Number of reviews."""
        return len(self.users)


NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Split:
    """A partition of interactions; `digest` covers kind, seed, fractions and cut times, not the table."""

    kind: str  # random | time
    seed: int
    train: Bools  # [n]
    valid: Bools  # [n]
    test: Bools  # [n]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything that decides an encoder's output, and nothing else. Its digest is the fingerprint of a store.

    Not here on purpose: the text template (it is in the text's digest), batch size, device, threads, paths, and the
    runtime, which is proven against the parity probes instead.
    """

    weights: str  # digest of the float32 tensors that reach CLS, sorted by name
    architecture: str  # model type
    n_layers: int
    n_heads: int
    hidden_dim: int
    feed_forward_dim: int
    activation: str
    layer_norm_eps: float
    position_type: str
    tokenizer: str  # digest of tokenizer.json without truncation and padding
    max_tokens: int  # with [CLS] and [SEP]
    truncation_side: str
    pooling: str
    precision: str  # fp32 | bf16 | fp16 | int8 | fake
    quantized_graph: str  # digest of the quantized graph, empty unless int8
    store_dtype: str  # fp16 | fp32
    format: int  # of the store's records

    @staticmethod
    def of(parts: object) -> Card:
        """The card with these fields, as JSON gave them.

        Raises:
            ValueError: a field is missing, unknown or of another kind.
        """
        kinds = {part.name: {"str": str, "int": int, "float": float}[str(part.type)] for part in fields(Card)}
        if not isinstance(parts, dict) or parts.keys() != kinds.keys():
            raise ValueError(f"a card has the fields {', '.join(kinds)}")
        for name, kind in kinds.items():
            if type(parts[name]) is not kind or (kind is int and parts[name] < 1):
                raise ValueError(f"the card's {name} is {parts[name]!r:.80}")
        return Card(**parts)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """One forward pass: right-padded ids of texts of similar length."""

    slots: Ints  # [n], the caller's numbers for these texts, given back beside the vectors
    input_ids: Ints  # [n, max_len], int64
    attention_mask: Ints  # [n, max_len], int64, 1 for a token and 0 for padding
    n_tokens: int  # real tokens, the sum of the mask


class Task(Protocol):
    """One running piece of work."""

    def advance(self, n: int) -> None:
        """Report `n` more units done."""


class Progress(Protocol):
    """How a verb tells that it is alive; `terminal` draws it, tests count it, libraries pass `SILENT`."""

    def task(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Task]:
        """Start a piece of work of `total` units (None: unknown)."""

    def say(self, line: str) -> None:
        """One line for people."""


class _Silent:
    """Draws nothing. It is its own task and its own context."""

    def task(self, name: str, total: int | None, unit: str) -> _Silent:
        return self

    def say(self, line: str) -> None:
        pass

    def advance(self, n: int) -> None:
        pass

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


SILENT = _Silent()
