"""How long building takes, beside sorting the same edges: `python -m benchmarks.build`.

The yardsticks run in the same loop as the contender, so that a busy machine slows both. Every
network is checked before its times are reported. One readable line and one JSON line a case.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.clock import in_turn
from benchmarks.conditions import conditions, save
from graphnn import from_edges, generate

Edges = torch.Tensor


def random_dag(num_neurons: int, num_edges: int, rng: np.random.Generator) -> Edges:
    """(2, E) distinct edges in random order, every source id below its target id."""
    ends = rng.integers(0, num_neurons, (2, num_edges + num_edges // 4))
    ends = ends[:, ends[0] != ends[1]]
    ends.sort(axis=0)
    keys = np.unique(ends[0] * num_neurons + ends[1])
    keys = rng.permutation(keys)[:num_edges]
    return torch.from_numpy(np.stack(np.divmod(keys, num_neurons)))


def permuted(edges: Edges, rng: np.random.Generator) -> Edges:
    """The same graph with ids that tell nothing of the order."""
    return torch.from_numpy(rng.permutation(int(edges.max()) + 1))[edges]


def layered(width: int, num_layers: int, num_edges: int, rng: np.random.Generator) -> Edges:
    """(2, E) edges between consecutive layers, sorted by (target, source)."""
    fan_in = num_edges // (width * (num_layers - 1))
    steps = rng.integers(1, max(2, width // fan_in), (width * (num_layers - 1), fan_in))
    column = np.cumsum(steps, axis=1) - 1
    target = np.arange(width, width * num_layers)
    source = (target // width - 1)[:, None] * width + column
    return torch.from_numpy(np.stack([source.reshape(-1), np.repeat(target, fan_in)]))


def check(net: Any, edges: Edges) -> None:
    """Refuses a network whose edges, levels or schedule are not what the edges say."""
    assert torch.equal(net.graph.edge_index, edges)
    source, target = edges.numpy()
    level = net.graph.level.numpy()
    highest = np.full(level.size, -1)
    np.maximum.at(highest, target, level[source])
    assert (level[target] == highest[target] + 1).all()
    plan = net.plan
    order, position = plan.edge_order.numpy(), plan.neuron_position.numpy()
    fan_in = np.bincount(target, minlength=level.size)
    rows = np.repeat(np.arange(level.size), fan_in[plan.neuron_order.numpy()])
    assert (position[target[order]] == rows).all()
    assert (position[source[order]] == plan.edge_source.numpy()).all()


def id_cases(num_edges: int) -> Iterator[tuple[str, Edges]]:
    """Named (2, E) tensors."""
    rng = np.random.default_rng(0)
    for num_neurons in (100_000, 1_000_000):
        edges = random_dag(num_neurons, num_edges, rng)
        yield f"random DAG, shuffled edges, ordered ids, {num_neurons:,} neurons", edges
        yield (
            f"random DAG, shuffled edges, permuted ids, {num_neurons:,} neurons",
            permuted(edges, rng),
        )
    yield "20 layers of 10,000, sorted edges", layered(10_000, 20, num_edges, rng)


def bench_ids(num_edges: int, repeats: int) -> Iterator[dict[str, Any]]:
    """from_edges on ids, against torch.sort of the (2, E) tensor and of one key an edge."""
    for name, edges in id_cases(num_edges):
        check(from_edges(edges), edges)
        key = edges[1] * (int(edges.max()) + 1) + edges[0]

        def with_levels(edges: Edges = edges) -> Any:
            return from_edges(edges).plan.levels

        runs = {
            "from_edges": lambda edges=edges: from_edges(edges),
            "from_edges and plan.levels": with_levels,
            "torch.sort (2, E)": lambda edges=edges: torch.sort(edges),
            "torch.sort key": lambda key=key: torch.sort(key),
        }
        yield report(name, edges.shape[1], in_turn(runs, repeats))


def bench_rows(num_edges: int, repeats: int) -> dict[str, Any]:
    """from_edges on tuples with weights, against looking every label up once."""
    rng = np.random.default_rng(0)
    edges = random_dag(num_edges // 10, num_edges, rng)
    weights = rng.random(edges.shape[1]).tolist()
    rows = [(f"n{s}", f"n{t}", w) for (s, t), w in zip(edges.t().tolist(), weights, strict=True)]
    net = from_edges(rows)
    names = net.graph.names
    assert names is not None
    found = [(names[s], names[t]) for s, t in net.graph.edge_index.t().tolist()]
    assert found == [row[:2] for row in rows]

    def look_up() -> dict[str, None]:
        return dict.fromkeys(label for s, t, _ in rows for label in (s, t))

    runs = {"from_edges": lambda: from_edges(rows), "dict of labels": look_up}
    return report("tuples with string labels and weights", len(rows), in_turn(runs, repeats))


def bench_frame(num_edges: int, repeats: int, dtype: str) -> dict[str, Any]:
    """from_edges on a frame of strings, against pandas.factorize of its two columns."""
    import pandas as pd

    edges = random_dag(100_000, num_edges, np.random.default_rng(0))
    labels = np.array([f"n{i}" for i in range(100_000)], object)
    source, target = labels[edges.numpy()]
    frame = pd.DataFrame({"source": source, "target": target}).astype(dtype)
    net = from_edges(frame)
    names = np.array(net.graph.names, object)
    assert (names[net.graph.edge_index.numpy()] == np.stack([source, target])).all()
    runs = {
        "from_edges": lambda: from_edges(frame),
        "pandas.factorize": lambda: [pd.factorize(frame[name]) for name in frame.columns],
    }
    return report(f"frame of string labels, dtype {dtype}", len(frame), in_turn(runs, repeats))


def bench_generate(num_edges: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Every drawing generator at about this many edges, beside from_edges on the result's edges."""
    width = num_edges // 320
    calls = {
        "random_sparse by fan_in": lambda: generate.random_sparse([width] * 11, fan_in=32),
        "random_sparse by density": lambda: generate.random_sparse(
            [width] * 11, density=32 / width
        ),
        "random_dag": lambda: generate.random_dag(width, 9 * width, width, 32, depth=100),
        "small_world": lambda: generate.small_world([width] * 11, 32, 0.1),
        "erdos_renyi": lambda: generate.erdos_renyi(width, 9 * width, width, 32 / (5 * width)),
        "scale_free": lambda: generate.scale_free(width, 9 * width, width, 32),
        "radixnet": lambda: generate.radixnet(1024, num_edges // (32 * 1024)),
    }
    for name, call in calls.items():
        edges = call().edge_index
        runs = {"generate": call, "from_edges": lambda edges=edges: from_edges(edges)}
        yield report(f"generate.{name}", edges.shape[1], in_turn(runs, repeats), own="generate")


def report(
    case: str, num_edges: int, times: dict[str, list[float]], own: str = "from_edges"
) -> dict[str, Any]:
    """Medians, 20/80 quantiles and ratios of a case; prints its readable line."""
    seconds = {}
    for name, taken in times.items():
        low, high = np.quantile(taken, [0.2, 0.8])
        seconds[name] = [round(float(v), 4) for v in (low, statistics.median(taken), high)]
    median = statistics.median(times[own])
    ratios = {
        name: round(median / statistics.median(taken), 2)
        for name, taken in times.items()
        if not name.startswith(own)
    }
    shown = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items())
    line = f"{case}: {median:.2f} s for {num_edges:,} edges = {shown}"
    if "from_edges and plan.levels" in times:
        # What the eager backends cut from the plan on their first call.
        cut = statistics.median(times["from_edges and plan.levels"])
        line += f"; {cut:.2f} s with the eager backends' levels"
    print(line, flush=True)
    return {
        "benchmark": "build",
        "case": case,
        "edges": num_edges,
        "seconds_20_50_80": seconds,
        "ratio": ratios,
        "edges_per_second": round(num_edges / median),
        **conditions(),
    }


def main() -> None:
    """Runs every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of tuples")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", help="file for the JSON lines; default: the screen")
    arguments = parser.parse_args()
    results = [
        *bench_ids(arguments.edges, arguments.repeats),
        bench_rows(arguments.rows, arguments.repeats),
        bench_frame(arguments.edges, arguments.repeats, "object"),
        bench_frame(arguments.edges, arguments.repeats, "str"),
        bench_frame(arguments.edges, arguments.repeats, "string[pyarrow]"),
        *bench_generate(arguments.edges, arguments.repeats),
    ]
    save(results, arguments.output)


if __name__ == "__main__":
    main()
