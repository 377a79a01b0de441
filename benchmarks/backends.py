"""Backends beside torch's own ways to run a sparse network: ``python -m benchmarks.backends``.

Every contender is compared with the backend "reference" in float64, outputs and all gradients,
before it is timed: on some samples of the full batch, which are the only ones that the gradient
asks about. Contenders run in turn. A rate counts one multiply-add for each edge and sample forward,
and three forward and backward, whatever a contender really multiplies.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import graphnn
from benchmarks.clock import Others, in_turn, quantiles, seconds, wait_for_quiet
from benchmarks.conditions import conditions, save
from benchmarks.contenders import Contender, contenders
from benchmarks.networks import CASES, Case

TOLERANCE = 1e-4
# Edge x sample products that the float64 reference may take for a check.
CHECKED_PRODUCTS = 5_000_000
# A contender that takes longer than this for a sixteenth of the batch is not run.
PROBE_SECONDS = 0.2
# A contender that takes longer than this is timed once, not in turn.
ONCE_SECONDS = 0.4
# Cores that other processes may take in a measurement; a second thread is worth nothing to a
# barrier whose core is taken, so such a measurement is made again.
QUIET = 0.15
ATTEMPTS = 4
# Longer than OpenMP's threads spin.
SETTLE = 0.02
OWN = graphnn.backends()


class Bench:
    """One network and batch size, with the contenders that passed."""

    def __init__(self, net: graphnn.Network, batch: int, everyone: list[Contender]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.net, self.batch = net, batch
        self.x = torch.randn(batch, net.in_features, generator=generator)
        self.seed = torch.randn(batch, net.out_features, generator=generator)
        self.skipped: dict[str, dict[str, str]] = {"forward": {}, "forward + backward": {}}
        self.errors: dict[str, float] = {}
        self.passed: dict[str, Contender] = {}
        self._admit(everyone)

    def _admit(self, everyone: list[Contender]) -> None:
        """Checks every contender that can run, and keeps it or says why not."""
        chosen = min(self.batch, max(1, CHECKED_PRODUCTS // self.net.graph.num_edges))
        samples = torch.linspace(0, self.batch - 1, chosen).long().unique()
        expected = self._expected(samples)
        for contender in everyone:
            reasons = {
                mode: contender.unsupported(self.batch, mode != "forward") for mode in self.skipped
            }
            if not any(reasons.values()):
                reasons = dict.fromkeys(self.skipped, self._too_slow(contender))
            for mode, reason in reasons.items():
                if reason is not None:
                    self.skipped[mode][contender.name] = reason
            if all(reasons.values()):
                continue
            with_gradients = reasons["forward + backward"] is None
            error = self._error(contender, samples, expected, with_gradients)
            if not error <= TOLERANCE:
                raise AssertionError(f"{contender.name} is wrong by {error:.1e} of the maximum")
            self.errors[contender.name] = float(f"{error:.1e}")
            self.passed[contender.name] = contender

    def _expected(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = self.net.weight.detach().double(), self.net.bias.detach().double()
        net = graphnn.Network(self.net.graph, weight, bias, backend="reference")
        outputs = net(self.x[samples].double())
        seed = self.seed[samples].double()
        by_weight, by_bias = torch.autograd.grad(outputs, [net.weight, net.bias], seed)
        return outputs.detach(), by_weight, by_bias

    def _too_slow(self, contender: Contender) -> str | None:
        part = max(1, self.batch // 16)
        x, seed = contender.arranged(self.x[:part]), contender.arranged(self.seed[:part])
        contender.gradients(x, seed)
        taken = min(seconds(lambda: contender.gradients(x, seed)) for _ in range(2))
        if part == self.batch or taken <= PROBE_SECONDS:
            return None
        return f"{taken:.1f} s for {part} samples already"

    def _error(
        self,
        contender: Contender,
        samples: Tensor,
        expected: tuple[Tensor, Tensor, Tensor],
        with_gradients: bool,
    ) -> float:
        x = contender.arranged(self.x)
        with torch.inference_mode():
            outputs = contender.arranged(contender.forward(x))  # a transpose undoes itself
        found = [outputs[samples]]
        if with_gradients:
            seed = torch.zeros_like(self.seed).index_copy_(0, samples, self.seed[samples])
            gradients = contender.gradients(x, contender.arranged(seed))
            found += contender.in_graph_order(gradients)
        return max(
            float((a - b).abs().max() / b.abs().max())
            for a, b in zip(found, expected, strict=False)
        )

    def times(self, mode: str, budget: float) -> dict[str, list[float]]:
        """Seconds of every contender that runs this mode."""
        runs: dict[str, Callable[[], Any]] = {}
        for name, contender in self.passed.items():
            if name in self.skipped[mode]:
                continue
            x, seed = contender.arranged(self.x), contender.arranged(self.seed)
            if mode == "forward":
                runs[name] = lambda c=contender, x=x: _inference(c, x)
            else:
                runs[name] = lambda c=contender, x=x, seed=seed: c.gradients(x, seed)
        first = {name: seconds(run) for name, run in runs.items()}
        quick = {name: run for name, run in runs.items() if first[name] <= ONCE_SECONDS}
        slow = {name: [taken] for name, taken in first.items() if name not in quick}
        return {**in_turn(quick, repeats=200, budget=budget, at_least=3, settle=SETTLE), **slow}


def _inference(contender: Contender, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return contender.forward(x)


def matrix_product_rate() -> float:
    """1e9 multiply-adds a second of torch's own matrix product: what this machine can reach."""
    a, b = torch.randn(2, 1536, 1536).unbind()
    taken = in_turn({"mm": lambda: a @ b}, repeats=5)["mm"]
    return round(1536**3 / quantiles(taken)[1] / 1e9, 1)


