"""Constraints on a network's parameters, for `torch.nn.utils.parametrize`.

They stack, in the order in which they are registered: `Tied` only as the first, `Frozen` as the
first or after others, `Sign` anywhere. What comes later has the last word: a `Sign` after a
`Frozen` may turn the sign of a held value, a `Frozen` after a `Sign` may hold any value, and a
`Sign` after a `Tied` keeps a group equal only where it gives all of its entries one sign.

Editing, saving and converting take the effective weights and biases; the new network has plain
parameters, unless a converter says otherwise. ``torch.save(net.state_dict())`` keeps the
constraints' buffers and the trained values; loading needs the same constraints registered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphnn.errors import GraphError
from graphnn.picking import pick


class Frozen(nn.Module):
    """Holds some entries of a parameter at fixed values; only the others are trained.

    The parameter that remains, ``module.parametrizations.weight.original``, is one-dimensional and
    has the free entries only: no optimiser, weight decay or momentum can move the frozen ones, and
    they do not count as parameters. Assigning to the parametrized tensor keeps the free entries of
    what is assigned. Registered after other parametrizations, it holds entries of what these give:
    the parameter is theirs, and gets a gradient of zero from held entries.

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
        # Whether it gets whole tensors from another parametrization, which only a call can tell.
        self._follows = False

    @property
    def mask(self) -> Tensor:
        """Bools of the shape of the tensor: True where an entry is frozen."""
        mask = torch.ones(self.value.numel(), dtype=torch.bool, device=self.free.device)
        return mask.index_fill_(0, self.free, False).view(self.value.shape)

    def forward(self, values: Tensor) -> Tensor:
        """The whole tensor, from its (num_free,) free entries or from a whole one."""
        free = values
        if values.shape != self.free.shape:
            _check_shape("Frozen's mask", self.value, values)
            self._follows = True
            free = values.reshape(-1).index_select(0, self.free.to(values.device))
        held = self.value.to(free.device, free.dtype).reshape(-1)
        return held.index_copy(0, self.free.to(free.device), free).view(self.value.shape)

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """The (num_free,) free entries of a whole tensor; after other parametrizations, all of it.

        Raises:
            GraphError: The tensor does not have the mask's shape.
        """
        _check_shape("Frozen's mask", self.value, tensor)
        # Values given as Python numbers take the dtype and the place of what they are held in.
        self.value = self.value.to(tensor.device, tensor.dtype)
        self.free = self.free.to(tensor.device)
        if self._follows:
            return tensor.detach()
        return tensor.detach().reshape(-1).index_select(0, self.free)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        num_free = self.free.numel()
        return f"num_frozen={self.value.numel() - num_free}, num_free={num_free}"


