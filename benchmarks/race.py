"""One case: every contender made, checked, timed in turn and weighed, in its own process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clock import Others, quantiles, wait_for_quiet
from benchmarks.contenders import CONTENDERS, OWN, REFERENCE
from benchmarks.ladder import Case
from benchmarks.problem import TRAINING, Problem
from benchmarks.process import Failed, Gone, Pool
from benchmarks.roofline import Roofline
from benchmarks.worker import ONCE_SECONDS, WARMED_SECONDS

TOLERANCE = 1e-4
# Edge x sample products that the float64 reference may take for a check, and samples at most.
CHECKED_PRODUCTS, CHECKED_SAMPLES = 20_000_000, 16
# Cores that other processes may take in a measurement; a disturbed one is made again.
QUIET, ATTEMPTS = 0.15, 3
LEAST_ROUNDS, MOST_ROUNDS = 3, 200


@dataclass(frozen=True)
class Settings:
    """How a run measures.

    Args:
        rooflines: Threads -> its constants; the thread counts of the run, in order.
        chosen: Contenders to run.
        budget: Seconds for the rounds of a row.
        patience: Seconds to wait for a quiet machine, each time; 0 for a run as it comes.
    """

    rooflines: dict[int, Roofline]
    chosen: tuple[str, ...]
    budget: float
    patience: float


@dataclass(frozen=True)
class Start:
    """A contender on its way to a row.

    Args:
        facts: What is known of it, for the JSON line.
        skipped: Mode -> why it is not run.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def told(self, **facts: Any) -> Start:
        """The same with more facts."""
        return replace(self, facts={**self.facts, **facts})

    def without(self, reasons: dict[str, str]) -> Start:
        """The same with these modes skipped, unless an earlier reason stands."""
        return replace(self, skipped={**reasons, **self.skipped})


