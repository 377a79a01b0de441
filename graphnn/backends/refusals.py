"""Refusing backward passes that a backend does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.autograd import forward_ad

from graphnn.errors import BackendError


def no_second_derivative(name: str) -> BackendError:
    """What to raise where the derivative of a backend's gradient is asked for."""
    return BackendError(
        f"backend {name!r} has first derivatives only, but a second one was asked for. Set "
        "net.backend = 'reference', which has every order."
    )


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(gradient.view_as(gradient) for gradient in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise no_second_derivative(ctx.name)


def refuse_batched_gradients(name: str, gradients: tuple[Tensor | None, ...]) -> None:
    """Raises if a backward pass is asked for many gradients at once, as a vmap over it does.

    Args:
        name: The backend's name.
        gradients: What arrived at its backward pass.

    Raises:
        BackendError: One of them is batched.
    """
    if any(g is not None and is_batchedtensor(g) for g in gradients):
        raise _batched(name)
    refuse_grads_batched(name, gradients)


def refuse_grads_batched(name: str, gradients: tuple[Tensor | None, ...]) -> None:
    """As `refuse_batched_gradients`, for a backend with a rule for torch.vmap.

    torch.autograd's own is_grads_batched is older than that, and no rule can be given for it.
    """
    if any(g is not None and is_legacy_batchedtensor(g) for g in gradients):
        raise _batched(name)


def check_size(weight: Tensor | None, num_edges: int) -> None:
    """Raises if weights that were saved have been replaced by fewer or more, as `.data` allows.

    Args:
        weight: What was saved, or None.
        num_edges: E, the number that there must be.

    Raises:
        BackendError: They have: compiled code would read beyond their end.
    """
    if weight is not None and weight.shape != (num_edges,):
        raise BackendError(
            f"weight must keep its shape ({num_edges},) until the backward pass (got "
            f"{tuple(weight.shape)}). Set it before the forward pass."
        )


def refuse_tangents(name: str, gradients: tuple[Tensor | None, ...]) -> None:
    """Raises if forward-mode differentiation brings tangents to a backward pass that drops them.

    Args:
        name: The backend's name.
        gradients: What arrived at its backward pass.

    Raises:
        BackendError: One of them has a tangent.
    """
    if forward_ad._current_level < 0:
        return
    if any(g is not None and forward_ad.unpack_dual(g).tangent is not None for g in gradients):
        raise BackendError(
            f"backend {name!r} has no derivative of its gradients, but they were asked for inside "
            "of forward-mode differentiation. Set net.backend = 'reference', which has every order."
        )


def refuse_transforms(name: str, gradients: tuple[Tensor | None, ...]) -> None:
    """Raises if a backward pass that computes on plain numbers runs within a transform or tracer.

    Args:
        name: The backend's name.
        gradients: What arrived at its backward pass.

    Raises:
        BackendError: It would lose what they are there for: a tangent, or the way to a result.
    """
    refuse_tangents(name, gradients)
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0:
        raise BackendError(
            f"backend {name!r} takes gradients back outside of transforms and tracers, but the "
            "backward pass of an earlier call runs within one. Make the call there too, or set "
            "net.backend = 'reference'."
        )


def _batched(name: str) -> BackendError:
    return BackendError(
        f"backend {name!r} takes one gradient at a time back, but several came at once, as "
        "from is_grads_batched=True or vectorize=True. Leave that out, or set net.backend = "
        "'reference', which takes them."
    )


def refuse_second_derivative(
    name: str, gradients: tuple[Tensor | None, ...], depends_on: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """The same gradients, whose own differentiation raises.

    Args:
        name: The backend's name.
        gradients: A first derivative's gradients, computed without a graph; None where not needed.
        depends_on: The tensors that they are functions of.

    Returns:
        The gradients, tied to `depends_on` by a function that has no derivative.
    """
    present = [gradient for gradient in gradients if gradient is not None]
    tied = iter(_Refuse.apply(name, len(present), *present, *depends_on))
    return tuple(None if gradient is None else next(tied) for gradient in gradients)
