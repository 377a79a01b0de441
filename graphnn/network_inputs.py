"""The arguments of a network's call, checked and joined."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from graphnn import autocast
from graphnn.errors import GraphError, PlacementError


def check_parameters(weight: Tensor, bias: Tensor, num_edges: int, num_biases: int) -> None:
    """Raises GraphError unless weight (num_edges,) and bias (num_biases,) fit and agree."""
    if bias.dtype != weight.dtype or bias.device != weight.device:
        raise PlacementError(
            f"weight and bias must have one dtype and device (got {weight.dtype} on "
            f"{weight.device} and {bias.dtype} on {bias.device})."
        )
    for name, own, size in (("weight", weight, num_edges), ("bias", bias, num_biases)):
        if tuple(own.shape) != (size,):
            raise GraphError(
                f"{name} must have shape ({size},), as it was made (got {tuple(own.shape)})."
            )


def read_inputs(
    groups: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
    named: dict[str, Tensor],
    weight: Tensor,
) -> tuple[Tensor, tuple[int, ...]]:
    """The inputs as one (B, n_in) tensor, and their leading shape.

    Args:
        groups: The neurons of each input group, by name.
        inputs: One tensor (*, n) for each group in order, or none.
        named: The same by name, or empty.
        weight: The network's weights, whose dtype and device they must have.

    Raises:
        GraphError: Groups or shapes do not fit.
        PlacementError: Dtypes or devices do not; a GraphError and a BackendError.
    """
    given = _by_group(inputs, named, tuple(groups))
    leading: tuple[int, ...] | None = None
    ready = []
    for (name, ids), x in zip(groups.items(), given, strict=True):
        if not isinstance(x, Tensor):
            raise GraphError(f"input {name!r} must be a tensor (got {type(x).__name__}).")
        if x.layout is not torch.strided:
            raise GraphError(f"input {name!r} must be a dense tensor (got {x.layout}).")
        if x.dim() == 0 or x.shape[-1] != ids.numel():
            raise GraphError(
                f"input {name!r} must have shape (*, {ids.numel()}), one column a neuron "
                f"(got {tuple(x.shape)})."
            )
        x = _placed(f"input {name!r}", x, weight)
        if leading is not None and tuple(x.shape[:-1]) != leading:
            raise GraphError(
                f"all inputs must have the same leading dimensions, but {name!r} has "
                f"{tuple(x.shape[:-1])} after {leading}."
            )
        leading = tuple(x.shape[:-1])
        ready.append(x)
    joined = ready[0] if len(ready) == 1 else torch.cat(ready, dim=-1)
    assert leading is not None
    flat = joined if len(leading) == 1 else joined.reshape(math.prod(leading), joined.shape[-1])
    return flat, leading


def read_offset(
    offset: Tensor, leading: tuple[int, ...], num_neurons: int, weight: Tensor
) -> Tensor:
    """An offset (*, N) as (B, N).

    Args:
        offset: What the caller gave.
        leading: The inputs' leading shape.
        num_neurons: N.
        weight: The network's weights, whose dtype and device it must have.

    Raises:
        GraphError: Its shape does not fit.
        PlacementError: Its dtype or device does not.
    """
    expected = (*leading, num_neurons)
    if isinstance(offset, Tensor) and offset.layout is not torch.strided:
        raise GraphError(f"offset must be a dense tensor (got {offset.layout}).")
    if not isinstance(offset, Tensor) or tuple(offset.shape) != expected:
        shape = tuple(offset.shape) if isinstance(offset, Tensor) else type(offset).__name__
        raise GraphError(f"offset must have shape {expected}, one column a neuron (got {shape}).")
    return _placed("offset", offset, weight).reshape(math.prod(leading), num_neurons)


def _by_group(
    inputs: tuple[Tensor, ...], named: dict[str, Tensor], names: tuple[str, ...]
) -> list[Tensor]:
    if inputs and named:
        raise GraphError("inputs must come either in order or by name, not both.")
    if named:
        if set(named) != set(names):
            raise GraphError(
                f"inputs must be given for the groups {', '.join(map(repr, names))} "
                f"(got {', '.join(map(repr, named))})."
            )
        return [named[name] for name in names]
    if len(inputs) != len(names):
        raise GraphError(
            f"one input must be given for each of the groups {', '.join(map(repr, names))} "
            f"(got {len(inputs)} inputs)."
        )
    return list(inputs)


def _placed(name: str, x: Tensor, weight: Tensor) -> Tensor:
    """An argument in the weights' dtype: what it must have, or what autocast lets it be given."""
    if x.device != weight.device:
        raise PlacementError(
            f"{name} must be where the weights are: it is on {x.device}, they are on "
            f"{weight.device}. Move one with .to()."
        )
    if x.dtype == weight.dtype:
        return x
    if not (x.is_floating_point() and autocast.is_active(weight.device)):
        raise PlacementError(
            f"{name} must have the weights' dtype {weight.dtype} (got {x.dtype}). Convert it, or "
            "the network with net.to(dtype)."
        )
    return x.to(weight.dtype)
