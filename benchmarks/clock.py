"""Timing several contenders in turn, so that a busy moment of the machine slows all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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


def in_turn(runs: Runs, repeats: int) -> dict[str, list[float]]:
    """Seconds of every run, `repeats` times all of them in turn, after a round that warms up."""
    for run in runs.values():
        seconds(run)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


class Others:
    """How much of the machine all but this process and some others take; Linux only, elsewhere 0.

    Args:
        own: Identifiers of the processes that count as this one.
    """

    def __init__(self, own: Sequence[int] = ()) -> None:
        self.own = own
        self.start = self._clocks()

    def _clocks(self) -> tuple[float, float]:
        """Seconds that have passed, and that the cores spent on others."""
        now = time.perf_counter()
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            used = sum(_ticks(process) for process in self.own)
        except OSError:
            return now, 0.0
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
        busy = user + nice + system + irq + softirq + steal - used
        return now, busy / os.sysconf("SC_CLK_TCK") - time.process_time()

    def cores(self) -> float:
        """The number of cores that were busy for others, since this object was made."""
        (before, taken_before), (now, taken_now) = self.start, self._clocks()
        return max(0.0, (taken_now - taken_before) / (now - before))


def _ticks(process: int) -> int:
    """Ticks of the clock that a process has had; 0 of one that has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return 0
    # After the name, which may hold anything, in brackets.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_for_quiet(below: float, patience: float, own: Sequence[int] = ()) -> None:
    """Waits until others take fewer cores than `below` for half a second; `patience` s at most."""
    start = time.perf_counter()
    while time.perf_counter() - start < patience:
        others = Others(own)
        time.sleep(0.5)
        if others.cores() < below:
            return


def quantiles(taken: list[float]) -> list[float]:
    """The 20 % quantile, the median and the 80 % quantile, to four significant digits."""
    low, high = np.quantile(taken, [0.2, 0.8])
    return [float(f"{value:.4g}") for value in (low, statistics.median(taken), high)]