def undisturbed(measure: Callable[[], Any], patience: float) -> tuple[Any, float]:
    """What `measure` gives, at the quietest of some attempts, and the cores that others took."""
    best: tuple[Any, float] | None = None
    for _ in range(ATTEMPTS):
        wait_for_quiet(QUIET, patience)
        others = Others()
        result = measure()
        taken = others.cores()
        if best is None or taken < best[1]:
            best = result, taken
        if taken <= QUIET or patience == 0:
            break
    assert best is not None
    return best


def measure(
    case: Case, thread_counts: list[int], budget: float, patience: float
) -> Iterator[dict[str, Any]]:
    """One line for each batch size, thread count and mode."""
    net = case.make()
    everyone = contenders(net)
    for batch in case.batches:
        bench, _ = undisturbed(partial(Bench, net, batch, everyone), patience)
        net.backend = "auto"
        auto = net.backend_report(bench.x).backend
        for threads in thread_counts:
            torch.set_num_threads(threads)
            for mode, passes in (("forward", 1), ("forward + backward", 3)):
                times, others = undisturbed(partial(bench.times, mode, budget), patience)
                products = passes * net.graph.num_edges * batch
                median = {name: quantiles(taken)[1] for name, taken in times.items()}
                rivals = [name for name in median if name not in OWN]
                fastest = min(rivals, key=lambda name: median[name], default=None)
                yield {
                    "benchmark": "backends",
                    "case": case.name,
                    "batch": batch,
                    "edges": net.graph.num_edges,
                    "levels": net.graph.num_levels,
                    "mode": mode,
                    "threads": threads,
                    "others": round(others, 2),
                    "auto": auto,
                    "seconds_20_50_80": {name: quantiles(taken) for name, taken in times.items()},
                    "rounds": {name: len(taken) for name, taken in times.items()},
                    "rate": {
                        name: float(f"{products / t / 1e9:.4g}") for name, t in median.items()
                    },
                    "fastest_rival": fastest,
                    "speed_over_rival": fastest and round(median[fastest] / median[auto], 2),
                    "errors": bench.errors,
                    "skipped": bench.skipped[mode],
                }
        torch.set_num_threads(max(thread_counts))


def show(line: dict[str, Any]) -> None:
    """Prints a line for a reader."""
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in line["rate"].items())
    print(
        f"{line['case']}, B={line['batch']}, {line['mode']}, {line['threads']} threads: {rates}; "
        f"{line['auto']} (auto) {line['speed_over_rival']} x {line['fastest_rival']}; others took "
        f"{line['others']} cores",
        flush=True,
    )
    for name, reason in line["skipped"].items():
        print(f"    {name} skipped: {reason}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for a row of the table")
    parser.add_argument(
        "--patience", type=float, default=0, help="seconds to wait for a quiet machine, each time"
    )
    parser.add_argument("--output", help="file for the JSON lines; default: the screen")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)")
    start = time.perf_counter()
    rates = {}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        rates[threads], _ = undisturbed(matrix_product_rate, arguments.patience)
    print(f"a dense matrix product here: {rates} x 1e9 multiply-adds a second by threads")
    lines = []
    for case in CASES:
        if arguments.case not in case.name:
            continue
        now = conditions()
        for line in measure(case, arguments.threads, arguments.budget, arguments.patience):
            show(line)
            lines.append({**now, **line, "matrix_product_rate": rates[line["threads"]]})
    print(f"{time.perf_counter() - start:.0f} s")
    save(lines, arguments.output)


if __name__ == "__main__":
    main()
