"""The whole plan in Triton kernels on a GPU: fused forward, input and weight gradients.

A kernel sums a tile of neurons x samples in registers and applies bias and activation before it
writes; backward, one kernel takes both gradients from each value that it gathers. Networks whose
launches would cost more than their work run in one launch; large complete blocks run as torch's
matrix products. Nothing is added by atomics, and nothing of size (B, E) is made.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphnn import activation
from graphnn.backends import dense, fused_gpu_graphs
from graphnn.backends.base import Call, Keep, States, is_transformed
from graphnn.backends.fused_gpu_backward import Backward
from graphnn.backends.fused_gpu_graphs import Compute, Tensors
from graphnn.backends.fused_gpu_memory import Size, within_memory
from graphnn.backends.fused_gpu_pass import ACCUMULATED, Pass, State, chunked
from graphnn.backends.fused_gpu_schedule import schedule
from graphnn.backends.fused_gpu_tiles import launches
from graphnn.backends.refusals import refuse_batched_gradients, refuse_second_derivative
from graphnn.plan import ExecutionPlan

# Triton makes code for GPUs of this compute capability on.
_OLDEST = (7, 0)
# How many times smaller the pieces of an inference are made once the memory was too small.
_SHRINK = 8


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: ExecutionPlan, keep: Keep, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None,
    ) -> Any:  # fmt: skip
        ctx.plan, ctx.keep = plan, keep

        def compute(weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None) -> Tensors:
            call = Pass(plan, weight, inputs.shape[0])
            state = call.forward(bias, inputs, offset, keep == "all" or call.own.keeps_pre)
            if keep == "outputs":
                return state.values, state.pres, call.outputs(state)
            return state.values, state.pres, *call.values_and_preactivations(state)

        given = (weight, bias, inputs, offset)
        values, pres, *results = _launched(plan, ("forward", keep), compute, given, inputs)
        ctx.save_for_backward(*given, values, pres)
        return results[0] if keep == "outputs" else tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        refuse_batched_gradients("fused_gpu", gradients)
        weight, bias, inputs, offset, values, pres = ctx.saved_tensors
        plan, keep, needs = ctx.plan, ctx.keep, tuple(ctx.needs_input_grad[2:])

        def compute(
            weight: Tensor, values: Tensor, pres: Tensor | None, *arriving: Tensor
        ) -> Tensors:
            back = Backward(Pass(plan, weight, inputs.shape[0]), State(values, pres), needs)
            if keep == "outputs":
                return tuple(back.run(arriving[0], None))
            return tuple(back.run(None, (arriving[0], arriving[1])))

        def launched() -> Tensors:
            given = (weight, values, pres, *gradients)
            return _launched(plan, ("backward", keep, needs), compute, given, inputs)

        call = Call(plan, weight, bias, inputs, offset, keep)
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            computed = within_memory(launched, launched, Size.of(call), trains=True)
        if torch.is_grad_enabled():
            computed = refuse_second_derivative("fused_gpu", computed, (*call.tensors, *gradients))
        return None, None, *computed


def _launched(
    plan: ExecutionPlan, key: Any, compute: Compute, given: Tensors, inputs: Tensor
) -> Tensors:
    """What `compute` gives, captured where Python would launch more slowly than the GPU works."""
    how = launches(schedule(plan), inputs.shape[0], inputs.element_size())
    if how == "graph" and fused_gpu_graphs.can_capture(inputs.device):
        return fused_gpu_graphs.graphs(plan).run((*key, inputs.shape[0]), compute, given)
    return compute(*given)


class FusedGpu:
    """Triton kernels for the whole plan."""

    name = "fused_gpu"
    sums_in_float32 = True

    def unsupported(self, call: Call) -> list[str]:
        """What keeps this backend from running the call."""
        if is_transformed(call):
            # Told alone, so that a tracer sees no question about the machine.
            return [
                "inside torch.compile, torch.export or a torch.func transform, which see only "
                "torch's own operations"
            ]
        where = call.weight.device
        reasons = no_kernels_on(where)
        placed = [("the plan", call.plan.device), ("bias", call.bias.device)]
        placed += [("the inputs", call.inputs.device)]
        placed += [("offset", call.offset.device)] if call.offset is not None else []
        reasons += [
            f"{name} must be where the weights are, on {where} (got {device})"
            for name, device in placed
            if device != where
        ]
        mixed = sorted({str(t.dtype) for t in call.tensors if t.dtype != call.weight.dtype})
        if mixed:
            reasons.append(
                f"all tensors must have the weights' dtype {call.weight.dtype} (got "
                f"{', '.join(mixed)})"
            )
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
        call = Call(plan, weight, bias, inputs, offset, keep)
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in call.tensors)
        size = Size.of(call)

        def compute(shrink: int = 1) -> Tensor | States:
            if schedule(plan).only_products:
                guard = partial(_dense_backward, size=size)
                return dense.run(plan, weight, bias, inputs, offset, keep, self.name, guard)
            if trains:
                return _Run.apply(plan, keep, weight, bias, inputs, offset)
            with torch.no_grad():
                return _infer(call, shrink)

        return within_memory(compute, lambda: compute(_SHRINK), size, trains)


def _dense_backward(backward: Callable[[], Any], size: Size) -> Any:
    return within_memory(backward, backward, size, trains=True)


def _infer(call: Call, shrink: int) -> Tensor | States:
    """Outputs or states without a gradient, in pieces that many times smaller than usual."""
    plan, keep = call.plan, call.keep

    def compute(weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None) -> Tensors:
        if keep == "outputs":
            return (chunked(lambda n: Pass(plan, weight, n), bias, inputs, offset, shrink),)
        own = Pass(plan, weight, inputs.shape[0])
        return own.values_and_preactivations(own.forward(bias, inputs, offset, True))

    given = (call.weight, call.bias, call.inputs, call.offset)
    found: Any = _launched(plan, ("inference", keep, shrink), compute, given, call.inputs)
    return found[0] if keep == "outputs" else found


def no_kernels_on(where: torch.device) -> list[str]:
    """The reasons why Triton's kernels cannot run on tensors of this device; empty if they can."""
    reasons = []
    if where.type != "cuda" and not (where.type == "cpu" and _interprets()):
        reasons.append(f"the weights are on {where}, not on a GPU")
    if not _has_triton():
        reasons.append("triton is not installed (pip install triton; Linux only)")
    if where.type == "cuda" and torch.version.hip is not None:
        reasons.append("the kernels are for NVIDIA GPUs, and this torch is for AMD's")
    elif where.type == "cuda":
        if torch.cuda.get_device_capability(where) < _OLDEST:
            name = torch.cuda.get_device_name(where)
            reasons.append(f"the GPU {name} is older than Triton knows")
        if not _has_compiler():
            reasons.append(
                "triton starts kernels by code that it compiles here, and there is no C compiler "
                "with Python's headers (install gcc or clang, and python3-dev)"
            )
    return reasons


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _has_compiler() -> bool:
    # Where Triton looks for them.
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    return compiler is not None and Path(sysconfig.get_path("include", scheme), "Python.h").exists()


def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
