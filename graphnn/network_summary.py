"""The summaries of networks and traces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphnn.summary import (
    Summary,
    bytes_text,
    graph_facts,
    level_table,
    room_for_levels,
    shown_levels,
)

if TYPE_CHECKING:
    from graphnn.network import Network
    from graphnn.trace import Trace


def of_network(net: Network) -> Summary:
    """What a network is: its wiring, its parameters and where they are."""
    facts = [*network_facts(net), ("backend", net.backend)]
    return Summary("Network", facts, *level_table(net.graph, room_for_levels(facts)))


def network_facts(net: Network) -> list[tuple[str, str]]:
    """The facts of the wiring, the parameters, their memory and the output transform."""
    graph, weight = net.graph, net.weight
    stored = [*net.parameters()]
    biases = graph.bias_neurons.numel()
    size = sum(own.numel() * own.element_size() for own in stored)
    num_stored = sum(own.numel() for own in stored)
    count = f"{num_stored:,}: {graph.num_edges:,} weights, {biases:,} biases"
    if num_stored != graph.num_edges + biases:
        # Tied or frozen ones, for example.
        count = f"{num_stored:,} stored for {graph.num_edges:,} weights and {biases:,} biases"
    facts = [
        *graph_facts(graph),
        ("parameters", f"{count}, {_dtype(weight)} on {weight.device}"),
        ("memory", f"{bytes_text(size)} of parameters, {bytes_text(_wiring_size(net))} of edges"),
    ]
    if net.output_transform is not None:
        facts.append(("transform", f"{net.output_transform} over each output group"))
    return facts


def of_trace(trace: Trace) -> Summary:
    """What a trace holds: its samples and the range of values on each level."""
    values, graph = trace.values, trace.graph
    leading = tuple(values.shape[:-1])
    size = 2 * values.numel() * values.element_size()
    facts = [
        (
            "samples",
            f"{math.prod(leading):,}" + (f", shape {leading}" if len(leading) != 1 else ""),
        ),
        ("neurons", f"{graph.num_neurons:,}"),
        ("edges", f"{graph.num_edges:,}"),
        ("levels", f"{graph.num_levels:,}"),
        ("values", f"{_dtype(values)} on {values.device}, {bytes_text(size)} with preactivations"),
        ("gradients", "kept" if values.requires_grad else "not kept"),
    ]
    if values.numel() == 0 or values.is_meta:
        return Summary("Trace", facts, *level_table(graph, room_for_levels(facts)))
    header = ("level", "neurons", "lowest value", "highest value", "always 0")
    return Summary("Trace", facts, header, _value_rows(trace, room_for_levels(facts)))


def one_line(trace: Trace) -> str:
    """A trace in a line."""
    shape = tuple(trace.values.shape)
    return f"Trace({shape} {_dtype(trace.values)} values of {trace.graph!r})"


def _value_rows(trace: Trace, most: int) -> list[tuple[str, ...]]:
    graph = trace.graph.to("cpu")
    samples = trace.values.detach().reshape(-1, graph.num_neurons)
    # One pass over all that there is, and nothing as large is made.
    low, high = (own.double().cpu().numpy() for own in torch.aminmax(samples, dim=0))
    level = graph.level.numpy()
    neurons = np.bincount(level, minlength=graph.num_levels)
    always = np.bincount(level[(low == 0) & (high == 0)], minlength=graph.num_levels)
    lowest, highest = np.full(graph.num_levels, np.inf), np.full(graph.num_levels, -np.inf)
    # A level with NaN has NaN for both; numpy would warn of it.
    with np.errstate(invalid="ignore"):
        np.minimum.at(lowest, level, low)
        np.maximum.at(highest, level, high)
    return [
        ("...", "", "", "", "")
        if own is None
        else (
            str(own), f"{neurons[own]:,}", f"{lowest[own]:.4g}", f"{highest[own]:.4g}",
            f"{always[own]:,}",
        )
        for own in shown_levels(graph.num_levels, most)
    ]  # fmt: skip


def _wiring_size(net: Network) -> int:
    edge_index = net.graph.edge_index
    return edge_index.numel() * edge_index.element_size()


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
