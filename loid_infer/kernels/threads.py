"""Several operations at once, each on one thread.

Threads that share an operation of less than a millisecond wait for each other longer than they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Workers:
    """Threads beside the caller's; without a pool, the caller does everything."""

    pool: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        """`function` of each of `jobs`, in their order. The first is the caller's."""
        if self.pool is None:
            return [function(job) for job in jobs]
        others = [self.pool.submit(function, job) for job in jobs[1:]]
        return [*map(function, jobs[:1]), *(other.result() for other in others)]

    def ahead(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """`function` of each of `jobs`, in their order; each is begun before the one before it is given out."""
        if self.pool is None:
            yield from map(function, jobs)
            return
        following: Future[Result] | None = None
        for job in jobs:
            before, following = following, self.pool.submit(function, job)
            if before is not None:
                yield before.result()
        if following is not None:
            yield following.result()


@contextmanager
def workers() -> Iterator[Workers]:
    """As many threads as torch has, the caller included. Inside the block each operation of torch takes one."""
    n = torch.get_num_threads()
    if n == 1:
        yield Workers()
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield Workers(pool)
    finally:
        torch.set_num_threads(n)
