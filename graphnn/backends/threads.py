"""One pool of Python threads for compiled code that holds no lock."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch

# Numbers from which on copying them is shared between threads.
_LARGE = 200_000


def _core_teller() -> Callable[[], int] | None:
    """What tells the core that the caller is on; None where cores cannot be chosen."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    # Not CDLL, whose calls give Python's lock away.
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


_core = _core_teller()


class _Worker:
    """A thread that does what arrives in `tasks`: work, its part, and where failures go."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[tuple[Callable[[int], None], int, SimpleQueue[Any]]] = SimpleQueue()
        thread = threading.Thread(target=self._serve, name="graphnn", daemon=True)
        thread.start()
        self.id = thread.native_id

    def _serve(self) -> None:
        while True:
            work, part, done = self.tasks.get()
            failure = None
            try:
                work(part)
            except BaseException as error:  # The caller raises it again.
                failure = error
            done.put(failure)
            # Nothing of a call outlives it here, while the thread waits for the next.
            del work, done, failure


class _Pool:
    """Made when first needed, and anew after a fork, which no thread survives."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._workers: list[_Worker] = []
        self._growing = threading.Lock()
        # The core that no worker may use, and how many workers know.
        self._kept_free = (-1, 0)

    def share(self, work: Callable[[int], None], threads: int) -> None:
        """Calls work(0) ... work(threads - 1) at the same time, and waits."""
        if threads == 1:
            work(0)
            return
        if len(self._workers) < threads - 1:
            with self._growing:
                while len(self._workers) < threads - 1:
                    self._workers.append(_Worker())
        workers, done = self._workers[: threads - 1], SimpleQueue()
        if _core is not None and self._kept_free != (_core(), len(self._workers)):
            self._keep_free(_core())
        for part, worker in enumerate(workers, 1):
            worker.tasks.put((work, part, done))
        try:
            work(0)
        finally:
            # Also where the caller's own part fails, the arrays must outlive the others'.
            failures = [done.get() for _ in workers]
        for failure in failures:
            if failure is not None:
                raise failure

    def _keep_free(self, core: int) -> None:
        """Keeps the workers off the caller's core.

        A system that wakes a worker there, though another core is idle, lets it wait until the next
        tick of its clock: some milliseconds, as long as many calls take.
        """
        cores = os.sched_getaffinity(0) - {core}
        if not cores:
            return
        workers = list(self._workers)
        for worker in workers:
            try:
                os.sched_setaffinity(worker.id or 0, cores)
            except OSError:
                # Not allowed here: the workers stay where the system puts them.
                break
        self._kept_free = (core, len(workers))


_POOL = _Pool()


def share(work: Callable[[int], None], threads: int) -> None:
    """Calls work(0) ... work(threads - 1) at the same time, and waits.

    Args:
        work: An exception of its own is raised here. It must not share work itself.
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
    if parts == 1:
        work(0, count)
        return
    cuts = [count * i // parts for i in range(parts + 1)]
    _POOL.share(lambda part: work(cuts[part], cuts[part + 1]), parts)
