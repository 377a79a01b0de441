"""What torch does around a call: which transforms and tracers are active."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch._C._functorch import get_interpreter_stack
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter)
_Result = TypeVar("_Result")


def active() -> tuple[str, ...]:
    """The torch.func transforms around the call, the outermost first; "Jvp" for forward mode.

    Names are those of torch._C._functorch.TransformType.
    """
    levels = get_interpreter_stack() or []
    dual = ("Jvp",) if forward_ad._current_level >= 0 else ()
    return (*dual, *(level.key().name for level in levels))


# torch.compile takes the answer as a constant; it compiles again where the transforms differ.
active._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether there are only numbers in memory: no tracer, no transform, no tensor subclass."""
    if (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    ):
        return False
    return not any(tensor is not None and type(tensor) not in _PLAIN for tensor in tensors)


def needs_gradient(weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None) -> bool:
    """Whether what is computed of these tensors is to be differentiated."""
    return torch.is_grad_enabled() and (
        weight.requires_grad
        or bias.requires_grad
        or inputs.requires_grad
        or (offset is not None and offset.requires_grad)
    )


def apart(work: Callable[[], _Result]) -> _Result:
    """work(), out of reach of the transforms and tracers around: these are kept per thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
