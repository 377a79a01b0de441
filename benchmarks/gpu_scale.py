"""The largest network that a GPU holds: built on it, run, differentiated, and one step of SGD."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import graphnn
from benchmarks.clock import quantiles
from benchmarks.gpu_clock import Clock
from benchmarks.problem import FORWARD, TRAINING

BATCH = 8
# Bytes an edge that building and training may take: of a smaller GPU the network is smaller.
EDGE_BYTES = 139
# Neurons and edges that are computed again by hand.
CHECKED = 1000


def lines(device: torch.device, clock: Clock, edges: int, quick: bool) -> Iterator[dict[str, Any]]:
    """A line for building, forward, forward + backward, and a step of SGD."""
    width, fan_in = (16, 4) if quick else (1 << 18, 32)
    most = edges
    if clock.is_gpu:
        total = torch.cuda.get_device_properties(device).total_memory
        most = total // EDGE_BYTES // (fan_in * width)
    levels = 2 if quick else max(1, min(most, math.ceil(edges / (fan_in * width))))
    made: list[graphnn.Network] = []

    def build() -> None:
        made.append(_network(device, width, levels, fan_in))

    peak, seconds = _measured(clock, build)
    net = made.pop()
    x = torch.randn(BATCH, width, device=device)
    facts = {
        "benchmark": "gpu", "family": "scale", "case": f"{levels} x {width}, fan-in {fan_in}",
        "batch": BATCH, "edges": net.graph.num_edges, "neurons": net.graph.num_neurons,
        "levels": levels + 1, "contender": "graphnn",
    }  # fmt: skip
    error = _error(net, x, width, fan_in)
    facts["error"] = float(f"{error:.1e}")
    if not error <= 1e-4:
        yield {**facts, "mode": "build", "skipped": f"wrong by {error:.1e} of the maximum"}
        return
    yield {**facts, "mode": "build", "seconds_20_50_80": quantiles([seconds]), "peak_in_all": peak}
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)

    def forward() -> None:
        with torch.no_grad():
            net(x)

    def backward() -> None:
        optimiser.zero_grad()
        net(x).sum().backward()

    def step() -> None:
        backward()
        optimiser.step()

    for mode, run in ((FORWARD, forward), (TRAINING, backward), ("SGD step", step)):
        run()
        peak, _ = _measured(clock, run)
        taken = clock.rounds(run, 1.0)
        rate = (1 if mode == FORWARD else 3) * facts["edges"] * BATCH / statistics.median(taken)
        yield {
            **facts, "mode": mode, "seconds_20_50_80": quantiles(taken), "peak_in_all": peak,
            "rate": float(f"{rate / 1e9:.4g}"),
        }  # fmt: skip


def _measured(clock: Clock, run: Callable[[], None]) -> tuple[int | None, float]:
    """All bytes that are taken at most while a call runs, and its seconds."""
    if clock.is_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    if not clock.is_gpu:
        return None, time.perf_counter() - start
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), time.perf_counter() - start


def _network(device: torch.device, width: int, levels: int, fan_in: int) -> graphnn.Network:
    """Each neuron reads one from each of `fan_in` equal parts of the level below; relu."""
    edge_index = torch.empty(2, levels * width * fan_in, dtype=torch.int64, device=device)
    part = torch.arange(fan_in, device=device) * (width // fan_in)
    neurons = torch.arange(width, device=device)
    for level, own in enumerate(edge_index.view(2, levels, width, fan_in).unbind(1)):
        chosen = torch.randint(width // fan_in, (width, fan_in), device=device)
        own[0] = level * width + part + chosen
        own[1] = ((level + 1) * width + neurons)[:, None]
    graph = graphnn.NeuronGraph(edge_index, (levels + 1) * width, activation="relu")
    return graphnn.Network(graph, backend="fused_gpu", device=device)


def _error(net: graphnn.Network, x: Tensor, width: int, fan_in: int) -> float:
    """The worst error of some preactivations, and of some gradients by weight."""
    graph, count = net.graph, net.graph.num_neurons - width
    offset = torch.zeros(x.shape[0], graph.num_neurons, device=x.device, requires_grad=True)
    trace = net.trace(x, offset=offset)
    by_weight, by_pre = torch.autograd.grad(trace.outputs.sum(), (net.weight, offset))
    chosen = torch.randint(count, (CHECKED,), device=x.device)
    edges = chosen[:, None] * fan_in + torch.arange(fan_in, device=x.device)
    values, pres = (part.detach()[0].double() for part in (trace.values, trace.preactivations))
    source = graph.edge_index[0].to(x.device)[edges]
    pre = (net.weight.detach()[edges].double() * values[source]).sum(1)
    pre += net.bias.detach()[chosen]
    found, gradient = pres[width + chosen], by_weight[edges[:, 0]]
    at_source = trace.values.detach()[:, source[:, 0]].double()
    expected = (by_pre[:, width + chosen].double() * at_source).sum(0)
    return max(relative(found, pre), relative(gradient, expected))


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest error, as a part of the largest expected number."""
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
