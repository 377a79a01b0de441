"""Constraints on a network's parameters, for `torch.nn.utils.parametrize`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphnn.errors import GraphError


class Frozen(nn.Module):
    """Holds some entries of a parameter at fixed values; only the others are trained.

    The parameter that remains, ``module.parametrizations.weight.original``, is one-dimensional and
    has the free entries only: no optimiser, weight decay or momentum can move the frozen ones, and
    they do not count as parameters. Assigning to the parametrized tensor keeps the free entries of
    what is assigned. Several parametrizations may follow on the same tensor; this one must be the
    first that is registered.

    Args:
        mask: Bools of the shape of the tensor, (E,) for `Network.weight` and (K,) for
            `Network.bias`: True where an entry is frozen.
        value: The held values: one number, one per entry (in the shape of `mask`; those of free
            entries are not used), or one per frozen entry, in order.

    Raises:
        GraphError: `mask` does not hold bools, or `value` has another shape or no real numbers.

    Example:
        >>> net = graphnn.Network(graphnn.NeuronGraph([[0, 1], [2, 2]]), [0.5, 2.0], [0.0])
        >>> mask = torch.tensor([True, False])
        >>> _ = torch.nn.utils.parametrize.register_parametrization(
        ...     net, "weight", graphnn.parametrize.Frozen(mask, 1.0)
        ... )
        >>> net.weight
        tensor([1., 2.], grad_fn=...)
        >>> [tuple(p.shape) for p in net.parameters()]
        [(1,), (1,)]
    """

    free: Tensor
    value: Tensor

    def __init__(self, mask: Any, value: Any) -> None:
        super().__init__()
        mask = _read_mask(mask)
        value = _read_value(value, mask)
        held = torch.zeros(mask.shape, dtype=value.dtype, device=mask.device)
        held[mask] = value[mask] if value.shape == mask.shape else value
        # Both are saved with the module: a state holds all that decides the parameter.
        self.register_buffer("free", (~mask).reshape(-1).nonzero().squeeze(1))
        self.register_buffer("value", held)

    @property
    def mask(self) -> Tensor:
        """Bools of the shape of the tensor: True where an entry is frozen."""
        mask = torch.ones(self.value.numel(), dtype=torch.bool, device=self.free.device)
        return mask.index_fill_(0, self.free, False).view(self.value.shape)

    def forward(self, free: Tensor) -> Tensor:
        """The whole tensor, from its (num_free,) free entries."""
        held = self.value.to(free.device, free.dtype).reshape(-1)
        return held.index_copy(0, self.free, free).view(self.value.shape)

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """The (num_free,) free entries of a whole tensor.

        Raises:
            GraphError: The tensor does not have the mask's shape.
        """
        if tensor.shape != self.value.shape:
            raise GraphError(
                f"Frozen's mask must have the shape of the tensor that it is registered on (got a "
                f"mask of shape {tuple(self.value.shape)} and a tensor of shape "
                f"{tuple(tensor.shape)})."
            )
        # Values given as Python numbers take the dtype and the place of what they are held in.
        self.value = self.value.to(tensor.device, tensor.dtype)
        self.free = self.free.to(tensor.device)
        return tensor.detach().reshape(-1).index_select(0, self.free)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        num_free = self.free.numel()
        return f"num_frozen={self.value.numel() - num_free}, num_free={num_free}"


def frozen_mask(module: nn.Module, name: str) -> Tensor | None:
    """Which entries of a module's tensor a `Frozen` holds.

    Args:
        module: Any module, such as a `Network`.
        name: Of its tensor, such as "weight".

    Returns:
        Bools of the tensor's shape, or None where no `Frozen` is registered on it.
    """
    if not parametrize.is_parametrized(module, name):
        return None
    lists: Any = module.parametrizations
    first = lists[name][0]
    return first.mask if isinstance(first, Frozen) else None


def _read_mask(mask: Any) -> Tensor:
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise GraphError(
            f"mask must hold bools, True where an entry is frozen (got shape {tuple(mask.shape)}, "
            f"{mask.dtype})."
        )
    return mask.detach()


def _read_value(value: Any, mask: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        # numpy reads Python numbers as doubles; the tensor that is held decides the final dtype.
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise GraphError(f"value must hold real numbers (got {array.dtype}).")
        value = torch.as_tensor(array)
    if value.is_complex() or value.dtype == torch.bool:
        raise GraphError(f"value must hold real numbers (got {value.dtype}).")
    value = value.detach().to(mask.device)
    value = value if value.is_floating_point() else value.double()
    num_frozen = int(mask.sum())
    if value.shape not in ((), mask.shape, (num_frozen,)):
        raise GraphError(
            f"value must be one number, one per entry {tuple(mask.shape)}, or one per frozen entry "
            f"({num_frozen},) (got shape {tuple(value.shape)})."
        )
    return value
