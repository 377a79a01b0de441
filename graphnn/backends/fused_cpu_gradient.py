"""The derivatives of the compiled CPU operators, and their rules under torch.vmap.

Under vmap, samples of all slices make one batch where the slices share their weights; else every
slice is a call of its own. A backward pass has only the sum of all samples' weight gradients, so
for slices it takes the gradients by preactivation, and each slice's products of these and the
sources' values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphnn.backends.base import Keep
from graphnn.backends.fused_cpu_op import LIBRARY, Seeds, arguments_of, plan_from
from graphnn.backends.refusals import no_second_derivative, refuse_grads_batched
from graphnn.plan import ExecutionPlan

Needs = tuple[bool, ...]


class Train(torch.autograd.Function):
    """(outputs, empty, state, threads), or with keep="all" values and preactivations first.

    For whatever follows only torch's functions; the tensors may be anything that stands for one.
    """

    @staticmethod
    def forward(
        plan: ExecutionPlan, keep: Keep, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """The numbers."""
        run = torch.ops.graphnn.fused_cpu_train
        return run(weight, bias, inputs, offset, *arguments_of(plan), keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the backward pass needs."""
        ctx.plan, ctx.keep, *tensors = inputs
        _, second, state, threads = output
        ctx.save_for_backward(*tensors, state, threads)
        ctx.mark_non_differentiable(state, threads, *([second] if ctx.keep == "outputs" else []))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        """The gradients, which cannot be differentiated again."""
        refuse_grads_batched("fused_cpu", gradients)
        first, second = gradients[:2]
        seeds = (first, None, None) if ctx.keep == "outputs" else (None, first, second)
        return None, None, *take_back(ctx.plan, ctx.needs_input_grad[2:], ctx.saved_tensors, seeds)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        """Samples of all slices in one batch, or a call a slice."""
        plan, keep, *tensors = args

        def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
            return Train.apply(plan, keep, *tensors)

        return _over_slices(run, info.batch_size, in_dims[2:], tuple(tensors))


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        plan: ExecutionPlan, needs: Needs, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None, state: Tensor, threads: Tensor, *seeds: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        run = torch.ops.graphnn.fused_cpu_backward
        return run(weight, bias, inputs, state, threads, *seeds, *arguments_of(plan), needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise no_second_derivative("fused_cpu")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        plan, needs, *tensors = args
        size, dims = info.batch_size, in_dims[2:]
        if size == 0:
            return _no_slices(lambda *own: _Backward.apply(plan, needs, *own), dims, tuple(tensors))
        by_inputs, by_state = dims[2:4], dims[4]
        if by_state is None and by_inputs != (None, None):
            # The forward pass took all slices' samples as one batch.
            return _each_slice(plan, needs, size, dims, tuple(tensors)), (0, 0, 0, 0)
        slices = [
            _Backward.apply(plan, needs, *_slice(tuple(tensors), dims, i)) for i in range(size)
        ]
        return tuple(map(torch.stack, zip(*slices, strict=True))), (0, 0, 0, 0)


def take_back(
    plan: ExecutionPlan, needs: Needs, saved: tuple[Tensor | None, ...], seeds: Seeds
) -> tuple[Tensor | None, ...]:
    """Gradients by weight, bias, inputs and offset, whose own differentiation raises.

    Args:
        plan: The plan.
        needs: Which of them are wanted; None stands for the others.
        saved: weight, bias, inputs, offset, and the state and threads that `Train` gave.
        seeds: The gradients that arrive.
    """
    computed = _Backward.apply(plan, needs, *saved, *seeds)
    return tuple(g if need else None for g, need in zip(computed, needs, strict=True))


def _fold(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """(V * B, n) samples of all slices, from (B, n) with the slices along `dim`, or equal."""
    if tensor is None:
        return None
    whole = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return whole.flatten(0, 1)


def _unfold(tensor: Tensor, size: int) -> Tensor:
    return tensor.unflatten(0, (size, tensor.shape[0] // size))


def _slice(
    tensors: tuple[Tensor | None, ...], dims: tuple[int | None, ...], i: int
) -> list[Tensor | None]:
    return [
        tensor if tensor is None or dim is None else tensor.select(dim, i)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


def _no_slices(
    run: Callable[..., tuple[Tensor, ...]],
    dims: tuple[int | None, ...],
    tensors: tuple[Tensor | None, ...],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """What no slices give, in the shapes that one gives: a sum over no slices."""
    one = [
        tensor if tensor is None or dim is None else tensor.sum(dim)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    results = tuple(result.new_empty(0, *result.shape) for result in run(*one))
    return results, (0,) * len(results)


def _over_slices(
    run: Callable[..., tuple[Tensor, ...]],
    size: int,
    dims: tuple[int | None, ...],
    tensors: tuple[Tensor | None, ...],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Results and their slices' dimensions, from weight, bias, inputs and offset."""
    if size == 0:
        return _no_slices(run, dims, tensors)
    if dims[:2] != (None, None):
        slices = [run(*_slice(tensors, dims, i)) for i in range(size)]
        results = tuple(map(torch.stack, zip(*slices, strict=True)))
        return results, (0,) * len(results)
    inputs, offset = (_fold(t, d, size) for t, d in zip(tensors[2:], dims[2:], strict=True))
    first, second, *kept = run(*tensors[:2], inputs, offset)
    states = _unfold(first, size), _unfold(second, size) if second.dim() == 2 else second
    return (*states, *kept), (0, 0 if second.dim() == 2 else None, *(None for _ in kept))


def _each_slice(
    plan: ExecutionPlan, needs: Needs, size: int, dims: tuple[int | None, ...],
    tensors: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Each slice's gradients, (V, ...), from a state of all slices' samples."""
    weight, bias, inputs, offset, state, threads, *seeds = tensors
    assert weight is not None
    assert bias is not None
    inputs, offset = _fold(inputs, dims[2], size), _fold(offset, dims[3], size)
    seeds = [_fold(seed, dim, size) for seed, dim in zip(seeds, dims[6:], strict=True)]
    by_parameters = needs[0] or needs[1]
    _, _, by_inputs, by_pre = _Backward.apply(
        plan, (False, False, needs[2], needs[3] or by_parameters), weight, bias, inputs, offset,
        state, threads, *seeds,
    )  # fmt: skip
    none = weight.new_empty(size, 0)
    by_weight = by_bias = none
    if by_parameters:
        values, *_ = Train.apply(plan, "all", weight, bias, inputs, offset)
        by_weight, by_bias = _parameter_gradients(
            plan, _unfold(values, size), _unfold(by_pre, size), bias.shape[0]
        )
    return (
        by_weight,
        by_bias,
        _unfold(by_inputs, size) if needs[2] else none,
        _unfold(by_pre, size) if needs[3] else none,
    )


def _parameter_gradients(
    plan: ExecutionPlan, values: Tensor, by_pre: Tensor, num_biases: int
) -> tuple[Tensor, Tensor]:
    """(V, E) and (V, K) gradients, from (V, B, N) values and gradients by preactivation."""
    fan_in = plan.row_ptr.diff()
    target = torch.repeat_interleave(plan.neuron_order, fan_in, output_size=plan.num_edges)
    ends = torch.stack([plan.neuron_order[plan.edge_source.long()], target])
    source, target = torch.empty_like(ends).index_copy(1, plan.edge_order.long(), ends)
    by_weight = values.new_zeros(values.shape[0], plan.num_edges)
    # A sample at a time, so that nothing is larger than the result.
    for value, gradient in zip(values.unbind(1), by_pre.unbind(1), strict=True):
        by_weight = by_weight + value.index_select(1, source) * gradient.index_select(1, target)
    # The positions without a bias come first.
    positions = plan.bias_slot.argsort()[plan.num_neurons - num_biases :]
    return by_weight, by_pre.sum(1).index_select(1, plan.neuron_order[positions])


def _needs_gradient(tensors: tuple[Tensor | None, ...]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _run(
    weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None, plan: list[Tensor],
    activations: str, state_rows: int, keep: Keep,
) -> tuple[Tensor, ...]:  # fmt: skip
    tensors = weight, bias, inputs, offset
    if _needs_gradient(tensors):
        return Train.apply(plan_from(plan, activations, state_rows), keep, *tensors)[:2]
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.graphnn.fused_cpu(*tensors, plan, activations, state_rows, keep)


def _train(
    weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None, plan: list[Tensor],
    activations: str, state_rows: int, keep: Keep,
) -> tuple[Tensor, ...]:  # fmt: skip
    tensors = weight, bias, inputs, offset
    if _needs_gradient(tensors):
        return Train.apply(plan_from(plan, activations, state_rows), keep, *tensors)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.graphnn.fused_cpu_train(*tensors, plan, activations, state_rows, keep)


def _take_back(
    weight: Tensor, bias: Tensor, inputs: Tensor, state: Tensor, threads: Tensor,
    by_output: Tensor | None, by_value: Tensor | None, by_pre: Tensor | None,
    plan: list[Tensor], activations: str, state_rows: int, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    numbers, seeds = (weight, bias, inputs), (by_output, by_value, by_pre)
    if _needs_gradient((*numbers, state, *seeds)):
        own = plan_from(plan, activations, state_rows)
        return _Backward.apply(own, tuple(needs), *numbers, None, state, threads, *seeds)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.graphnn.fused_cpu_backward(
            *numbers, state, threads, *seeds, plan, activations, state_rows, needs
        )


def _run_over_slices(
    info: Any, in_dims: tuple[Any, ...], weight: Tensor, bias: Tensor, inputs: Tensor,
    offset: Tensor | None, *others: Any,
) -> Any:  # fmt: skip
    def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        return torch.ops.graphnn.fused_cpu(*tensors, *others)

    tensors = weight, bias, inputs, offset
    return _over_slices(run, info.batch_size, tuple(in_dims[:4]), tensors)


LIBRARY.impl("fused_cpu", _run, "Autograd")
LIBRARY.impl("fused_cpu_train", _train, "Autograd")
LIBRARY.impl("fused_cpu_backward", _take_back, "Autograd")
torch.library.register_vmap("graphnn::fused_cpu", _run_over_slices, lib=LIBRARY)
