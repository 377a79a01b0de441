"""The whole plan in compiled code on the CPU: one call forward, one call backward.

Samples are cut into tiles, and every thread takes its tiles through all levels: no barrier, and a
tile's state stays in the core's cache. Threads are Python's own (the compiled code holds no lock),
because a second OpenMP runtime beside torch's can be many times slower than one thread.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphnn import activation
from graphnn.backends import fused_cpu_dense, transforms
from graphnn.backends.base import Call, Keep, PlainRun, States
from graphnn.backends.buffers import CPU, DTYPES
from graphnn.backends.fused_cpu_gradient import Train, take_back
from graphnn.backends.fused_cpu_op import arguments_of
from graphnn.backends.fused_cpu_pass import Pass
from graphnn.backends.fused_cpu_schedule import schedule_of
from graphnn.backends.reference import Reference
from graphnn.backends.refusals import check_size, refuse_grads_batched, refuse_tangents
from graphnn.backends.transforms import is_plain, needs_gradient
from graphnn.plan import ExecutionPlan


class _Run(torch.autograd.Function):
    """The passes as they are: `Train` costs 25 us more a call."""

    @staticmethod
    def forward(
        ctx: Any, plan: ExecutionPlan, keep: Keep, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None,
    ) -> Any:  # fmt: skip
        ctx.threads = torch.get_num_threads()
        ctx.call = call = Pass(plan, weight.dtype, inputs.shape[0], ctx.threads)
        first, second, state = call.forward(weight, bias, inputs, offset, keep, keeps_state=True)
        ctx.plan, ctx.keep = plan, keep
        ctx.save_for_backward(weight, bias, inputs, offset, state)
        ctx.set_materialize_grads(False)
        return first if second is None else (first, second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        refuse_grads_batched("fused_cpu", gradients)
        refuse_tangents("fused_cpu", gradients)
        first, second = (*gradients, None)[:2]
        seeds = (first, None, None) if ctx.keep == "outputs" else (None, first, second)
        needs, saved = ctx.needs_input_grad[2:], ctx.saved_tensors
        check_size(saved[0], ctx.plan.num_edges)
        if torch.is_grad_enabled() or not is_plain(*gradients):
            saved = (*saved, torch.tensor(ctx.threads, device=CPU))
            return None, None, *take_back(ctx.plan, needs, saved, seeds)
        return None, None, *ctx.call.backward(saved[0], saved[-1], seeds, needs)


class FusedCpu:
    """Compiled code for the whole plan, over tiles of samples."""

    name = "fused_cpu"
    sums_in_float32 = False

    def unsupported(self, call: Call) -> list[str]:
        """What keeps this backend from running the call."""
        reasons = []
        if call.weight.device.type != "cpu":
            reasons.append(f"the tensors are on {call.weight.device}, not on the CPU")
        return reasons + _lacks(call.plan, call.weight.dtype) + _transforms()

    def discouraged(self, call: Call) -> list[str]:
        """Nothing speaks against it."""
        return []

    def describe_level(self, plan: ExecutionPlan, level: int) -> str:
        """Large and dense levels run as matrix products, the others as message passing."""
        if _only_blocks(plan) or level in schedule_of(plan).product_levels:
            return "matrix product"
        return "message passing"

    def run(
        self, plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None = None, keep: Keep = "outputs",
    ) -> Tensor | States:  # fmt: skip
        """Runs the plan; see `Backend.run`."""
        if is_plain(weight, bias, inputs, offset):
            return _plain_run(plan)(plan, weight, bias, inputs, offset, keep)
        if _only_blocks(plan):
            return Reference().run(plan, weight, bias, inputs, offset, keep)
        return _run_traced(Call(plan, weight, bias, inputs, offset, keep))

    def plain_run(self, plan: ExecutionPlan, dtype: torch.dtype) -> PlainRun | None:
        """What `run` comes to where the tensors are plain (`transforms.is_plain`).

        Args:
            plan: The plan.
            dtype: Of the tensors, which are where the plan is.

        Returns:
            The function, or None where this backend cannot run such calls.
        """
        if plan.device.type != "cpu" or _lacks(plan, dtype):
            return None
        return _plain_run(plan)


def _lacks(plan: ExecutionPlan, dtype: torch.dtype) -> list[str]:
    """The reasons not to run a plan in a dtype, wherever and within whatever."""
    reasons = []
    if dtype not in DTYPES:
        reasons.append(f"it computes in float32 and float64, not in {dtype}")
    custom = [e.name for e in plan.activation_table if e.function not in activation.built_in()]
    if custom:
        reasons.append(f"it has no code for the registered activations {', '.join(custom)}")
    return reasons


def _plain_run(plan: ExecutionPlan) -> PlainRun:
    return fused_cpu_dense.run if _only_blocks(plan) else _run


def _run(
    plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None,
    keep: Keep,
) -> Tensor | States:  # fmt: skip
    if needs_gradient(weight, bias, inputs, offset):
        return _Run.apply(plan, keep, weight, bias, inputs, offset)
    call = Pass(plan, weight.dtype, inputs.shape[0], torch.get_num_threads())
    first, second, _ = call.forward(weight, bias, inputs, offset, keep, keeps_state=False)
    return first if second is None else (first, second)


def _run_traced(call: Call) -> Tensor | States:
    """The call in terms that torch's tracers and transforms follow."""
    tensors = call.weight, call.bias, call.inputs, call.offset
    around = transforms.active()
    if around and (torch.is_grad_enabled() or "Grad" in around):
        # Inside torch.func only a function with a vmap rule is differentiated.
        first, second, *_ = Train.apply(call.plan, call.keep, *tensors)
    else:
        first, second = torch.ops.graphnn.fused_cpu(*tensors, *arguments_of(call.plan), call.keep)
    return first if call.keep == "outputs" else (first, second)


def _transforms() -> list[str]:
    """The reasons not to run inside the transforms that are active."""
    levels = transforms.active()
    if "Jvp" in levels:
        return ["it has no forward-mode derivative"]
    if levels.count("Grad") > 1:
        return ["it has first derivatives only, and is inside more than one torch.func gradient"]
    if "Functionalize" in levels:
        return ["inside torch.func.functionalize, which sees only torch's own operations"]
    if levels and torch.compiler.is_compiling():
        return ["torch.compile cannot follow it into torch.func transforms"]
    return []


def _only_blocks(plan: ExecutionPlan) -> bool:
    if "only_blocks" not in plan.derived:
        only = transforms.apart(lambda: bool((plan.block_width[1:] > 0).all()))
        plan.derived["only_blocks"] = only
    return plan.derived["only_blocks"]


# As for a plan's tables: tracers take it as a constant.
_only_blocks._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
