"""`graphnn info`: a network in a screen of text."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import graphnn
from graphnn.cli.files import bytes_text, read_network

_LEVELS_SHOWN = 12


def run(given: argparse.Namespace) -> None:
    """Prints what `given.file` holds."""
    net = read_network(given)
    print(f"{given.file}, {bytes_text(given.file.stat().st_size)}\n")
    width = max(len(name) for name, _ in _facts(net))
    for name, value in _facts(net):
        print(f"{name:<{width}}  {value}")
    print()
    for line in _level_table(net.graph):
        print(line)


def _facts(net: graphnn.Network) -> list[tuple[str, str]]:
    graph = net.graph
    inputs, outputs = set(graph.input_ids.tolist()), set(graph.output_ids.tolist())
    hidden = graph.num_neurons - len(inputs | outputs)
    level = graph.level[graph.edge_index]
    skips = int((level[1] - level[0] > 1).sum())
    biases = net.bias.numel()
    parameters = (net.weight.numel() + biases) * net.weight.element_size()
    facts = [
        (
            "neurons",
            f"{graph.num_neurons:,}: {len(inputs):,} inputs, {hidden:,} hidden, "
            f"{len(outputs):,} outputs",
        ),
        ("edges", f"{graph.num_edges:,}, of which {skips:,} skip a level"),
        ("levels", f"{graph.num_levels:,}"),
        (
            "density",
            f"{graph.density:.4g} of all edges possible between the levels that are joined",
        ),
        ("activations", counts_text(activations(graph))),
        ("inputs", _groups(graph.inputs)),
        ("outputs", _groups(graph.outputs)),
        ("names", _some(graph.names)),
        (
            "parameters",
            f"{net.weight.numel() + biases:,}: {net.weight.numel():,} weights and {biases:,} "
            f"biases, {str(net.weight.dtype).removeprefix('torch.')}",
        ),
        (
            "memory",
            f"{bytes_text(parameters)} of parameters, "
            f"{bytes_text(16 * graph.num_edges)} of edge index",
        ),
    ]
    if net.output_transform is not None:
        facts.insert(7, ("transform", f"{net.output_transform} over each output group"))
    if graph.num_edges:
        low, high = (value.item() for value in net.weight.detach().aminmax())
        zeros = int((net.weight == 0).sum())
        facts.insert(-1, ("weights", f"from {low:.4g} to {high:.4g}, {zeros:,} of them 0"))
    return facts


def activations(graph: graphnn.NeuronGraph) -> Counter[str]:
    """How many computed neurons have each activation."""
    inputs = set(graph.input_ids.tolist())
    return Counter(name for neuron, name in enumerate(graph.activation) if neuron not in inputs)


def counts_text(counter: Counter[str]) -> str:
    """Counts as text, the largest first."""
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common()) or "none"


def _groups(groups: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} ({ids.numel():,})" for name, ids in groups.items())


def _some(names: tuple[Any, ...] | None, most: int = 4) -> str:
    if names is None:
        return "none: neurons go by their ids"
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ..."


def _level_table(graph: graphnn.NeuronGraph) -> Iterator[str]:
    level = graph.level.numpy()
    neurons = np.bincount(level, minlength=graph.num_levels)
    edges = np.bincount(level[graph.edge_index[1].numpy()], minlength=graph.num_levels)
    yield f"{'level':>6} {'neurons':>10} {'edges':>12} {'mean fan-in':>12}"
    count = graph.num_levels
    cut = count > _LEVELS_SHOWN
    for index in range(count):
        if cut and _LEVELS_SHOWN - 3 <= index < count - 2:
            if index == count - 3:
                yield f"{'...':>6}"
            continue
        fan_in = edges[index] / neurons[index] if neurons[index] else 0.0
        yield f"{index:>6} {neurons[index]:>10,} {edges[index]:>12,} {fan_in:>12.4g}"
