"""The ladder on one GPU: ``python -m benchmarks.gpu --output benchmarks/results/gpu.jsonl``.

It takes less than eight minutes: each case, and all of them, have so many seconds, after which no
contender is begun. What fails is told, and the rest is measured. Each contender's outputs and
gradients by weight are compared with the backend "reference" in float64 before it is timed, on some
samples of the full batch. Times are CUDA events around one call, the median of several; memory is
torch's peak above what the contender holds at rest. With ``--quick``, tiny networks run where there
is no GPU too, in Triton's interpreter: to see that all of it works, not how fast.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import graphnn
from benchmarks import gpu_scale, networks
from benchmarks.clock import quantiles
from benchmarks.conditions import conditions, save
from benchmarks.contenders.own import Auto
from benchmarks.gpu_cases import Case, cases
from benchmarks.gpu_clock import Clock, device_for, limits, roofline
from benchmarks.gpu_contenders import Contender, Kind
from benchmarks.problem import FORWARD, TRAINING, Problem

# Edge x sample products that the float64 reference may take for a check, and samples at most.
CHECKED_PRODUCTS, CHECKED_SAMPLES = 200_000_000, 16
# Seconds after which no contender of any case is begun: the scale and the triplets come last, and
# what was begun before takes its time.
LADDER_SECONDS = 390


class Expected:
    """What is right, on some samples of a batch."""

    def __init__(self, problem: Problem, device: torch.device, training: bool) -> None:
        count = min(CHECKED_SAMPLES, max(1, CHECKED_PRODUCTS // problem.num_edges))
        self.samples = np.unique(np.linspace(0, problem.x.shape[0] - 1, count).astype(int))
        net = Auto(problem).net
        twin = graphnn.Network(
            net.graph, net.weight.detach().double(), net.bias.detach().double(), "reference",
            device=device,
        )  # fmt: skip
        x = torch.tensor(problem.x[self.samples], device=device).double()
        with torch.set_grad_enabled(training):
            outputs = twin(x)
        self.outputs, self.by_weight = outputs.detach().cpu(), None
        if training:
            seed = torch.tensor(problem.seed[self.samples], device=device).double()
            self.by_weight = torch.autograd.grad(outputs, twin.weight, seed)[0].cpu()

    def error(self, contender: Contender, x: Tensor, seed: Tensor, mode: str) -> float:
        """Its worst error, as a part of the largest expected number."""
        errors = [gpu_scale.relative(contender.outputs(x)[self.samples], self.outputs)]
        if mode == TRAINING and self.by_weight is not None:
            only = torch.zeros_like(seed)
            only[self.samples] = seed[self.samples]
            errors.append(gpu_scale.relative(contender.by_weight(x, only), self.by_weight))
        return max(errors)


class Measured:
    """One case on a device: its problem, its samples and what is right.

    Args:
        case: The case.
        device: Where it runs.
        clock: Of the device.
        reached: What `roofline` returns.
        budget: Seconds of timed calls a row.
    """

    def __init__(
        self, case: Case, device: torch.device, clock: Clock, reached: dict[str, float],
        budget: float,
    ) -> None:  # fmt: skip
        self.case, self.device, self.clock = case, device, clock
        self.reached, self.budget = reached, budget
        self.problem = problem = case.make()
        self.x = torch.tensor(problem.x, device=device)
        # A gradient by the outputs, as large as they are, only where one is asked for.
        trains = TRAINING in case.modes
        self.seed = torch.tensor(problem.seed, device=device) if trains else self.x[:, :1]
        self.expected = Expected(problem, device, trains)

    def facts(self) -> dict[str, int]:
        """Its sizes."""
        problem = self.problem
        return {
            "batch": self.x.shape[0], "edges": problem.num_edges, "neurons": problem.num_neurons,
            "levels": problem.num_levels,
        }  # fmt: skip

    def rows(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """A line for each mode; a contender that is not right in one is not timed in it."""
        start = time.perf_counter()
        contender = kind.make(self.problem, self.device)
        built = time.perf_counter() - start
        for mode in self.case.modes:
            error = self.expected.error(contender, self.x, self.seed, mode)
            line = {"mode": mode, "contender": kind.name}
            if error <= kind.tolerance:
                yield {
                    **line, "note": contender.note(self.x), "error": float(f"{error:.1e}"),
                    "build_seconds": round(built, 2), **self._timed(contender, mode),
                }  # fmt: skip
            else:
                yield {**line, "skipped": f"wrong by {error:.1e} of the maximum"}

    def _timed(self, contender: Contender, mode: str) -> dict[str, Any]:
        problem, batch, kind = self.problem, self.x.shape[0], contender.kind
        given = contender.arranged(self.x, self.seed)
        run = contender.forward if mode == FORWARD else contender.gradients
        peak = self.clock.peak(lambda: run(*given))
        taken = self.clock.rounds(lambda: run(*given), self.budget)
        middle, widths = statistics.median(taken), np.bincount(problem.level)
        t0, t1 = limits(
            self.reached, problem.num_edges, int((widths[1:] + widths[:-1]).max()),
            problem.num_neurons, problem.num_levels, batch, mode, kind.dtype.itemsize,
        )  # fmt: skip
        passes = 1 if mode == FORWARD else 3
        return {
            "seconds_20_50_80": quantiles(taken),
            "rounds": len(taken),
            "rate": float(f"{passes * problem.num_edges * batch / middle / 1e9:.4g}"),
            "microseconds_a_level": float(f"{1e6 * middle / (problem.num_levels - 1):.4g}"),
            "of_t0": float(f"{t0 / middle:.3g}"),
            "of_t1": float(f"{t1 / middle:.3g}"),
            "peak_bytes": peak,
        }


def measure(
    case: Case, device: torch.device, clock: Clock, reached: dict[str, float], budget: float,
    end: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A line for each contender and mode.

    Args:
        case: As for `Measured`, and so on to `budget`.
        device: As there.
        clock: As there.
        reached: As there.
        budget: As there.
        end: When no contender is begun any more, whatever the case may take.
    """
    end = min(end, time.perf_counter() + case.seconds)
    facts: dict[str, Any] = {"benchmark": "gpu", "family": case.family, "case": case.name}
    made: Measured | None = None
    wrong = ""
    if time.perf_counter() < end:
        try:
            made = Measured(case, device, clock, reached, budget)
            facts |= made.facts()
        except Exception as failed:
            wrong = said(failed)
    for kind in case.contenders:
        missing = list(case.modes)
        why = wrong or f"no time was left: the case has {case.seconds:.0f} s"
        if made is not None and time.perf_counter() < end:
            try:
                for row in made.rows(kind):
                    missing.remove(row["mode"])
                    yield {**facts, **row}
            except Exception as failed:
                # Whatever a contender's library raises, the others are still to be measured.
                why = said(failed)
        # Out here nothing holds the frames of what failed, and their tensors.
        _clean(device)
        for mode in missing:
            yield {**facts, "mode": mode, "contender": kind.name, "skipped": why}


