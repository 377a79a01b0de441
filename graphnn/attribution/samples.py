"""Reading the samples that are attributed, and the baseline that they are compared with."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphnn.attribution.derivatives import Frozen
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph


def read_samples(x: Any, net: Frozen) -> Tensor:
    """The samples as an own (B, n_in) tensor, groups one after the other.

    Args:
        x: (B, n_in), or with several groups a sequence of tensors in declared order or a mapping
            from group name to tensor.
        net: The network's numbers.

    Raises:
        GraphError: A group is missing or unknown, what is given is no (B, n) tensor of the
            network's dtype and device, or B is 0.
    """
    given = _by_group(x, "x", net.graph)
    for name, ids in net.graph.inputs.items():
        _check_samples(name, given[name], ids.numel(), net.weight)
    counts = {name: samples.shape[0] for name, samples in given.items()}
    if len(set(counts.values())) > 1:
        raise GraphError(
            "x must hold the same number of samples for every input group (got "
            f"{', '.join(f'{count} for {name!r}' for name, count in counts.items())})."
        )
    # Joining copies: tensors made under inference mode could not be saved for a backward pass.
    return torch.cat([samples.detach() for samples in given.values()], 1)


def _check_samples(name: str, samples: Any, size: int, weight: Tensor) -> None:
    if not isinstance(samples, Tensor) or samples.dim() != 2 or samples.shape[1] != size:
        raise GraphError(
            f"x must have shape (B, {size}), one row a sample and one column a neuron, for the "
            f"input {name!r} (got {_shape(samples)}). One sample is x[None]."
        )
    if samples.shape[0] == 0:
        raise GraphError(
            f"x must hold at least one sample (got shape {tuple(samples.shape)} for the input "
            f"{name!r})."
        )
    if samples.dtype != weight.dtype or samples.device != weight.device:
        raise GraphError(
            f"x must have the weights' dtype and device, {weight.dtype} on {weight.device} (got "
            f"{samples.dtype} on {samples.device} for the input {name!r}). Convert with x.to()."
        )


def read_baseline(baseline: Any, inputs: Tensor, graph: NeuronGraph) -> Tensor:
    """The baseline as a (B, n_in) tensor.

    Args:
        baseline: A number for all inputs, or in the form of x, each tensor of a shape that can be
            expanded to that input's.
        inputs: The samples.
        graph: The wiring.

    Raises:
        GraphError: Groups or shapes do not fit.
    """
    if isinstance(baseline, numbers.Real):
        return torch.full_like(inputs, float(baseline))
    given = _by_group(baseline, "baseline", graph)
    read = []
    for name, ids in graph.inputs.items():
        shape = (inputs.shape[0], ids.numel())
        try:
            own = torch.as_tensor(given[name], dtype=inputs.dtype, device=inputs.device)
            read.append(own.detach().expand(shape))
        except (TypeError, ValueError, RuntimeError) as error:
            raise GraphError(
                f"baseline must be a number, or expand to the shape {shape} of the input {name!r} "
                f"(got {_shape(given[name])}: {error})."
            ) from None
    return torch.cat(read, 1)


def _by_group(x: Any, what: str, graph: NeuronGraph) -> dict[str, Any]:
    names = tuple(graph.inputs)
    shown = ", ".join(map(repr, names))
    if isinstance(x, Mapping):
        if set(x) != set(names):
            raise GraphError(
                f"{what} must hold the input groups {shown} (got {', '.join(map(repr, x))})."
            )
        return {name: x[name] for name in names}
    is_several = isinstance(x, Sequence) and not isinstance(x, str)
    parts = list(x) if is_several else [x]
    if len(parts) != len(names):
        raise GraphError(
            f"{what} must hold one tensor for each of the input groups {shown} (got {len(parts)})."
        )
    return dict(zip(names, parts, strict=True))


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
