"""From merged columns to a `Network` whose parameters are tied and held as the model's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from graphnn.assembly.entries import Entries
from graphnn.assembly.merging import Coefficients, Merged
from graphnn.graph import NeuronGraph
from graphnn.network import Network
from graphnn.parametrize import Frozen, Tied


def make_graph(
    merged: Merged, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> NeuronGraph:
    """The wiring.

    Args:
        merged: The columns.
        inputs: Group name -> ids of the assembly.
        outputs: Likewise.
    """
    return NeuronGraph(
        merged.edge_index,
        num_neurons=len(merged.activation),
        inputs={name: merged.final[ids] for name, ids in inputs.items()},
        outputs={name: merged.final[ids] for name, ids in outputs.items()},
        activation=merged.activation,
        bias=merged.biased,
    )


def make_network(
    graph: NeuronGraph, merged: Merged, entries: Entries, dtype: torch.dtype, **settings: Any
) -> Network:
    """The network: edges of one parameter share it, constants and held entries stay.

    Args:
        graph: Of `merged`.
        merged: The columns.
        entries: What the model trains.
        dtype: Of the parameters.
        settings: Other arguments of `Network`.
    """
    net = Network(graph, merged.weight.value, merged.bias.value, dtype=dtype, **settings)
    held = entries.held
    _constrain(net, "weight", merged.weight, held)
    _constrain(net, "bias", merged.bias, held)
    return net


def _constrain(net: Network, name: str, made_of: Coefficients, held: Tensor) -> None:
    entry = made_of.entry
    is_constant = entry < 0
    is_constant[~is_constant] = held[entry[~is_constant]]
    parameter = getattr(net, name)
    if bool(is_constant.all()):
        parameter.requires_grad_(entry.numel() == 0)
        return
    trained = ~is_constant
    group = torch.zeros(held.numel(), dtype=torch.int64, device="cpu")
    group.index_add_(0, entry[trained], torch.ones_like(entry[trained]))
    if int(group.max()) > 1:
        numbers = (group > 0).cumsum(0) - 1
        first = int(trained.int().argmax())
        # Constants belong to no group. They join that of the first trained one, for which a
        # `Frozen` then hides them, so that there are as many parameters as in the model.
        index = torch.where(trained, numbers[entry.clamp(min=0)], numbers[entry[first]])
        tied = Tied(index)
        tied.first[index[first]] = first
        parametrize.register_parametrization(net, name, tied.to(parameter.device))
    if bool(is_constant.any()):
        value = made_of.value.to(parameter.device, parameter.dtype)
        frozen = Frozen(is_constant.to(parameter.device), value)
        parametrize.register_parametrization(net, name, frozen)
