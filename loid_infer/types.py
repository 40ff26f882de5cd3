"""The nouns that cross package boundaries: frozen, without behavior beyond what their fields already say.

This file knows no file format, no runtime and no model.
"""

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
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no encoding has


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


class Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that decides an encoder's output, and nothing else. Its digest is the fingerprint of a store.

    Not here on purpose: the text template (it is in the text's digest), batch size, device, threads, paths, and the
    runtime, which is proven against the parity probes instead.
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
    # Only written where they differ from these, which are BERT's at CLS: what was stored before they were there keeps
    # its fingerprint.
    details: Mapping[str, Any] = field(default_factory=dict)  # what else of the config decides, by the family
    normalize: bool = False  # to unit length
    dense: tuple[str, ...] = ()  # activations of the dense layers behind pooling
    dense_dim: int = 0  # width of the vector where there are any
    prompt: str = ""  # put before every text
    empty_id: int = -1  # the token of a text that has none; -1: the tokenizer always gives one

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return self.dense_dim or self.hidden_dim


class NamedDigest(Struct, frozen=True):
    """A base or a plugin that a manifest refers to."""

    name: str
    digest: str  # of its weights


class TrainingRun(Struct, frozen=True, kw_only=True, order=True):
    """What a plugin was trained on. Runs are sorted by these fields in this order."""

    domain: str
    split: str  # kind: random | time
    split_digest: str
    split_seed: int
    table_digest: str


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """One forward pass: right-padded ids of texts of similar length."""

    slots: Ints  # [n], the caller's numbers for these texts, given back beside the vectors
    input_ids: Ints  # [n, max_len], int64
    attention_mask: Ints  # [n, max_len], int64, 1 for a token and 0 for padding
    n_tokens: int  # real tokens, the sum of the mask


class Corpus(Protocol):
    """Texts in an order: reviews of a domain, item titles, whatever is to be encoded. `data.corpora.Texts` is one."""

    @property
    def name(self) -> str:
        """A slug."""

    @property
    def n_rows(self) -> int:
        """Number of texts, equal ones counted each."""

    def digests(self, progress: Progress) -> Digests:
        """blake2b-128 of the UTF-8 bytes of every text, `[n_rows, 16]`, in order."""

    def texts(self, rows: Ints) -> Iterator[tuple[Ints, Sequence[str]]]:
        """The texts of the ascending row numbers `rows [m]`, in pieces."""


def check_texts(texts: Iterable[str], where: str = "") -> list[str]:
    """`texts` as a list, whatever holds them (a column of a data frame is indexed by labels), each a Unicode text.

    Raises:
        BadSetting: it is one string, or has something else in it, or a lone surrogate, which is no character.
    """
    fix = "Give a list of strings; what was read as bytes, decode with errors='replace'."
    wanted = "Unicode without lone surrogates"
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise BadSetting("not a list of texts", where=where, expected="a list", got=repr(texts)[:60], fix=fix)
    found = list(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str) or (not text.isascii() and _SURROGATE.search(text)):
            raise BadSetting("not a text", where=f"{where}[{i}]", expected=wanted, got=ascii(text)[:60], fix=fix)
    return found


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
