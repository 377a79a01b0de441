"""Reading and checking the parameters that a `Network` is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphnn.errors import GraphError
from graphnn.placing import exact_device

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_generator(generator: Any, device: torch.device) -> None:
    """Refuses what cannot draw numbers on the network's device."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise GraphError(
            f"generator must be a torch.Generator (got {type(generator).__name__}). Make one with "
            "torch.Generator().manual_seed(seed)."
        )
    if device.type != "meta" and generator.device.type != device.type:
        raise GraphError(
            f"generator must be on the network's device {device} (got one on {generator.device}). "
            f"Make it with torch.Generator({device.type!r})."
        )


def read_values(value: Any, name: str) -> Tensor | None:
    """A `weight` or `bias` argument as a tensor."""
    if value is None:
        return None
    try:
        # as_tensor would move a tensor to torch's default device.
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GraphError(
            f"{name} must be a tensor, an array or a list of numbers ({error})."
        ) from None
    if tensor.layout != torch.strided:
        raise GraphError(f"{name} must be a dense tensor (got layout {tensor.layout}).")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise GraphError(f"{name} must hold real numbers (got {tensor.dtype}).")
    return tensor


def placement(
    weight: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype | None,
    device: Any,
    graph_device: torch.device,
) -> tuple[torch.dtype, torch.device]:
    """The dtype and device of the parameters, as given or as values and graph imply them."""
    given = [value for value in (weight, bias) if value is not None]
    floating = [value for value in given if value.is_floating_point()]
    if dtype is None:
        dtype = floating[0].dtype if floating else torch.get_default_dtype()
    if dtype not in _DTYPES:
        raise GraphError(f"dtype must be one of {', '.join(map(str, _DTYPES))} (got {dtype}).")
    if device is None:
        # A graph was brought to an accelerator on purpose; on the CPU it is where all begin.
        implied = torch.get_default_device() if graph_device.type == "cpu" else graph_device
        device = given[0].device if given else implied
    return dtype, exact_device(device)


def make(
    value: Tensor | None,
    name: str,
    what: str,
    count: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """An own tensor of `count` numbers, not yet drawn where `value` is None."""
    if value is None:
        return torch.empty(count, dtype=dtype, device=device)
    if tuple(value.shape) != (count,):
        raise GraphError(
            f"{name} must have shape ({count},), as graph.{what} says "
            f"(got shape {tuple(value.shape)})."
        )
    return value.detach().to(device, dtype, copy=True)
