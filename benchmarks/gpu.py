"""The ladder on one GPU: ``python -m benchmarks.gpu --output benchmarks/results/gpu.jsonl``.

It takes less than eight minutes: each case has so many seconds, after which no contender is begun.
Each contender's outputs and gradients by weight are compared with the backend "reference" in
float64 before it is timed, on some samples of the full batch. Times are CUDA events around one
call, the median of several; memory is torch's peak above what the contender holds at rest. With
``--quick``, tiny networks run where there is no GPU too, in Triton's interpreter: to see that all
of it works, not how fast.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import graphnn
from benchmarks import gpu_scale
from benchmarks.clock import quantiles
from benchmarks.conditions import conditions, save
from benchmarks.contenders.own import Auto
from benchmarks.gpu_cases import Case, cases
from benchmarks.gpu_clock import Clock, limits, roofline
from benchmarks.gpu_contenders import Contender
from benchmarks.problem import FORWARD, TRAINING, Problem

# Edge x sample products that the float64 reference may take for a check, and samples at most.
CHECKED_PRODUCTS, CHECKED_SAMPLES = 200_000_000, 16


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

    def error(self, contender: Contender, x: Tensor, seed: Tensor) -> float:
        """Its worst error, as a part of the largest expected number."""
        errors = [gpu_scale.relative(contender.outputs(x)[self.samples], self.outputs)]
        if self.by_weight is not None:
            only = torch.zeros_like(seed)
            only[self.samples] = seed[self.samples]
            errors.append(gpu_scale.relative(contender.by_weight(x, only), self.by_weight))
        return max(errors)


def measure(
    case: Case, device: torch.device, clock: Clock, reached: dict[str, float], budget: float
) -> Iterator[dict[str, Any]]:
    """A line for each mode and contender."""
    end = time.perf_counter() + case.seconds
    problem = case.make()
    x = torch.tensor(problem.x, device=device)
    seed = torch.tensor(problem.seed, device=device)
    batch, widths = x.shape[0], np.bincount(problem.level)
    facts = {
        "benchmark": "gpu", "family": case.family, "case": case.name, "batch": batch,
        "edges": problem.num_edges, "neurons": problem.num_neurons, "levels": problem.num_levels,
    }  # fmt: skip
    for mode in case.modes:
        expected = Expected(problem, device, mode == TRAINING)
        for kind in case.contenders:
            _clean(device)
            line = {**facts, "mode": mode, "contender": kind.name}
            if time.perf_counter() > end:
                yield {**line, "skipped": f"the case's {case.seconds:.0f} s were used up"}
                continue
            try:
                start = time.perf_counter()
                contender = kind.make(problem, device)
                built = time.perf_counter() - start
                error = expected.error(contender, x, seed)
                if not error <= kind.tolerance:
                    yield {**line, "skipped": f"wrong by {error:.1e} of the maximum"}
                    continue
                given = contender.arranged(x, seed)
                run = contender.forward if mode == FORWARD else contender.gradients
                peak = clock.peak(lambda run=run, given=given: run(*given))
                taken = clock.rounds(lambda run=run, given=given: run(*given), budget)
            except (RuntimeError, ValueError, ImportError) as failed:
                first = (str(failed).splitlines() or [""])[0]
                yield {**line, "skipped": f"{type(failed).__name__}: {first[:200]}"}
                continue
            middle = statistics.median(taken)
            passes = 1 if mode == FORWARD else 3
            t0, t1 = limits(
                reached, problem.num_edges, int((widths[1:] + widths[:-1]).max()),
                problem.num_neurons, problem.num_levels, batch, mode, kind.dtype.itemsize,
            )  # fmt: skip
            yield {
                **line,
                "note": contender.note(x),
                "error": float(f"{error:.1e}"),
                "build_seconds": round(built, 2),
                "seconds_20_50_80": quantiles(taken),
                "rounds": len(taken),
                "rate": float(f"{passes * problem.num_edges * batch / middle / 1e9:.4g}"),
                "microseconds_a_level": float(f"{1e6 * middle / (problem.num_levels - 1):.4g}"),
                "of_t0": float(f"{t0 / middle:.3g}"),
                "of_t1": float(f"{t1 / middle:.3g}"),
                "peak_bytes": peak,
            }


def triplets(device: torch.device, clock: Clock, quick: bool) -> dict[str, Any]:
    """Triplets of one complete level, beside a copy of them."""
    width, batch = (20, 3) if quick else (1000, 256)
    model = torch.nn.Sequential(torch.nn.Linear(width, width))
    net = graphnn.from_sequential(model).to(device)
    with torch.no_grad():
        trace = net.trace(torch.randn(batch, width, device=device))
        own = clock.rounds(lambda: trace.triplets(), 0.5)
        made = trace.triplets()[0]
        copied = clock.rounds(lambda: made.clone(), 0.5)
    return {
        "benchmark": "gpu", "family": "triplets", "case": f"{width**2:,} edges", "batch": batch,
        "seconds_20_50_80": {"triplets": quantiles(own), "clone": quantiles(copied)},
        "speed_over_clone": round(statistics.median(copied) / statistics.median(own), 3),
    }  # fmt: skip


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
    if torch.cuda.is_available():
        device = torch.device("cuda")
    elif arguments.quick:
        # Before the first kernel is made.
        os.environ["TRITON_INTERPRET"] = "1"
        device = torch.device("cpu")
    else:
        raise SystemExit("python -m benchmarks.gpu needs a GPU; --quick runs without one.")
    clock, start = Clock(device), time.perf_counter()
    reached = roofline(device, clock)
    print(reached, flush=True)
    run = Run(conditions(), reached, arguments.output)
    for case in cases(arguments.quick):
        if arguments.case in f"{case.family}: {case.name}":
            run.add(measure(case, device, clock, reached, arguments.budget))
            _clean(device)
    if arguments.case in "scale":
        run.add(gpu_scale.lines(device, clock, arguments.scale, arguments.quick))
        _clean(device)
    if arguments.case in "triplets":
        run.add([triplets(device, clock, arguments.quick)])
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

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Shows lines as they come, and saves them."""
        for line in lines:
            self.lines.append({**self.now, "roofline": self.reached, **line})
            name = f"{line['family']}: {line['case']}"
            if "mode" in line:
                name += f", {line['mode']}, {line['contender']}"
            shown = line.get("skipped") or str(line["seconds_20_50_80"])
            print(f"{name}: {shown}", flush=True)
        if self.output is not None:
            save(self.lines, self.output)


if __name__ == "__main__":
    main()
