"""Every way to launch a network on a GPU, timed: ``python -m benchmarks.gpu_choice``.

`fused_gpu_tiles` chooses among them by an estimate from data sheets. Here each is forced in turn,
with tiles of several sizes, and the line says what the estimate would have taken. Results are the
same bits forward, whatever is chosen. With ``--quick``, tiny networks run in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import graphnn
from benchmarks.conditions import conditions, save
from benchmarks.gpu import gpu_versions
from benchmarks.gpu_clock import Clock, device_for
from benchmarks.problem import FORWARD, TRAINING
from graphnn import generate
from graphnn.backends import fused_gpu, fused_gpu_graphs, fused_gpu_pass, fused_gpu_tiles
from graphnn.backends.fused_gpu_schedule import schedule
from graphnn.backends.fused_gpu_tiles import Launches, Tile


@dataclass(frozen=True)
class Way:
    """How a network is launched.

    Args:
        launches: As `fused_gpu_tiles.launches` says it.
        cols: Samples of a walk's tile.
        factor: How many times the usual elements a level's tile has.
        warps: That share a level's tile.
    """

    launches: Launches
    cols: int = 0
    factor: float = 1
    warps: int = 4

    @property
    def name(self) -> str:
        """As it is shown."""
        how = f"{self.cols} samples" if self.cols else f"tile x{self.factor}, {self.warps} warps"
        return f"{self.launches}, {how}"

    @contextmanager
    def forced(self) -> Iterator[None]:
        """Has every call launched like this."""

        def walk_tile(batch: int, widest: int) -> Tile:
            cols = min(self.cols, fused_gpu_tiles.stride_of(batch))
            return fused_gpu_tiles.walk_tile_of(cols, widest)

        def level_tile(batch: int, elements: int) -> Tile:
            usual = fused_gpu_tiles.level_tile(batch, int(elements * self.factor))
            return Tile(usual.rows, usual.cols, self.warps)

        with (
            patch.object(fused_gpu, "launches", lambda *_: self.launches),
            patch.object(fused_gpu_pass, "launches", lambda *_: self.launches),
            patch.object(fused_gpu_pass, "walk_tile", walk_tile),
            patch.object(fused_gpu_pass, "level_tile", level_tile),
        ):
            yield


WAYS = (
    *(Way("walk", cols) for cols in (8, 16, 32)),
    *(
        Way(how, factor=factor, warps=warps)
        for how in ("graph", "levels")
        # More rows that read the same samples at one time find more of them in the nearest cache.
        for factor, warps in ((0.5, 4), (1, 4), (2, 4), (4, 16))
    ),
)


def networks(quick: bool) -> Iterator[tuple[str, graphnn.NeuronGraph, tuple[int, ...]]]:
    """(name, wiring, batches): small, deep, wide, and with neurons that read the same."""
    generator = torch.Generator().manual_seed(0)

    def layered(depth: int, width: int, fan_in: int) -> graphnn.NeuronGraph:
        sizes = [width] * (depth + 1)
        return generate.random_sparse(sizes, fan_in=fan_in, activation="relu", generator=generator)

    if quick:
        yield "3 x 8, fan-in 4", layered(3, 8, 4), (5,)
        yield "radixnet 32 x 2", generate.radixnet(32, 2), (5,)
        return
    yield "5 x 64, fan-in 16", layered(5, 64, 16), (1, 256, 4096)
    yield "1000 x 64, fan-in 16", layered(1000, 64, 16), (64, 4096)
    yield "200 x 1024, fan-in 16", layered(200, 1024, 16), (64, 1024)
    yield "3 x 4096, fan-in 205", layered(3, 4096, 205), (256, 4096)
    yield "3 x 65536, fan-in 32", layered(3, 65536, 32), (64, 1024)
    yield "radixnet 1024 x 120", generate.radixnet(1024, 120), (64, 2048, 60_000)


def lines(device: torch.device, clock: Clock, quick: bool) -> Iterator[dict[str, Any]]:
    """A line for each network, batch, mode and way."""
    for name, graph, batches in networks(quick):
        net = graphnn.Network(graph, backend="fused_gpu").to(device)
        for batch in batches:
            x = torch.randn(batch, net.in_features, device=device)
            chosen = fused_gpu_tiles.launches(schedule(net.plan), batch, 4)
            for mode in (FORWARD, TRAINING):
                for way in WAYS:
                    facts = {
                        "benchmark": "gpu choice", "case": name, "batch": batch, "mode": mode,
                        "way": way.name, "is_chosen": way in _taken(chosen, batch),
                    }  # fmt: skip
                    yield facts | _timed(net, x, mode, way, clock)


def _taken(chosen: Launches, batch: int) -> tuple[Way, ...]:
    if chosen == "walk":
        return (Way("walk", fused_gpu_tiles.walk_tile(batch, 1).cols),)
    return (Way(chosen),)


def _timed(
    net: graphnn.Network, x: torch.Tensor, mode: str, way: Way, clock: Clock
) -> dict[str, Any]:
    def run() -> None:
        if mode == FORWARD:
            with torch.no_grad():
                net(x)
        else:
            torch.autograd.grad(net(x).sum(), (net.weight, net.bias))

    try:
        with way.forced():
            # The interpreter's times mean nothing.
            taken = clock.rounds(run, 0.1) if clock.is_gpu else [clock.seconds(run)]
    except (RuntimeError, graphnn.BackendError) as error:
        return {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    finally:
        # The next way's are of the same kinds.
        fused_gpu_graphs.release_all()
    return {"microseconds": float(f"{1e6 * statistics.median(taken):.4g}")}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_choice", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny networks: to see that it runs")
    parser.add_argument("--output", type=Path, help="file for the JSON lines")
    arguments = parser.parse_args()
    device = device_for("gpu_choice", arguments.quick)
    now, made = conditions(), []
    now["versions"] |= gpu_versions(device)
    for line in lines(device, Clock(device), arguments.quick):
        made.append({**now, **line})
        mark = "*" if line["is_chosen"] else " "
        shown = line.get("skipped") or f"{line['microseconds']:>10} us"
        print(f"{mark} {line['case']}, B={line['batch']}, {line['mode']}, {line['way']}: {shown}")
    if arguments.output is not None:
        save(made, arguments.output)


if __name__ == "__main__":
    main()
