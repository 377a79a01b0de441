"""A contender's own process: ``python -m benchmarks.worker FD NAME THREADS``; started by `process`.

One process a contender keeps libraries from each other: a thread pool that spins, an allocator
that keeps memory, an import that changes settings, a crash. It answers messages on a pipe:
(method, arguments) gives (result, None) or (None, what went wrong).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# A call that takes longer than this is timed as it comes, without an untimed one before it.
WARMED_SECONDS = 2.0
# A call that takes longer than this is not timed in every round.
ONCE_SECONDS = 0.4
# Shorter calls follow one another for at least this long before any is timed, as in training: after
# a rest the caches are somebody else's, and it takes several calls until they are the caller's.
WARM_SECONDS = 0.1
# The timed calls take about this long, and their mean is taken.
REPEAT_SECONDS = 2e-2
# Longer than OpenMP's threads spin.
SETTLE = 0.02


def limit_threads(threads: int) -> None:
    """Keeps this process, and every pool that it makes later, to so many cores and threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)


class Worker:
    """Holds one contender and what it is to be run on."""

    def __init__(self, name: str) -> None:
        from benchmarks.contenders import CONTENDERS

        self.kind = CONTENDERS[name].load()
        self.drop()

    def prepare(self, folder: str) -> dict[str, Any]:
        """Makes the contender of a problem, if it can run it; says why not, for each mode."""
        from benchmarks import resident
        from benchmarks.problem import FORWARD, TRAINING, Problem

        self.drop()
        self.folder, self.problem = Path(folder), Problem.load(Path(folder))
        samples = self.problem.x.shape[0]
        reasons = {
            mode: self.kind.unsupported(self.problem, mode, samples) for mode in (FORWARD, TRAINING)
        }
        self.before = resident.now()
        start = time.perf_counter()
        if not all(reasons.values()):
            self.contender = self.kind(self.problem)
        taken = time.perf_counter() - start
        return {
            "unsupported": reasons,
            # A contender that says itself what it took leaves out the reading of the arrays.
            "build_seconds": getattr(self.contender, "build_seconds", taken),
            "build_bytes": resident.now() - self.before,
        }

    def feed(self, batch: int, checked: list[int]) -> dict[str, Any]:
        """Arranges a batch: all of it, or as many samples as the contender takes.

        Args:
            batch: B.
            checked: The samples that `check` compares, which are among those taken.
        """
        import numpy as np
        import torch

        self.batch = batch
        taken = min(batch, max(self.kind.most_samples(self.problem), len(checked)))
        rows = np.arange(batch)
        if taken < batch:
            rows = np.concatenate([checked, np.setdiff1d(rows, checked)])[:taken]
        self.places = np.searchsorted(rows, checked) if taken == batch else np.arange(len(checked))
        x, seed = torch.tensor(self.problem.x[rows]), torch.tensor(self.problem.seed[rows])
        only = torch.zeros_like(seed)
        only[self.places] = seed[self.places]
        arranged = self.contender.arranged
        self.x, self.seed, self.checked_seed = arranged(x), arranged(seed), arranged(only)
        describe = getattr(self.contender, "describe", lambda _x: "")
        return {"samples": taken, "note": describe(self.x)}

    def check(self, training: bool) -> float:
        """Errors of outputs and gradients as parts of the largest expected number; the worst."""
        import numpy as np

        expected = np.load(self.folder / f"expected-{self.batch}.npz")
        outputs = self.contender.outputs(self._forward())[self.places]
        found = {"outputs": outputs}
        if training:
            gradients = self.contender.gradients(self.x, self.checked_seed)
            by_weight, by_bias = self.contender.in_graph_order(gradients)
            found |= {"by_weight": by_weight, "by_bias": by_bias}
        return max(
            float(np.abs(value - expected[name]).max() / np.abs(expected[name]).max())
            for name, value in found.items()
        )

    def expect(self, batch: int, checked: list[int], training: bool) -> None:
        """Writes what `check` compares with; for the reference only."""
        import numpy as np

        seed = self.problem.seed[checked] if training else None
        names = ("outputs", "by_weight", "by_bias")
        found = self.contender.expected(np.array(self.problem.x[checked]), seed)
        values = {
            name: value for name, value in zip(names, found, strict=True) if value is not None
        }
        np.savez(self.folder / f"expected-{batch}.npz", **values)

    def time(self, mode: str, estimate: float) -> float:
        """Seconds of one call, the mean of several where `estimate` says that it is short."""
        run = self._run(mode)
        if estimate <= WARMED_SECONDS:
            time.sleep(SETTLE)
            start = time.perf_counter()
            run()
            while time.perf_counter() - start < WARM_SECONDS:
                run()
        count = max(1, min(1000, int(REPEAT_SECONDS / estimate)))
        result = None
        start = time.perf_counter()
        for _ in range(count):
            result = run()
        taken = (time.perf_counter() - start) / count
        # Let go of outside the timed part.
        del result
        return taken

    def memory(self, mode: str) -> dict[str, int] | None:
        """Bytes at the peak of a call: beyond those before it, and beyond those before `prepare`.

        None where the system does not tell.
        """
        from benchmarks import resident

        before = resident.now()
        if not resident.reset_peak():
            return None
        self._run(mode)()
        peak = resident.peak()
        return {"call": max(0, peak - before), "all": max(0, peak - self.before)}

    def drop(self) -> None:
        """Lets go of everything but the libraries."""
        self.contender: Any = None
        self.problem: Any = None
        self.x, self.seed, self.checked_seed = None, None, None

    def _run(self, mode: str) -> Any:
        from benchmarks.problem import FORWARD

        if mode == FORWARD:
            return self._forward
        return lambda: self.contender.gradients(self.x, self.seed)

    def _forward(self) -> Any:
        import torch

        with torch.inference_mode():
            return self.contender.forward(self.x)


def main() -> None:
    descriptor, name, threads = sys.argv[1:]
    limit_threads(int(threads))
    connection = Connection(int(descriptor))
    warnings.simplefilter("ignore")
    worker: Worker | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            worker = worker or Worker(name)
            answer = getattr(worker, method)(*arguments), None
        except Exception as error:
            traceback.print_exc()
            answer = None, f"{type(error).__name__}: {error}"
        connection.send(answer)


if __name__ == "__main__":
    main()
