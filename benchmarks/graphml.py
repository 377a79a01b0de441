"""Writing and reading GraphML, beside networkx's writer on the same network.

``python -m benchmarks.graphml [edges]`` prints one JSON line. Times are those of single runs in one
process; nothing is reported unless both files are read back equal.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch

import graphnn
from benchmarks.conditions import conditions, save


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def resident_growth(call: Callable[[], Any]) -> int | None:
    """How far the resident memory rises over its level before the call, or None."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = resident("VmRSS")
        call()
        return resident("VmHWM") - before
    except OSError:
        return None


def traced_peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def equal(one: graphnn.Network, other: graphnn.Network) -> bool:
    return (
        one.graph == other.graph
        and torch.equal(one.weight, other.weight)
        and torch.equal(one.bias, other.bias)
    )


def measure(num_edges: int, folder: Path) -> dict[str, Any]:
    width = round(num_edges**0.5)
    source, target = np.divmod(np.arange(width * width), width)
    net = graphnn.Network(
        graphnn.NeuronGraph(np.stack([source, width + target])),
        generator=torch.Generator().manual_seed(0),
    )
    ours, theirs = folder / "ours.graphml", folder / "theirs.graphml"

    def write() -> None:
        graphnn.write_graphml(net, ours)

    grown = resident_growth(write)
    peak = traced_peak(write)
    # The disk is a part of writing; the median of three is not the first touch of its pages.
    write_seconds = sorted(seconds(write)[0] for _ in range(3))[1]
    read_seconds, again = seconds(lambda: graphnn.read_graphml(ours))
    graph = graphnn.to_networkx(net)
    networkx_seconds, _ = seconds(lambda: nx.write_graphml(graph, theirs))
    back = nx.read_graphml(ours, node_type=int)
    checks = {
        "reads_back": equal(net, again),
        "networkx_reads_equal": (
            list(back.nodes(data=True)) == list(graph.nodes(data=True))
            and list(back.edges(data=True)) == list(graph.edges(data=True))
            and back.graph["graphnn"] == graph.graph["graphnn"]
        ),
    }
    checks["reads_networkx"] = equal(net, graphnn.read_graphml(theirs))
    if not all(checks.values()):
        raise AssertionError(f"a file was not read back equal: {checks}")
    edges = net.graph.num_edges
    return {
        "benchmark": "graphml",
        "edges": edges,
        "file_mb": round(ours.stat().st_size / 1e6, 1),
        "write_seconds": round(write_seconds, 3),
        "networkx_write_seconds": round(networkx_seconds, 3),
        "write_ratio": round(networkx_seconds / write_seconds, 2),
        "traced_bytes_per_edge": round(peak / edges, 2),
        "resident_bytes_per_edge": None if grown is None else round(grown / edges, 2),
        "read_seconds": round(read_seconds, 3),
        **checks,
        "networkx": nx.__version__,
        **conditions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("edges", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--output", help="file for the JSON line; default: the screen")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.edges, Path(folder))
    save([result], arguments.output)


if __name__ == "__main__":
    main()
