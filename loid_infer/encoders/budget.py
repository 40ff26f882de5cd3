"""The number of tokens a GPU computes at once: halved whenever it runs out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self, TypeVar

from loid_infer.errors import NoMemory

R = TypeVar("R")

_FULL = ("out of memory", "failed to allocate memory", "alloc_failed")


class DeviceFull(Exception):
    """The device has too little memory for a piece of work."""


def is_full(error: Exception) -> bool:
    """Whether `error` of a library means that the GPU's memory is full."""
    return any(text in str(error).lower() for text in _FULL)


def no_memory(what: str, got: str = "") -> NoMemory:
    """The error to raise if there is too little memory for `what`."""
    fix = "Use --device cpu, or free the GPU's memory."
    return NoMemory(f"the GPU has not enough memory for {what}", got=got, fix=fix)


class Work(Protocol):
    """Texts to be computed at once, which can be divided."""

    @property
    def n_texts(self) -> int:
        """Number of texts."""

    @property
    def n_tokens(self) -> int:
        """Number of tokens, with padding where the device computes it."""

    def halves(self) -> tuple[Self, Self]:
        """Two non-empty parts; called for two texts or more."""


W = TypeVar("W", bound=Work)


class Budget:
    """The maximum number of tokens at once; a single text may exceed it."""

    def __init__(self, max_tokens: int, remember: Callable[[int], None] = lambda max_tokens: None) -> None:
        """Start with `max_tokens`; `remember` is called with every smaller number that worked."""
        self.max_tokens, self._remember = max_tokens, remember

    def fit(self, work: W, compute: Callable[[W], R]) -> Iterator[R]:
        """The results of `compute` for `work`, divided until it fits the budget and the device's memory.

        Raises:
            NoMemory: a single text does not fit.
        """
        if work.n_texts > 1 and work.n_tokens > self.max_tokens:
            for half in work.halves():
                yield from self.fit(half, compute)
            return
        try:
            result = compute(work)
        except DeviceFull as error:
            if work.n_texts == 1:
                raise no_memory("a single text", f"{work.n_tokens} tokens") from error
        else:
            yield result
            return
        # Outside the handler: the exception keeps the memory of the failed attempt allocated.
        self.max_tokens = min(self.max_tokens, work.n_tokens) // 2
        yield from self.fit(work, compute)
        self._remember(self.max_tokens)
