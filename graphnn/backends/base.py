"""The seam between a schedule and its performers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from graphnn.plan import ExecutionPlan

Keep = Literal["outputs", "all"]
States = tuple[Tensor, Tensor]


# `Backend.run`, of plain tensors and with all arguments.
PlainRun = Callable[
    [ExecutionPlan, Tensor, Tensor, Tensor, Tensor | None, Keep], Tensor | States
]  # fmt: skip


class Call(NamedTuple):
    """One run of a plan, as a backend is asked for it.

    Args:
        plan: The schedule, on the device of the tensors.
        weight: (E,) edge weights, in graph order.
        bias: (K,) biases of the graph's `bias_neurons`.
        inputs: (B, n_in) the input groups, one after the other.
        offset: (B, N) added to every preactivation, in neuron order, or None.
        keep: "outputs" gives (B, n_out); "all" gives values and preactivations, each (B, N).
    """

    plan: ExecutionPlan
    weight: Tensor
    bias: Tensor
    inputs: Tensor
    offset: Tensor | None = None
    keep: Keep = "outputs"

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that can require a gradient."""
        tensors = (self.weight, self.bias, self.inputs)
        return tensors if self.offset is None else (*tensors, self.offset)

    def to(self, dtype: torch.dtype) -> Call:
        """The call with its tensors converted, differentiably."""
        offset = None if self.offset is None else self.offset.to(dtype)
        own = (self.weight.to(dtype), self.bias.to(dtype), self.inputs.to(dtype))
        return Call(self.plan, *own, offset, self.keep)


class Backend(Protocol):
    """A schedule's performer.

    Args:
        name: What it is asked for by.
        sums_in_float32: Whether it adds numbers of half precision in float32, so that autocast can
            have it compute in them.
    """

    name: str
    sums_in_float32: bool

    def unsupported(self, call: Call) -> list[str]:
        """The reasons why this backend cannot run the call; empty if it can."""
        ...

    def discouraged(self, call: Call) -> list[str]:
        """The reasons why "auto" should rather take another backend; empty if there are none."""
        ...

    def describe_level(self, plan: ExecutionPlan, level: int) -> str:
        """How this backend runs one level: "matrix product" or "message passing"."""
        ...

    def run(
        self,
        plan: ExecutionPlan,
        weight: Tensor,
        bias: Tensor,
        inputs: Tensor,
        offset: Tensor | None = None,
        keep: Keep = "outputs",
    ) -> Tensor | States:
        """Runs the plan, differentiably; arguments and result as in `Call`."""
        ...


def describe_level(plan: ExecutionPlan, level: int) -> str:
    """How a backend that leaves complete blocks to torch's matrix product runs a level."""
    return "matrix product" if int(plan.block_width[level]) > 0 else "message passing"


def is_transformed(call: Call) -> bool:
    """Whether the call is one in which only torch's own operations are seen.

    That is inside a torch.func transform, a tracer or forward-mode differentiation, and on the
    meta device.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or call.weight.device.type == "meta"
        or any(isinstance(t, torch._subclasses.FakeTensor) for t in call.tensors)
    )
