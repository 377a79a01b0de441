"""The whole plan in Triton kernels on a GPU: fused forward, input and weight gradients.

A kernel sums a tile of neurons x samples in registers and applies bias and activation before it
writes; backward, one kernel takes both gradients from each value that it gathers. Networks whose
launches would cost more than their work run in one launch; large complete blocks run as torch's
matrix products. Nothing is added by atomics, and nothing of size (B, E) is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from graphnn import activation
from graphnn.backends.base import Call, Keep, States, is_transformed
from graphnn.backends.fused_gpu_pass import ACCUMULATED, Pass, State, chunked
from graphnn.backends.fused_gpu_schedule import schedule
from graphnn.backends.fused_gpu_tiles import stride_of
from graphnn.backends.reference import Reference
from graphnn.backends.second_order import refuse_batched_gradients, refuse_second_derivative
from graphnn.errors import BackendError
from graphnn.plan import ExecutionPlan

# Triton makes code for GPUs of this compute capability on.
_OLDEST = (7, 0)
_Result = TypeVar("_Result")


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: ExecutionPlan, keep: Keep, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None,
    ) -> Any:  # fmt: skip
        ctx.call = call = Pass(plan, weight, inputs.shape[0])
        ctx.keep = keep
        state = call.forward(bias, inputs, offset, keep == "all" or call.own.keeps_pre)
        ctx.save_for_backward(weight, bias, inputs, offset, state.values, state.pres)
        if keep == "outputs":
            return call.outputs(state)
        return call.values_and_preactivations(state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        refuse_batched_gradients("fused_gpu", gradients)
        weight, bias, inputs, offset, values, pres = ctx.saved_tensors
        outputs = ctx.keep == "outputs"

        def compute() -> tuple[Tensor | None, ...]:
            by_output, by_neuron = (gradients[0], None) if outputs else (None, gradients)
            state, needs = State(values, pres), ctx.needs_input_grad[2:]
            return ctx.call.backward(state, by_output, by_neuron, needs)

        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            computed = _within_memory(compute, ctx.call.plan, inputs)
        if torch.is_grad_enabled():
            tensors = (weight, bias, inputs, *gradients)
            depends_on = tensors if offset is None else (*tensors, offset)
            computed = refuse_second_derivative("fused_gpu", computed, depends_on)
        return None, None, *computed


class FusedGpu:
    """Triton kernels for the whole plan."""

    name = "fused_gpu"

    def unsupported(self, call: Call) -> list[str]:
        """What keeps this backend from running the call."""
        if is_transformed(call):
            # Told alone, so that a tracer sees no question about the machine.
            return [
                "inside torch.compile, torch.export or a torch.func transform, which see only "
                "torch's own operations"
            ]
        reasons = []
        where = call.weight.device
        if where.type != "cuda" and not (where.type == "cpu" and _interprets()):
            reasons.append(f"the weights are on {where}, not on a GPU")
        if not _has_triton():
            reasons.append("triton is not installed (pip install triton; Linux only)")
        if where.type == "cuda" and torch.cuda.get_device_capability(where) < _OLDEST:
            reasons.append(
                f"the GPU {torch.cuda.get_device_name(where)} is older than Triton knows"
            )
        placed = [("the plan", call.plan.device), ("bias", call.bias.device)]
        placed += [("the inputs", call.inputs.device)]
        placed += [("offset", call.offset.device)] if call.offset is not None else []
        reasons += [
            f"{name} must be where the weights are, on {where} (got {device})"
            for name, device in placed
            if device != where
        ]
        if call.weight.dtype not in ACCUMULATED:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in ACCUMULATED)
            reasons.append(f"it computes in {names}, not in {call.weight.dtype}")
        custom = [
            e.name for e in call.plan.activation_table if e.function not in activation.built_in()
        ]
        if custom:
            reasons.append(f"it has no code for the registered activations {', '.join(custom)}")
        return reasons

    def discouraged(self, call: Call) -> list[str]:
        """On a CPU there is only Triton's interpreter, which is for tests."""
        if call.weight.device.type == "cpu":
            return ["Triton's interpreter is slow: it is for tests"]
        return []

    def describe_level(self, plan: ExecutionPlan, level: int) -> str:
        """Large blocks run as matrix products, other levels as message passing."""
        return "matrix product" if level in schedule(plan).products else "message passing"

    def run(
        self, plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None = None, keep: Keep = "outputs",
    ) -> Tensor | States:  # fmt: skip
        """Runs the plan; see `Backend.run`."""
        if schedule(plan).only_products:
            return Reference().run(plan, weight, bias, inputs, offset, keep)
        tensors = Call(plan, weight, bias, inputs, offset, keep).tensors

        def compute() -> Tensor | States:
            if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
                return _Run.apply(plan, keep, weight, bias, inputs, offset)
            with torch.no_grad():
                if keep == "outputs":
                    return chunked(lambda n: Pass(plan, weight, n), bias, inputs, offset)
                call = Pass(plan, weight, inputs.shape[0])
                return call.values_and_preactivations(call.forward(bias, inputs, offset, True))

        return _within_memory(compute, plan, inputs)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def _within_memory(compute: Callable[[], _Result], plan: ExecutionPlan, inputs: Tensor) -> _Result:
    """The result, or a BackendError that says what would fit the GPU's memory."""
    try:
        return compute()
    except torch.OutOfMemoryError as error:
        said = str(error).partition(". ")[0]
    # Raised out here, where nothing holds the frames of the failed call and their tensors.
    raise BackendError(_too_little_memory(plan, inputs, said))


def _too_little_memory(plan: ExecutionPlan, inputs: Tensor, said: str) -> str:
    batch, size = inputs.shape[0], inputs.element_size()
    # Values, preactivations and gradients of a training step; the edges' numbers come on top.
    a_sample = 3 * plan.num_neurons * size
    needed = a_sample * stride_of(batch)
    text = (
        f"backend 'fused_gpu' has too little memory on {inputs.device} for {plan.num_neurons} "
        f"neurons, {plan.num_edges} edges and {batch} samples in {inputs.dtype}: with gradients "
        f"their state takes up to {_gigabytes(needed)}"
    )
    if inputs.is_cuda:
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(inputs.device)
        fit = free // a_sample
        text += (
            f", and {_gigabytes(free)} of {_gigabytes(total)} are free, enough for about {fit} "
            "samples"
        )
    return (
        f"{text} ({said}). Give smaller batches, or run under torch.no_grad(), which keeps only "
        "what is still read."
    )


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
