"""The number of tokens a GPU computes at once: halved whenever it runs out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from loid_infer.errors import NoMemory
from loid_infer.types import Ints

R = TypeVar("R")

_FULL = ("out of memory", "failed to allocate memory", "alloc_failed")


def is_full(error: Exception) -> bool:
    """Whether `error` of a library means that the GPU's memory is full."""
    return any(text in str(error).lower() for text in _FULL)


def no_memory(what: str, got: str = "") -> NoMemory:
    """The error to raise if there is too little memory for `what`."""
    fix = "Use --device cpu, or free the GPU's memory."
    return NoMemory(f"the GPU has not enough memory for {what}", got=got, fix=fix)


class Work(Protocol):
    """Texts to be computed at once."""

    @property
    def slots(self) -> Ints:
        """`[n]`, the caller's numbers of the texts."""


W = TypeVar("W", bound=Work)


class Budget:
    """The maximum number of tokens at once; a single text may exceed it."""

    def __init__(self, max_tokens: int, remember: Callable[[int], None] = lambda max_tokens: None) -> None:
        """Start with `max_tokens`; `remember` is called with every smaller number that worked."""
        self.max_tokens, self._remember = max_tokens, remember

    def fit(
        self, work: W, compute: Callable[[W], R], size: Callable[[W], int], halves: Callable[[W], tuple[W, W]]
    ) -> Iterator[R]:
        """The results of `compute` for `work`, divided until it fits the budget and the device's memory.

        Args:
            size: number of tokens, with padding where the device computes it.
            halves: two non-empty parts of two texts or more.

        Raises:
            NoMemory: a single text does not fit.
        """
        n_tokens = size(work)
        if len(work.slots) > 1 and n_tokens > self.max_tokens:
            for half in halves(work):
                yield from self.fit(half, compute, size, halves)
            return
        try:
            result = compute(work)
        except Exception as error:
            if not is_full(error):
                raise
            if len(work.slots) == 1:
                raise no_memory("a single text", f"{n_tokens} tokens") from error
        else:
            yield result
            return
        # Outside the handler: the exception keeps the memory of the failed attempt allocated.
        self.max_tokens = min(self.max_tokens, n_tokens) // 2
        yield from self.fit(work, compute, size, halves)
        self._remember(self.max_tokens)
