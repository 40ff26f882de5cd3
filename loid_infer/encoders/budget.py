"""How many tokens a device is given at once: half as many whenever it ran out of memory, and remembered.

The file knows neither devices nor models: whoever computes says `DeviceFull`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self, TypeVar

from loid_infer.errors import NoMemory

R = TypeVar("R")

_FULL = ("out of memory", "failed to allocate memory", "alloc_failed")


class DeviceFull(Exception):
    """The device has not enough memory for this piece of work."""


def is_full(error: Exception) -> bool:
    """Whether a library's `error` says that a GPU's memory is full; each says it in several ways."""
    return any(sign in str(error).lower() for sign in _FULL)


def no_memory(what: str, got: str = "") -> NoMemory:
    """What to raise where there is too little for `what`, and no less of it is possible."""
    return NoMemory(
        f"the GPU has not enough memory for {what}", got=got, fix="Use --device cpu, or free the GPU's memory."
    )


class Work(Protocol):
    """Texts to be computed at once, which can be fewer."""

    @property
    def n_texts(self) -> int:
        """How many."""

    @property
    def n_tokens(self) -> int:
        """Their tokens, as the device counts them."""

    def halves(self) -> tuple[Self, Self]:
        """The same in two pieces, neither of them empty; asked of two texts or more."""


W = TypeVar("W", bound=Work)


class Budget:
    """The most tokens at once; a single text may exceed it."""

    def __init__(self, max_tokens: int, remember: Callable[[int], None] = lambda max_tokens: None) -> None:
        """Begin with `max_tokens`; `remember` is told of every smaller number that did."""
        self.max_tokens, self._remember = max_tokens, remember

    def fit(self, work: W, compute: Callable[[W], R]) -> Iterator[R]:
        """What `compute` makes of `work`, in as many pieces as the budget and the device's memory ask for.

        Raises:
            NoMemory: there is too little for a single text.
        """
        if work.n_texts > 1 and work.n_tokens > self.max_tokens:
            for half in work.halves():
                yield from self.fit(half, compute)
            return
        try:
            made = compute(work)
        except DeviceFull as error:
            if work.n_texts == 1:
                raise no_memory("a single text", f"{work.n_tokens} tokens") from error
        else:
            yield made
            return
        # Out of the handler, where the error would keep what the failed attempt had allocated.
        self.max_tokens = min(self.max_tokens, work.n_tokens) // 2
        yield from self.fit(work, compute)
        self._remember(self.max_tokens)
