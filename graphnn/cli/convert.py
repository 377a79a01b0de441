"""`graphnn convert`: a network in another file format."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
import torch

import graphnn
from graphnn.cli.files import (
    SEPARATORS,
    WRITERS,
    digits,
    format_of,
    labels,
    note,
    read_network,
    writing,
)
from graphnn.summary import activations_text, bytes_text


def run(given: argparse.Namespace) -> None:
    """Writes `given.file` to `given.out`."""
    suffix = format_of(given.out)
    net = read_network(given)
    WRITERS.get(suffix, _write_edges)(net, given.out)
    graph = net.graph
    print(
        f"wrote {given.out}: {graph.num_neurons:,} neurons, {graph.num_edges:,} edges, "
        f"{bytes_text(given.out.stat().st_size)}"
    )


def _write_edges(net: graphnn.Network, path: Path) -> None:
    names = [str(label) for label in labels(net.graph)]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise graphnn.ConversionError(
            f"{path}: the names of neurons must differ as text in an edge list, but two are "
            f"written {twice!r}. Write .graphml or .safetensors instead."
        )
    weights = net.weight.detach().double().tolist()
    sources, targets = net.graph.edge_index.tolist()
    with writing(path) as file:
        table = csv.writer(file, delimiter=SEPARATORS[path.suffix.lower()], lineterminator="\n")
        table.writerow(["source", "target", "weight"])
        for source, target, weight in zip(sources, targets, weights, strict=True):
            table.writerow([names[source], names[target], f"{weight:.{digits(net)}g}"])
    lost = _lost_in_edges(net)
    if lost:
        note(f"{path} holds source, target and weight only; lost: {', '.join(lost)}")


def _lost_in_edges(net: graphnn.Network) -> list[str]:
    """What the command would not find again in an edge list, in words."""
    graph = net.graph
    lost = []
    if net.bias.numel():
        lost.append(f"{net.bias.numel():,} biases")
    strange = net.weight.numel() - int(net.weight.isfinite().sum())
    if strange:
        lost.append(f"{strange:,} weights that are not finite, which no edge list may hold")
    inputs, outputs = set(graph.input_ids.tolist()), set(graph.output_ids.tolist())
    usual = (
        "identity" if neuron in inputs or neuron in outputs else "relu"
        for neuron in range(graph.num_neurons)
    )
    if any(name != other for name, other in zip(graph.activation, usual, strict=True)):
        lost.append(f"the activations ({activations_text(graph)})")
    appearing, first = np.unique(graph.edge_index.t().reshape(-1).numpy(), return_index=True)
    order = appearing[np.argsort(first)]
    if order.size < graph.num_neurons:
        lost.append(f"{graph.num_neurons - order.size:,} neurons without edges")
    fan_out = np.bincount(graph.edge_index[0].numpy(), minlength=graph.num_neurons)
    for role, groups, ids, degree in (
        ("input", graph.inputs, graph.input_ids, graph.fan_in.numpy()),
        ("output", graph.outputs, graph.output_ids, fan_out),
    ):
        if list(groups) != [role]:
            lost.append(f"the {role} groups {', '.join(groups)}")
        elif not np.array_equal(order[degree[order] == 0], ids.numpy()):
            lost.append(f"the choice and order of the {role}s")
    if net.output_transform is not None:
        lost.append(f"the output transform {net.output_transform}")
    if net.weight.dtype != torch.float32:
        lost.append(f"the dtype {str(net.weight.dtype).removeprefix('torch.')}")
    return lost
