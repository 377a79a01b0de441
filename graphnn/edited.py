"""What every edit begins and ends with: its ids read, and a network like the given one made."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from graphnn import wiring
from graphnn.errors import GraphError
from graphnn.graph import Ids, NeuronGraph
from graphnn.network import Network


def check_network(net: object) -> None:
    """Refuses what is no `Network`."""
    if not isinstance(net, Network):
        raise GraphError(f"net must be a graphnn.Network (got {type(net).__name__}).")


def read_distinct(ids: Ids, name: str, count: int, kind: str) -> np.ndarray:
    """(n,) int64 ids; refuses masks and ids that occur twice."""
    first = ids[0] if isinstance(ids, list | tuple) and ids else ids
    if isinstance(first, bool) or getattr(first, "dtype", None) in (torch.bool, np.dtype(bool)):
        raise GraphError(
            f"{name} must be {kind} ids, not a mask (got bool). Use torch.nonzero(mask).flatten()."
        )
    read = wiring.read_ids(ids, name, count, kind).numpy()
    times = np.bincount(read, minlength=count)
    if read.size and times.max() > 1:
        place = int(np.argmax(times[read] > 1))
        raise GraphError(
            f"{name} must be distinct, but {kind} {read[place]} ({name}[{place}]) occurs "
            f"{times[read[place]]} times. Use torch.unique."
        )
    return read


def like(net: Network, graph: NeuronGraph, weight: Tensor, bias: Tensor) -> Network:
    """A network on another graph, in every other respect as `net`."""
    graph = graph.to(net.graph.device)
    made = Network(graph, weight, bias, backend=net.backend, output_transform=net.output_transform)
    made.weight.requires_grad_(_is_trained(net, "weight"))
    made.bias.requires_grad_(_is_trained(net, "bias"))
    return made.train(net.training)


def _is_trained(net: Network, name: str) -> bool:
    if parametrize.is_parametrized(net, name):
        # The effective value says so only where gradients are on.
        parts: Any = net.parametrizations
        return any(part.requires_grad for part in parts[name].parameters())
    return getattr(net, name).requires_grad
