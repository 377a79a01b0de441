"""Time and memory of a call on a GPU, and what the GPU itself reaches."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.problem import FORWARD

# Calls that warm up (the third may capture a graph) and that are timed; and seconds after which
# fewer do: a call that takes as long needs neither.
WARM_UPS, LEAST_ROUNDS, MOST_ROUNDS, LONG = 3, 5, 100, 5.0
# Samples of a tile, whose values a kernel without structure gathers from the common cache.
TILE = 64


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
        """Several calls, after some that warm up."""
        warm = 0.0
        for _ in range(WARM_UPS):
            warm += self.seconds(run)
            if warm > LONG:
                break
        taken: list[float] = []
        while len(taken) < MOST_ROUNDS and sum(taken) <= LONG:
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


def device_for(name: str, quick: bool) -> torch.device:
    """The GPU; where there is none a CPU that interprets kernels, if it is to be quick.

    Args:
        name: The benchmark's.
        quick: Whether networks are tiny.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not quick:
        raise SystemExit(f"python -m benchmarks.{name} needs a GPU; --quick runs without one.")
    # Before the first kernel is made.
    os.environ["TRITON_INTERPRET"] = "1"
    return torch.device("cpu")


def roofline(device: torch.device, clock: Clock) -> dict[str, float]:
    """What this GPU reaches.

    Returns:
        sgemm: products in 1e12 multiply-adds a second. dram, l2: copies in 1e9 bytes a second.
        l2_bytes: of the cache that all multiprocessors share. launch: seconds of an empty kernel.
    """
    size, room = (8192, 1 << 30) if clock.is_gpu else (256, 1 << 20)
    a, b = torch.randn(2, size, size, device=device).unbind()
    found = {"sgemm": size**3 / statistics.median(clock.rounds(lambda: a @ b, 0.2)) / 1e12}
    # The second copy goes back and forth within the cache that all multiprocessors share, in a few
    # microseconds each time.
    for name, bytes_, count in (("dram", room, 4), ("l2", min(room, 16 << 20), 200)):
        one = torch.randn(bytes_ // 4, device=device)
        other = torch.empty_like(one)
        taken = _each(clock, count, lambda to=other, of=one: to.copy_(of))
        found[name] = 2 * bytes_ / taken / 1e9
    cache = torch.cuda.get_device_properties(device).L2_cache_size if clock.is_gpu else 1 << 20
    one = torch.zeros(1, device=device)
    found |= {"l2_bytes": float(cache), "launch": _each(clock, 1000, lambda: one.add_(1))}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _each(clock: Clock, count: int, run: Callable[[], Any]) -> float:
    """Seconds of one of so many calls within a captured graph, where no launch is waited for."""

    def many() -> None:
        for _ in range(count):
            run()

    timed: Callable[[], Any] = many
    if clock.is_gpu:
        many()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            many()
        timed = graph.replay
    return statistics.median(clock.rounds(timed, 0.1)) / count


def limits(
    reached: dict[str, float], edges: int, window: int, neurons: int, levels: int, batch: int,
    mode: str, size: int,
) -> tuple[float, float]:  # fmt: skip
    """(T0, T1) in seconds: the physical limit, and that of a kernel that gathers without structure.

    Args:
        reached: What `roofline` returns.
        edges: E.
        window: The most neurons that a level reads and writes.
        neurons: N.
        levels: L, the inputs' level counted.
        batch: B.
        mode: Of `problem`.
        size: Bytes of a number.
    """
    # As in `roofline`: F multiply-adds, Q bytes that must move, C bytes that are gathered.
    passes, by_edge, by_value, live = (1, 2, 2, 1) if mode == FORWARD else (3, 6, 5, 2)
    arithmetic = passes * edges * batch / (1e12 * reached["sgemm"])
    moved = size * (by_edge * edges + by_value * batch * neurons) / (1e9 * reached["dram"])
    launched = (1 if mode == FORWARD else 2) * (levels - 1) * reached["launch"]
    physical = max(arithmetic, moved, launched)
    fits = live * window * min(batch, TILE) * size <= reached["l2_bytes"]
    gathered = size * passes * edges * batch / (1e9 * reached["l2" if fits else "dram"])
    return physical, max(physical, gathered)
