"""One pool of Python threads for compiled code that holds no lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class _Pool:
    """Made when first needed, and anew after a fork, which no thread survives."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._pool, self._size = None, 0

    def share(self, work: Callable[[int, int, int], None], tiles: int, threads: int) -> None:
        """Calls work(thread, first tile, end tile) for equal runs of tiles, and waits."""
        if tiles == 0:
            return
        cuts = [tiles * i // threads for i in range(threads + 1)]
        if threads == 1:
            work(0, 0, tiles)
            return
        if self._pool is None or self._size < threads:
            self._pool, self._size = ThreadPoolExecutor(threads, "graphnn"), threads
        list(self._pool.map(work, range(threads), cuts[:-1], cuts[1:]))


_POOL = _Pool()


def share(work: Callable[[int, int, int], None], tiles: int, threads: int) -> None:
    """Calls work(thread, first tile, end tile) for equal runs of tiles, and waits.

    Args:
        work: Called once a thread; an exception of its own is raised here.
        tiles: How many there are; may be 0.
        threads: How many to use, at most one a tile. One means the caller's own.
    """
    _POOL.share(work, tiles, threads)
