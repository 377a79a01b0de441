"""The ladder on one GPU: ``python -m benchmarks.gpu --output benchmarks/results/gpu.jsonl``.

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import graphnn
from benchmarks.clock import quantiles
from benchmarks.conditions import conditions, save
from benchmarks.contenders.own import Auto
from benchmarks.gpu_cases import Case, cases
from benchmarks.gpu_contenders import Contender
from benchmarks.problem import FORWARD, TRAINING, Problem

# Edge x sample products that the float64 reference may take for a check, and samples at most.
CHECKED_PRODUCTS, CHECKED_SAMPLES = 200_000_000, 16
LEAST_ROUNDS, MOST_ROUNDS = 5, 100


class Clock:
    """Seconds of a call, by events on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.is_gpu = device.type == "cuda"

    def seconds(self, run: Callable[[], Any]) -> float:
        """One call."""
        if not self.is_gpu:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        result = run()
        last.record()
        last.synchronize()
        del result
        return first.elapsed_time(last) / 1e3

    def rounds(self, run: Callable[[], Any], budget: float) -> list[float]:
        """Several calls, after two that warm up."""
        for _ in range(2):
            run()
        taken: list[float] = []
        while len(taken) < MOST_ROUNDS:
            taken.append(self.seconds(run))
            if len(taken) >= LEAST_ROUNDS and sum(taken) > budget:
                break
        return taken

    def peak(self, run: Callable[[], Any]) -> int | None:
        """Bytes that one call takes at most."""
        if not self.is_gpu:
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def roofline(device: torch.device, clock: Clock) -> dict[str, float]:
    """What this GPU reaches: products in 1e12 multiply-adds, copies in 1e9 bytes a second."""
    size, room = (8192, 1 << 30) if clock.is_gpu else (256, 1 << 20)
    a, b = torch.randn(2, size, size, device=device).unbind()
    found = {"sgemm": size**3 / statistics.median(clock.rounds(lambda: a @ b, 0.2)) / 1e12}
    # The second copy goes back and forth within the cache that all multiprocessors share.
    for name, bytes_ in (("dram", room), ("l2", min(room, 16 << 20))):
        one = torch.randn(bytes_ // 4, device=device)
        other = torch.empty_like(one)
        taken = statistics.median(clock.rounds(lambda to=other, of=one: to.copy_(of), 0.1))
        found[name] = 2 * bytes_ / taken / 1e9
    return {name: float(f"{value:.4g}") for name, value in found.items()}


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
        errors = [_error(contender.outputs(x)[self.samples], self.outputs)]
        if self.by_weight is not None:
            only = torch.zeros_like(seed)
            only[self.samples] = seed[self.samples]
            errors.append(_error(contender.by_weight(x, only), self.by_weight))
        return max(errors)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def measure(case: Case, device: torch.device, clock: Clock, budget: float
            ) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A line for each mode and contender."""
    problem = case.make()
    x = torch.tensor(problem.x, device=device)
    seed = torch.tensor(problem.seed, device=device)
    batch = x.shape[0]
    facts = {
        "benchmark": "gpu", "family": case.family, "case": case.name, "batch": batch,
        "edges": problem.num_edges, "neurons": problem.num_neurons, "levels": problem.num_levels,
    }  # fmt: skip
    for mode in case.modes:
        expected = Expected(problem, device, mode == TRAINING)
        for kind in case.contenders:
            _clean(device)
            line = {**facts, "mode": mode, "contender": kind.name}
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
            yield {
                **line,
                "note": contender.note(x),
                "error": float(f"{error:.1e}"),
                "build_seconds": round(built, 2),
                "seconds_20_50_80": quantiles(taken),
                "rounds": len(taken),
                "rate": float(f"{passes * problem.num_edges * batch / middle / 1e9:.4g}"),
                "microseconds_a_level": float(f"{1e6 * middle / (problem.num_levels - 1):.4g}"),
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
    parser.add_argument("--scale", type=int, default=100_000_000, help="edges of the largest one")
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
    now = conditions()
    lines: list[dict[str, Any]] = []
    for case in cases(arguments.quick, arguments.scale):
        if arguments.case not in f"{case.family}: {case.name}":
            continue
        for line in measure(case, device, clock, arguments.budget):
            lines.append({**now, "roofline": reached, **line})
            shown = line.get("skipped") or f"{line['rate']} GE/s, {line['seconds_20_50_80'][1]} s"
            print(f"{case.family}: {case.name}, {line['mode']}, {line['contender']}: {shown}",
                  flush=True)  # fmt: skip
        _clean(device)
        # A run that is cut off leaves what it has.
        if arguments.output is not None:
            save(lines, arguments.output)
    if arguments.case in "triplets":
        lines.append({**now, "roofline": reached, **triplets(device, clock, arguments.quick)})
    print(f"{time.perf_counter() - start:.0f} s")
    save(lines, arguments.output)


if __name__ == "__main__":
    main()