class Race:
    """One case in a run.

    Args:
        case: What is run.
        pool: The contenders' processes.
        settings: How.
        folder: For the problem; no other case uses it.
    """

    def __init__(self, case: Case, pool: Pool, settings: Settings, folder: Path) -> None:
        self.case, self.pool, self.settings, self.folder = case, pool, settings, folder
        names = list(case.contenders)
        if pool.base is not None and OWN in names:
            names.insert(names.index(OWN) + 1, pool.base[0])
        self.names = [name for name in names if name in settings.chosen]
        # Why a contender is not tried again, at another number of threads, say.
        self.given_up: dict[str, str] = {}

    def lines(self) -> Iterator[dict[str, Any]]:
        """One line for each number of threads, batch size and mode."""
        if self.case.alone:
            self.pool.end()
        if self.case.probe is not None:
            self._try_out(self.case.probe())
        problem, folder = self.case.make(), self.folder / "own"
        checked = self._write(problem, folder, self.case.batches)
        facts = {
            "benchmark": "ladder",
            "family": self.case.family,
            "case": self.case.name,
            "edges": problem.num_edges,
            "neurons": problem.num_neurons,
            "levels": problem.num_levels,
            "window": max(neurons + pool for neurons, pool in problem.dense_shapes()),
        }
        del problem
        for threads in self.settings.rooflines:
            starts = {name: self._prepared(name, threads, folder) for name in self.names}
            for batch in self.case.batches:
                runners = {
                    name: self._admitted(name, threads, start, batch, checked[batch])
                    for name, start in starts.items()
                }
                for mode in self.case.modes:
                    row = {**facts, "batch": batch, "mode": mode, "threads": threads}
                    yield {**row, **self._measured(row, runners)}
            self.pool.drop()
        if self.case.alone:
            self.pool.end()

    def _try_out(self, probe: Problem) -> None:
        """Gives contenders up whose results on a small network of the kind are wrong."""
        batch, threads, folder = (
            probe.x.shape[0],
            max(self.settings.rooflines),
            self.folder / "probe",
        )
        checked = self._write(probe, folder, (batch,))[batch]
        for name in self.names:
            start = self._prepared(name, threads, folder)
            for reason in self._admitted(name, threads, start, batch, checked).skipped.values():
                if "wrong" in reason:
                    self.given_up[name] = reason

    def _write(
        self, problem: Problem, folder: Path, batches: tuple[int, ...]
    ) -> dict[int, list[int]]:
        """Writes a problem and what to expect of it; gives batch -> the samples to check."""
        problem.save(folder)
        most = CHECKED_PRODUCTS // problem.num_edges
        reference = self.pool.get(REFERENCE, max(self.settings.rooflines))
        reference.ask("prepare", str(folder))
        chosen = {}
        for batch in batches:
            count = max(1, min(batch, most, CHECKED_SAMPLES))
            # The middles of equal parts: every tile and thread has its share.
            chosen[batch] = ((2 * np.arange(count) + 1) * batch // (2 * count)).tolist()
            reference.ask("expect", batch, chosen[batch], TRAINING in self.case.modes)
        reference.ask("drop")
        return chosen

    def _prepared(self, name: str, threads: int, folder: Path) -> Start:
        """A contender that is made of the problem."""
        missing = None if self.pool.is_base(name) else CONTENDERS[name].missing()
        if missing is not None:
            return Start().without(dict.fromkeys(self.case.modes, f"not installed: {missing}"))
        if name in self.given_up:
            return Start().without(dict.fromkeys(self.case.modes, self.given_up[name]))
        try:
            facts = self.pool.get(name, threads).ask("prepare", str(folder))
        except Failed as failed:
            return Start().without(dict.fromkeys(self.case.modes, self._gives_up(name, failed)))
        reasons = facts.pop("unsupported")
        return Start(facts).without({mode: why for mode, why in reasons.items() if why})

    def _admitted(
        self, name: str, threads: int, start: Start, batch: int, checked: list[int]
    ) -> Start:
        """A contender that has the batch, and whose results are right."""
        modes = [mode for mode in self.case.modes if mode not in start.skipped]
        if not modes:
            return start
        process = self.pool.get(name, threads)
        try:
            start = start.told(**process.ask("feed", batch, checked))
            error = process.ask("check", TRAINING in modes)
        except Failed as failed:
            return start.without(dict.fromkeys(modes, self._gives_up(name, failed)))
        # NaN is no number below the tolerance either.
        if not error <= TOLERANCE:
            reason = f"wrong by {error:.1e} of the largest number"
            return start.without(dict.fromkeys(modes, reason))
        return start.told(error=float(f"{error:.1e}"))

    def _gives_up(self, name: str, failed: Failed) -> str:
        """The reason; one that hung or died is not given another try in this case."""
        if isinstance(failed, Gone):
            self.given_up[name] = str(failed)
        return str(failed)

    def _measured(self, row: dict[str, Any], runners: dict[str, Start]) -> dict[str, Any]:
        """What is measured of a row, at the quietest of some attempts."""
        mode, threads = row["mode"], row["threads"]
        racing = [name for name, start in runners.items() if mode not in start.skipped]
        skipped = {
            name: start.skipped[mode] for name, start in runners.items() if mode in start.skipped
        }
        best: tuple[dict[str, list[float]], float] = {}, float("inf")
        for _ in range(ATTEMPTS):
            wait_for_quiet(QUIET, self.settings.patience, self.pool.identifiers())
            others = Others(self.pool.identifiers())
            times = self._times(racing, threads, mode, skipped)
            taken = others.cores()
            best = min(best, (times, taken), key=lambda found: found[1])
            if taken <= QUIET or self.settings.patience == 0:
                break
        times, taken = best
        roofline = self.settings.rooflines[threads]
        limits = roofline.limits(row["edges"], row["neurons"], row["window"], row["batch"], mode)
        passes = 3 if mode == TRAINING else 1
        contenders = {}
        for name in racing:
            if name in skipped:
                continue
            facts = runners[name].facts
            spread = quantiles(times[name])
            # Of a contender that took fewer samples, as if time grew with them.
            whole = spread[1] * row["batch"] / facts["samples"]
            contenders[name] = {
                **facts,
                "seconds_20_50_80": spread,
                "rounds": len(times[name]),
                "rate": float(f"{passes * row['edges'] * row['batch'] / whole / 1e9:.4g}"),
                "of_t0": float(f"{limits[0] / whole:.3g}"),
                "of_t1": float(f"{limits[1] / whole:.3g}"),
                "peak_bytes": self.pool.get(name, threads).ask("memory", mode),
            }
        return {
            "others": round(taken, 2),
            "roofline": asdict(roofline),
            "t0_t1_seconds": [float(f"{limit:.4g}") for limit in limits],
            "contenders": contenders,
            "skipped": skipped,
        }

    def _times(
        self, racing: list[str], threads: int, mode: str, skipped: dict[str, str]
    ) -> dict[str, list[float]]:
        """Seconds of every contender that runs, round by round; who fails goes to `skipped`."""

        def timed(name: str, estimate: float) -> float:
            try:
                return self.pool.get(name, threads).ask("time", mode, estimate)
            except Failed as failed:
                skipped[name] = str(failed)
                return float("nan")

        first = {name: timed(name, float("inf")) for name in racing}
        # The first says little: nothing that it needs was in a cache, or in memory of its own.
        again = {
            name: timed(name, taken) for name, taken in first.items() if taken <= WARMED_SECONDS
        }
        first |= {name: min(taken, first[name]) for name, taken in again.items()}
        times: dict[str, list[float]] = {name: [] for name in first}
        start = time.perf_counter()
        for done in range(MOST_ROUNDS):
            if done >= LEAST_ROUNDS and time.perf_counter() - start > self.settings.budget:
                break
            for name, estimate in first.items():
                if name not in skipped and estimate <= ONCE_SECONDS:
                    times[name].append(timed(name, estimate))
        return {name: taken or [first[name]] for name, taken in times.items()}
