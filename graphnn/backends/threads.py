"""One pool of Python threads for compiled code that holds no lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Numbers from which on copying them is shared between threads.
_LARGE = 200_000


class _Pool:
    """Made when first needed, and anew after a fork, which no thread survives."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._pool, self._size = None, 0

    def share(self, work: Callable[[int], None], threads: int) -> None:
        """Calls work(0) ... work(threads - 1) at the same time, and waits."""
        if threads > 1 and (self._pool is None or self._size < threads - 1):
            self._pool, self._size = ThreadPoolExecutor(threads - 1, "graphnn"), threads - 1
        pool = self._pool
        others = [pool.submit(work, thread) for thread in range(1, threads)] if pool else []
        try:
            work(0)
        finally:
            # Also where the caller's own part fails, the arrays must outlive the others'.
            failures = [other.exception() for other in others]
        for failure in failures:
            if failure is not None:
                raise failure


_POOL = _Pool()


def share(work: Callable[[int], None], threads: int) -> None:
    """Calls work(0) ... work(threads - 1) at the same time, and waits.

    Args:
        work: An exception of its own is raised here.
        threads: How many to use, the caller's among them; at least 1.
    """
    _POOL.share(work, threads)


def over(count: int, work: Callable[[int, int], None]) -> None:
    """Calls work(first, end) for parts of a range, and waits.

    For copies of numbers: torch's own threads would go on waiting for work, on the cores that ours
    are about to need.

    Args:
        count: The range's length. A short one is one part, run by the caller's thread.
        work: An exception of its own is raised here.
    """
    parts = torch.get_num_threads() if count >= _LARGE else 1
    cuts = [count * i // parts for i in range(parts + 1)]
    _POOL.share(lambda part: work(cuts[part], cuts[part + 1]), parts)
