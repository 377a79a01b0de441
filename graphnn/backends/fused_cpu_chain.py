"""Plans in which every level reads all of the level below, on the CPU: a converted nn.Sequential.

What `dense` does for any levels of blocks, with nothing to ask on the way: a product of
one sample takes a few microseconds, and what Python does between two of them finds the cache full
of weights, where every step costs several times its usual price.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphnn.activation import Activation, apply
from graphnn.backends.buffers import CPU, empty
from graphnn.backends.refusals import refuse_batched_gradients, refuse_second_derivative
from graphnn.backends.transforms import needs_gradient
from graphnn.levels import Level
from graphnn.plan import ExecutionPlan

_aten = torch.ops.aten

# Activations whose slope is a function of the value, so that they may overwrite what they read.
IN_PLACE = {"relu": torch.relu_, "sigmoid": torch.sigmoid_, "tanh": torch.tanh_}

# gradient by the value, what the slope is a function of (the value for `IN_PLACE`, else the
# preactivation), parameters, where to write -> gradient by the preactivation.
_Slope = Callable[[Tensor, Tensor, tuple[float, ...], Tensor], Tensor]
SLOPES: dict[str, _Slope] = {
    "relu": lambda g, y, p, to: _aten.threshold_backward.grad_input(g, y, 0, grad_input=to),
    "sigmoid": lambda g, y, p, to: _aten.sigmoid_backward.grad_input(g, y, grad_input=to),
    "tanh": lambda g, y, p, to: _aten.tanh_backward.grad_input(g, y, grad_input=to),
    "relu6": lambda g, x, p, to: _aten.hardtanh_backward.grad_input(g, x, 0, 6, grad_input=to),
    "clamp": lambda g, x, p, to: _aten.hardtanh_backward.grad_input(g, x, *p, grad_input=to),
    "leaky_relu": lambda g, x, p, to: _aten.leaky_relu_backward.grad_input(
        g, x, *p, False, grad_input=to
    ),
    "elu": lambda g, x, p, to: _aten.elu_backward.grad_input(g, *p, 1, 1, False, x, grad_input=to),
    "gelu": lambda g, x, p, to: _aten.gelu_backward.grad_input(g, x, grad_input=to),
    "gelu_tanh": lambda g, x, p, to: _aten.gelu_backward.grad_input(
        g, x, approximate="tanh", grad_input=to
    ),
    "silu": lambda g, x, p, to: _aten.silu_backward.grad_input(g, x, grad_input=to),
    "softplus": lambda g, x, p, to: _aten.softplus_backward.grad_input(g, x, *p, grad_input=to),
}


class Layer(NamedTuple):
    """A level of a chain.

    Args:
        size: n, its neurons.
        matrix: The (n, S) shape of its weights.
        by_source: The (S, n) shape of their transpose.
        first_edge: Id of its first edge.
        first_bias: Place of its first bias.
        change: Its activation in the preactivations' memory; None for identity and for those whose
            slopes are functions of the preactivation.
        activation: Its activation.
        is_identity: Whether that does nothing.
    """

    size: int
    matrix: tuple[int, int]
    by_source: tuple[int, int]
    first_edge: int
    first_bias: int
    change: Callable[[Tensor], Tensor] | None
    activation: Activation
    is_identity: bool


Chain = tuple[Layer, ...]


def chain_of(plan: ExecutionPlan) -> Chain | None:
    """The plan as a chain, made at first use; None where it is not one."""
    if "chain" not in plan.derived:
        tables = plan.tables
        in_order = tables.input_columns is None and tables.output_order is None
        ends = tables.output_rows == ((plan.num_levels - 1, None),)
        is_chain = in_order and ends and bool(plan.levels) and all(map(_is_layer, plan.levels))
        plan.derived["chain"] = tuple(map(_layer, plan.levels)) if is_chain else None
    return plan.derived["chain"]


def _is_layer(level: Level) -> bool:
    function = level.activations[0][0].function
    return (
        level.pool_levels == (level.index - 1,)
        and level.pool_rows == (None,)
        and level.block_columns is None
        and isinstance(level.edges, slice)
        and isinstance(level.bias, slice)
        and level.biased is None
        and len(level.activations) == 1
        and (function == "identity" or function in SLOPES)
    )


def _layer(level: Level) -> Layer:
    assert isinstance(level.edges, slice)
    assert isinstance(level.bias, slice)
    activation = level.activations[0][0]
    return Layer(
        size=level.size,
        matrix=(level.size, level.pool_size),
        by_source=(level.pool_size, level.size),
        first_edge=level.edges.start,
        first_bias=level.bias.start,
        change=IN_PLACE.get(activation.function),
        activation=activation,
        is_identity=activation.function == "identity",
    )


def run_chain(chain: Chain, weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    """(B, n_out) of plain tensors: weight (E,), bias (K,) and inputs (B, n_in)."""
    if needs_gradient(weight, bias, inputs, None):
        return _Run.apply(chain, weight, bias, inputs)
    return _walk(chain, weight, bias, inputs, None)


def _walk(
    chain: Chain, weight: Tensor, bias: Tensor, value: Tensor, kept: list[Tensor] | None
) -> Tensor:
    """The outputs; `kept` takes what the gradient needs, in order.

    That is what every layer reads, its preactivations where its slope needs them, and the outputs
    where theirs does.
    """
    weight, bias = weight.contiguous(), bias.contiguous()
    edge, slot = weight.storage_offset(), bias.storage_offset()
    for size, _, by_source, first_edge, first_bias, change, activation, is_identity in chain:
        if kept is not None:
            kept.append(value)
        # What nn.Linear does, on views that are each made in one operation.
        value = torch.addmm(
            bias.as_strided((size,), (1,), slot + first_bias),
            value,
            weight.as_strided(by_source, (1, by_source[0]), edge + first_edge),
        )
        if change is not None:
            change(value)
        elif not is_identity:
            if kept is not None:
                kept.append(value)
            value = apply(activation.function, activation.parameters, value)
    if kept is not None and chain[-1].change is not None:
        kept.append(value)
    return value


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: Chain, weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
        kept: list[Tensor] = []
        outputs = _walk(chain, weight, bias, inputs, kept)
        needs = ctx.needs_input_grad
        ctx.chain, ctx.num_edges, ctx.num_biases = chain, weight.shape[0], bias.shape[0]
        ctx.save_for_backward(weight if needs[3] or len(chain) > 1 else None, *kept)
        # Not saved: a bias that changes before the backward pass does no harm.
        ctx.bias = bias if needs[2] else None
        ctx.sources = weight if needs[1] else None, inputs if needs[3] else None
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        refuse_batched_gradients("fused_cpu", gradients)
        is_differentiated = torch.is_grad_enabled()
        if not is_differentiated and not torch.is_autocast_enabled("cpu"):
            return None, *_gradients(ctx, *gradients)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            computed = _gradients(ctx, *gradients)
        if is_differentiated:
            tensors = (*ctx.sources, ctx.bias, *gradients)
            depends_on = tuple(tensor for tensor in tensors if tensor is not None)
            computed = refuse_second_derivative("fused_cpu", computed, depends_on)
        return None, *computed


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by weight, bias and inputs; None where not needed."""
    _, needs_weight, needs_bias, needs_inputs = ctx.needs_input_grad
    weight, *kept = ctx.saved_tensors
    dtype, edge = gradient.dtype, 0
    if weight is not None:
        weight = weight.contiguous()
        edge = weight.storage_offset()
    by_weight = empty(ctx.num_edges, dtype) if needs_weight else None
    by_bias = torch.empty(ctx.num_biases, dtype=dtype, device=CPU) if needs_bias else None
    last, place = ctx.chain[-1], 0 if by_weight is None else by_weight.storage_offset()
    value = kept.pop() if last.change is not None else None
    # One sample's gradients by the biases are those by its preactivations.
    slopes = by_bias if gradient.shape[0] == 1 else None
    for layer in reversed(ctx.chain):
        size, matrix, _, first_edge, first_bias, change, activation, is_identity = layer
        to = gradient
        if slopes is not None:
            to = slopes.as_strided((1, size), (size, 1), first_bias)
        elif layer is last and not is_identity:
            # The gradient that arrives is somebody else's memory.
            to = torch.empty_like(gradient)
        if not is_identity:
            point: Any = kept.pop() if change is None else value
            gradient = SLOPES[activation.function](gradient, point, activation.parameters, to)
        elif slopes is not None:
            gradient = to.copy_(gradient)
        value = kept.pop()
        if by_weight is not None:
            to = by_weight.as_strided(matrix, (matrix[1], 1), place + first_edge)
            torch.mm(gradient.t(), value, out=to)
        if by_bias is not None and slopes is None:
            torch.sum(gradient, 0, out=by_bias.as_strided((size,), (1,), first_bias))
        if kept or needs_inputs:
            assert weight is not None
            own = weight.as_strided(matrix, (matrix[1], 1), edge + first_edge)
            gradient = gradient.mm(own)
    return by_weight, by_bias, gradient if needs_inputs else None