class Sign(nn.Module):
    """Gives every entry of a parameter a sign: excitatory, inhibitory or free.

    ``weight = -x if x * sign < 0 else x`` of the parameter x, so entries never have the wrong sign,
    whatever an optimiser does to x; zero has both signs. The gradient is that of the weight up to
    its sign and does not vanish at zero: a weight that a step would carry across zero comes back by
    the amount by which it went too far. Right-signed values are kept as they are on registration
    and assignment; wrong-signed ones keep their magnitude.

    Args:
        sign: +1, -1 or 0 (free), one per entry, in the shape of the tensor; integers or floats.

    Raises:
        GraphError: `sign` holds anything else.

    Source: H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural
        networks for cognitive tasks", PLoS Comput Biol 12(2), 2016, who rectify x instead.

    Example:
        >>> net = graphnn.Network(graphnn.NeuronGraph([[0, 1, 2], [3, 3, 3]]), [0.5, 2.0, -1.0])
        >>> _ = torch.nn.utils.parametrize.register_parametrization(
        ...     net, "weight", graphnn.parametrize.Sign([+1, -1, 0])
        ... )
        >>> net.weight.tolist()
        [0.5, -2.0, -1.0]
    """

    sign: Tensor

    def __init__(self, sign: Any) -> None:
        super().__init__()
        self.register_buffer("sign", _read_sign(sign))

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with its signs right."""
        _check_shape("Sign's sign", self.sign, x)
        # A factor of its own, because where() would take twice the time forward and backward.
        wrong = x.detach() * self.sign.to(x.device) < 0
        return x * (1 - 2 * wrong.to(x.dtype))

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """The parameter of a tensor: itself, with wrong signs turned.

        Raises:
            GraphError: The tensor does not have the shape of `sign`.
        """
        return self.forward(tensor.detach())

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        positive, negative = (self.sign > 0).sum(), (self.sign < 0).sum()
        free = self.sign.numel() - positive - negative
        return f"num_positive={positive}, num_negative={negative}, num_free={free}"


class Tied(nn.Module):
    """Makes groups of entries of a parameter share one value.

    The parameter that remains, ``module.parametrizations.weight.original``, has one value a group,
    which gets the sum of its entries' gradients. It must be the first parametrization that is
    registered. On registration and assignment a group takes the value of its first entry.

    Args:
        index: Group of each entry, in the shape of the tensor: the integers 0 ... G - 1, each of
            which occurs. A group of one is not tied.

    Raises:
        GraphError: `index` holds anything else.

    Example:
        >>> net = graphnn.Network(graphnn.NeuronGraph([[0, 1, 2], [3, 3, 3]]), [0.5, 2.0, 0.5])
        >>> _ = torch.nn.utils.parametrize.register_parametrization(
        ...     net, "weight", graphnn.parametrize.Tied([0, 1, 0])
        ... )
        >>> net.parametrizations.weight.original.tolist(), net.weight.tolist()
        ([0.5, 2.0], [0.5, 2.0, 0.5])
    """

    index: Tensor
    first: Tensor

    def __init__(self, index: Any) -> None:
        super().__init__()
        read, num_groups = _read_index(index)
        flat = read.reshape(-1)
        places = torch.arange(flat.numel(), device=flat.device)
        first = torch.full((num_groups,), flat.numel(), device=flat.device)
        self.register_buffer("index", read)
        self.register_buffer("first", first.scatter_reduce(0, flat, places, "amin"))

    def forward(self, values: Tensor) -> Tensor:
        """The whole tensor, from one value a group (G,)."""
        if values.shape != self.first.shape:
            raise GraphError(
                "Tied must be the first parametrization that is registered on a tensor (got a "
                f"tensor of shape {tuple(values.shape)}, but {self.first.numel()} groups). "
                "Register it before the others."
            )
        return pick(values, 0, self.index.reshape(-1)).view(self.index.shape)

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """The (G,) values of each group's first entry.

        Raises:
            GraphError: The tensor does not have the shape of `index`.
        """
        _check_shape("Tied's index", self.index, tensor)
        self.index, self.first = self.index.to(tensor.device), self.first.to(tensor.device)
        return tensor.detach().reshape(-1).index_select(0, self.first)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        return f"num_entries={self.index.numel()}, num_groups={self.first.numel()}"


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
    masks = [part.mask for part in lists[name] if isinstance(part, Frozen)]
    return torch.stack(masks).any(0) if masks else None


def _check_shape(what: str, own: Tensor, tensor: Tensor) -> None:
    if tensor.shape != own.shape:
        raise GraphError(
            f"{what} must have the shape of the tensor that it is registered on (got "
            f"a {what.rsplit(maxsplit=1)[-1]} of shape {tuple(own.shape)} and a tensor of shape "
            f"{tuple(tensor.shape)})."
        )


def _integers(values: Any, what: str) -> Tensor:
    """An own integer tensor; `what` is what messages say it must hold."""
    array = values if isinstance(values, Tensor) else np.asarray(values)
    kind = str(array.dtype).removeprefix("torch.")
    if not kind.startswith(("int", "uint")):
        raise GraphError(f"{what} (got {kind} of shape {tuple(array.shape)}).")
    read = array if isinstance(array, Tensor) else torch.as_tensor(array)
    return read.detach().to(torch.int64, copy=True)


def _read_sign(sign: Any) -> Tensor:
    what = "sign must hold the numbers +1, -1 and 0, one per entry"
    array = sign if isinstance(sign, Tensor) else np.asarray(sign)
    kind = str(array.dtype).removeprefix("torch.")
    if not kind.startswith(("int", "uint", "float", "bfloat")):
        hint = " Pass torch.where(mask, 1, -1), or whichever sign True has." * (kind == "bool")
        raise GraphError(f"{what} (got {kind} of shape {tuple(array.shape)}).{hint}")
    read = array if isinstance(array, Tensor) else torch.as_tensor(array.astype(np.float64))
    # Unsigned integers do not compare with -1.
    read = read.detach().to(torch.float64)
    wrong = (read.abs() != 1) & (read != 0)
    if wrong.any():
        place = int(wrong.reshape(-1).int().argmax())
        raise GraphError(f"{what} (got {read.reshape(-1)[place].item():g} at place {place}).")
    return read.to(torch.int8)


def _read_index(index: Any) -> tuple[Tensor, int]:
    """The index, and how many groups it has."""
    what = "index must hold the integers 0 ... G - 1, the group of each entry, each at least once"
    read = _integers(index, what)
    flat = read.reshape(-1)
    if flat.numel() == 0:
        return read, 0
    low, high = int(flat.min()), int(flat.max())
    hint = "Number the groups with torch.unique(groups, return_inverse=True)[1]."
    if low < 0:
        raise GraphError(f"{what} (got {low} at place {int(flat.argmin())}). {hint}")
    # More groups than entries cannot all occur, and counting them could need any amount of memory.
    present = torch.bincount(flat.clamp(max=flat.numel()), minlength=flat.numel()) > 0
    missing = (~present[: high + 1]).nonzero()
    if missing.numel():
        raise GraphError(
            f"{what}, but none is in group {int(missing[0])} (the highest is {high}). {hint}"
        )
    return read, high + 1


def _read_mask(mask: Any) -> Tensor:
    mask = mask if isinstance(mask, Tensor) else torch.as_tensor(mask)
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
