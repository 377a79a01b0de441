"""Timing several contenders in turn, so that a busy moment of the machine slows all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Runs = Mapping[str, Callable[[], Any]]


def seconds(run: Callable[[], Any]) -> float:
    """How long one call takes; the result is let go of outside the timed part."""
    start = time.perf_counter()
    result = run()
    taken = time.perf_counter() - start
    del result
    return taken


def in_turn(
    runs: Runs,
    repeats: int,
    budget: float = float("inf"),
    at_least: int = 1,
    settle: float = 0,
) -> dict[str, list[float]]:
    """Seconds of every run, all of them in turn, after one round that warms up.

    Args:
        runs: Name -> what to time.
        repeats: Rounds, at most.
        budget: Seconds after which no further round begins, once there are `at_least`.
        at_least: Rounds, at least.
        settle: Seconds to wait before every timed run, which then follows an untimed one. OpenMP's
            threads spin for milliseconds after their work is done; waiting keeps one contender's
            from holding the core that the next one needs.
    """
    for run in runs.values():
        seconds(run)
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for done in range(repeats):
        if done >= at_least and time.perf_counter() - start > budget:
            break
        for name, run in runs.items():
            if settle:
                time.sleep(settle)
                seconds(run)
            times[name].append(seconds(run))
    return times


class Others:
    """How much of the machine everything but this process takes; Linux only, elsewhere 0."""

    def __init__(self) -> None:
        self.start = self._clocks()

    @staticmethod
    def _clocks() -> tuple[float, float]:
        """Seconds that have passed, and that the cores spent on others."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        except OSError:
            return time.perf_counter(), 0.0
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - time.process_time()

    def cores(self) -> float:
        """The number of cores that were busy for others, since this object was made."""
        (before, taken_before), (now, taken_now) = self.start, self._clocks()
        return max(0.0, (taken_now - taken_before) / (now - before))


def wait_for_quiet(below: float, patience: float) -> None:
    """Waits until others take fewer cores than `below` for half a second; `patience` s at most."""
    start = time.perf_counter()
    while time.perf_counter() - start < patience:
        others = Others()
        time.sleep(0.5)
        if others.cores() < below:
            return


def quantiles(taken: list[float]) -> list[float]:
    """The 20 % quantile, the median and the 80 % quantile, to four significant digits."""
    low, high = np.quantile(taken, [0.2, 0.8])
    return [float(f"{value:.4g}") for value in (low, statistics.median(taken), high)]