def said(failed: Exception) -> str:
    """An error in one line."""
    first = (str(failed).splitlines() or [""])[0]
    return f"{type(failed).__name__}: {first[:200]}"


def triplets(device: torch.device, clock: Clock, quick: bool) -> Iterator[dict[str, Any]]:
    """A line for triplets of one complete level, beside a copy of them."""
    width, batch = (20, 3) if quick else (1000, 256)
    model = torch.nn.Sequential(torch.nn.Linear(width, width))
    net = graphnn.from_sequential(model).to(device)
    with torch.no_grad():
        trace = net.trace(torch.randn(batch, width, device=device))
        own = clock.rounds(lambda: trace.triplets(), 0.5)
        made = trace.triplets()[0]
        copied = clock.rounds(lambda: made.clone(), 0.5)
    yield {
        "benchmark": "gpu", "family": "triplets", "case": f"{width**2:,} edges", "batch": batch,
        "seconds_20_50_80": {"triplets": quantiles(own), "clone": quantiles(copied)},
        "speed_over_clone": round(statistics.median(copied) / statistics.median(own), 3),
    }  # fmt: skip


def gpu_versions(device: torch.device) -> dict[str, str]:
    """Of what only a GPU needs: Triton, CUDA and the driver."""
    found = {}
    if find_spec("triton") is not None:
        found["triton"] = version("triton")
    if device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.CalledProcessError):
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found["driver"] = told.split()[0]
    return found


def _clean(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--case", default="", help="only cases whose 'family: name' contains this")
    parser.add_argument("--quick", action="store_true", help="tiny networks: to see that it runs")
    parser.add_argument("--scale", type=int, default=1_000_000_000, help="edges of the largest one")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of timed calls a row")
    parser.add_argument("--output", type=Path, help="file for the JSON lines")
    arguments = parser.parse_args()
    device = device_for("gpu", arguments.quick)
    clock, start = Clock(device), time.perf_counter()
    reached = roofline(device, clock)
    print(reached, flush=True)
    now = conditions()
    now["versions"] |= gpu_versions(device)
    run = Run(now, reached, arguments.output)
    # Compiles what builds networks, which the first case would pay for.
    Auto(networks.by_fan_in([4, 4, 4], 2, 3))
    for case in cases(arguments.quick):
        if arguments.case in f"{case.family}: {case.name}":
            end = start + LADDER_SECONDS
            run.add(case.family, measure(case, device, clock, reached, arguments.budget, end))
            _clean(device)
    if arguments.case in "scale":
        run.add("scale", gpu_scale.lines(device, clock, arguments.scale, arguments.quick))
        _clean(device)
    if arguments.case in "triplets":
        run.add("triplets", triplets(device, clock, arguments.quick))
    print(f"{time.perf_counter() - start:.0f} s")
    if arguments.output is None:
        save(run.lines, None)


class Run:
    """The lines of a run; a run that is cut off leaves what it has.

    Args:
        now: The machine and its versions.
        reached: What `roofline` returns.
        output: The file, or None.
    """

    def __init__(self, now: dict[str, Any], reached: dict[str, float], output: Path | None) -> None:
        self.now, self.reached, self.output = now, reached, output
        self.lines: list[dict[str, Any]] = []

    def add(self, family: str, lines: Iterable[dict[str, Any]]) -> None:
        """Shows a family's lines as they come, and saves them, also where they break off."""
        facts = {"benchmark": "gpu", "family": family, "case": "all", "mode": "all"}
        try:
            for line in lines:
                self._show(line)
        except Exception as failed:
            # The families that follow are still to be measured.
            self._show({**facts, "contender": "graphnn", "skipped": said(failed)})
        finally:
            if self.output is not None:
                save(self.lines, self.output)

    def _show(self, line: dict[str, Any]) -> None:
        self.lines.append({**self.now, "roofline": self.reached, **line})
        name = f"{line['family']}: {line['case']}"
        if "mode" in line:
            name += f", {line['mode']}, {line['contender']}"
        shown = line.get("skipped") or str(line["seconds_20_50_80"])
        print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
