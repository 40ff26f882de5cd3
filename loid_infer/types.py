"""Immutable types and protocols that several packages share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeAlias

import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from loid_infer.errors import BadSetting

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.floating[Any]]
Ints: TypeAlias = NDArray[np.integer[Any]]
Bools: TypeAlias = NDArray[np.bool_]
Digests: TypeAlias = NDArray[np.uint8]  # [n, 16], one 128-bit digest a row

DIGEST_BYTES = 16
Positive: TypeAlias = Annotated[int, Meta(ge=1)]
_SURROGATE = re.compile("[\ud800-\udfff]")  # lone surrogates cannot be encoded in UTF-8


class Vectors(Protocol):
    """`[n, d]` vectors, float16 or float32, that can be indexed: an array, or a view of a store on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n, d)`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the elements."""

    def __getitem__(self, which: Any, /) -> Floats:
        """The vectors `[.., d]` at the positions `which [..]`."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """Reviews as arrays, one row per review, in the order of the canonical table."""

    user_ids: Sequence[str]  # [n_users], ascending
    item_ids: Sequence[str]  # [n_items], ascending
    users: Ints  # [n], codes into user_ids
    items: Ints  # [n], codes into item_ids
    ratings: Floats  # [n], float32
    timestamps: Ints  # [n], int64 seconds; NO_TIME if missing
    texts: Ints  # [n], codes into the unique texts
    digests: Digests  # [n_texts, 16], digest of each unique text
    empty: Bools  # [n_texts], whether the text is empty or white space
    rating_range: tuple[float, float]  # lowest and highest valid rating
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


class Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that decides an encoder's vectors, and nothing else. Its digest is the fingerprint of a store.

    Batch size, device, threads and paths are left out on purpose, and so is the runtime: it is tested against the
    parity probes instead.
    """

    weights: str  # digest of the float32 tensors that the vector depends on, sorted by name
    architecture: str  # model type
    n_layers: Positive
    n_heads: Positive
    hidden_dim: Positive
    feed_forward_dim: Positive
    activation: str
    layer_norm_eps: float
    position_type: str
    tokenizer: str  # digest of tokenizer.json without truncation and padding
    max_tokens: Positive  # with special tokens
    truncation_side: str
    pooling: str  # cls | mean | last
    precision: str  # fp32 | bf16 | fp16 | int8 | fake
    quantized_graph: str  # digest of the quantized graph, empty unless int8
    store_dtype: str  # fp16 | fp32
    format: Positive  # of the store's records
    # Written only if different from these defaults (BERT with CLS pooling), so stores from before these fields existed
    # keep their fingerprint.
    details: Mapping[str, Any] = field(default_factory=dict)  # further config fields that matter to the family
    normalize: bool = False  # to unit length
    dense: tuple[str, ...] = ()  # activations of the dense layers after pooling
    dense_dim: int = 0  # output width of the last dense layer
    prompt: str = ""  # prepended to every text
    empty_id: int = -1  # token used for a text without tokens; -1: the tokenizer always returns some

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return self.dense_dim or self.hidden_dim


class NamedDigest(Struct, frozen=True):
    """A reference to a base or plugin."""

    name: str
    digest: str  # of its weights


class TrainingRun(Struct, frozen=True, kw_only=True, order=True, omit_defaults=True):
    """What a plugin was trained on. Sorted by these fields, in this order."""

    domain: str
    split: str  # kind: random | time, of next items: leave-one-out | time
    split_digest: str
    split_seed: int
    table_digest: str  # of next items: of the sequences
    task: str = "ratings"  # ratings | next-item | labels


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """The input of one forward pass, padded on the right."""

    slots: Ints  # [n], the caller's indices of these texts, returned with the vectors
    input_ids: Ints  # [n, max_len], int64
    attention_mask: Ints  # [n, max_len], int64, 1 for a token and 0 for padding
    n_tokens: int  # without padding


class Corpus(Protocol):
    """Named, ordered texts to encode: the reviews of a domain, item titles, ... `data.corpora.Texts` is one."""

    @property
    def name(self) -> str:
        """A slug."""

    @property
    def n_rows(self) -> int:
        """Number of texts, including duplicates."""

    @property
    def digest(self) -> str:
        """Digest of the content, 64 hex digits."""

    def digests(self, progress: Progress) -> Digests:
        """blake2b-128 of the UTF-8 bytes of each text, `[n_rows, 16]`."""

    def pieces(self, progress: Progress) -> Iterator[tuple[int, Digests]]:
        """The same in pieces, so that they need not be in memory at once: first row, and digests `[m, 16]`."""

    def texts(self, rows: Ints) -> Iterator[tuple[Ints, Sequence[str]]]:
        """The texts of the ascending row numbers `rows [m]`, as batches of (rows, texts)."""


def check_texts(texts: Iterable[str], where: str = "") -> list[str]:
    """Return `texts`, any iterable of strings, as a list.

    Raises:
        BadSetting: it is a single string, or contains something else than strings, or a lone surrogate.
    """
    fix = "Give a list of strings; decode bytes with errors='replace'."
    expected = "Unicode without lone surrogates"
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise BadSetting("not a list of texts", where=where, expected="a list", got=repr(texts)[:60], fix=fix)
    checked = list(texts)
    for i, text in enumerate(checked):
        if not isinstance(text, str) or (not text.isascii() and _SURROGATE.search(text)):
            raise BadSetting("not a text", where=f"{where}[{i}]", expected=expected, got=ascii(text)[:60], fix=fix)
    return checked


class Task(Protocol):
    """A running task."""

    def advance(self, n: int) -> None:
        """Report `n` more units as done."""


class Progress(Protocol):
    """Receives progress and messages. `terminal` displays them; library callers pass `SILENT`."""

    def task(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Task]:
        """Start a task of `total` units (None: unknown)."""

    def say(self, line: str) -> None:
        """Show a message of one line."""


class _Silent:
    """Ignores progress and messages. Also serves as its own task."""

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
