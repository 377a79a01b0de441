"""One sample through a chain (`fused_cpu_chain`): a compiled call in each direction, on one thread.

torch takes as long between two such products as for a small one, because the weights that went by
left the cache empty of everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.backends import compiling
from graphnn.backends.buffers import CPU, empty
from graphnn.backends.fused_cpu_chain import Chain
from graphnn.backends.second_order import refuse_batched_gradients, refuse_second_derivative
from graphnn.backends.transforms import needs_gradient
from graphnn.plan import ExecutionPlan

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# Edges up to which torch's threads, awake as they are, gain nothing over one.
_EDGES_FOR_ONE = 150_000


@dataclass(frozen=True, eq=False)
class _Tables:
    """A chain as the kernels read it, for one dtype.

    Args:
        layers: (L, 7), see `fused_cpu_sample_kernels`.
        parameter: (L, 2) activation parameters.
        num_outputs: n_out.
        state_size: Numbers in a state.
        dtype: The numbers' type.
        no_inputs: (0, n_in), where no gradient by inputs is wanted.
        no_weights: (0,), where the weights are not read.
    """

    layers: np.ndarray
    parameter: np.ndarray
    num_outputs: int
    state_size: int
    dtype: Any
    no_inputs: np.ndarray
    no_weights: np.ndarray


def is_for(plan: ExecutionPlan, batch: int) -> bool:
    """Whether this is the way for so many samples, with the threads that torch has now."""
    return batch == 1 and (plan.num_edges <= _EDGES_FOR_ONE or torch.get_num_threads() == 1)


def run_sample(
    plan: ExecutionPlan, chain: Chain, weight: Tensor, bias: Tensor, inputs: Tensor
) -> Tensor:
    """(1, n_out) of plain tensors: weight (E,), bias (K,) and inputs (1, n_in)."""
    key = ("sample", weight.dtype)
    tables = plan.derived.get(key)
    if tables is None:
        tables = plan.derived[key] = _tables(chain, weight.dtype)
    if needs_gradient(weight, bias, inputs, None):
        return _Run.apply(tables, weight, bias, inputs)
    return _forward(tables, weight, bias, inputs)[0]


def _tables(chain: Chain, dtype: torch.dtype) -> _Tables:
    from graphnn.backends.elementwise import CODES, slope_needs_preactivation

    rows, size = [], 0
    parameter = np.zeros((len(chain), 2), _DTYPES[dtype])
    for row, layer in enumerate(chain):
        own = layer.activation
        pre = value = size
        if slope_needs_preactivation(own.function, own.parameters):
            value += layer.size
        size = value + layer.size
        code = CODES[own.function]
        rows.append((*layer.matrix, layer.first_edge, layer.first_bias, pre, value, code))
        parameter[row, : len(own.parameters)] = own.parameters
    tables = _Tables(
        np.array(rows, np.int64), parameter, chain[-1].size, size, _DTYPES[dtype],
        np.empty((0, chain[0].matrix[1]), _DTYPES[dtype]), np.empty(0, _DTYPES[dtype]),
    )  # fmt: skip
    compiling.announce(("sample", dtype), lambda: _compile(tables))
    return tables


def _compile(tables: _Tables) -> None:
    """Compiles what is not yet compiled, by calls without layers."""
    kernels, none = compiling.sample_kernels(), tables.no_weights
    no_layers, row = tables.layers[:0], np.empty((1, 0), tables.dtype)
    kernels.forward_sample(row, none, none, no_layers, tables.parameter, none, row)
    kernels.backward_sample(row, none, no_layers, tables.parameter, none, none, row)
    kernels.write_by_weight(row, no_layers, none, none, none)


def _numbers(tensor: Tensor) -> np.ndarray:
    # Forced, because a parameter has a gradient, and because a conjugate's imaginary part is stored
    # with the opposite sign.
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy(force=True)


def _forward(
    tables: _Tables, weight: Tensor, bias: Tensor, inputs: Tensor
) -> tuple[Tensor, np.ndarray]:
    """(outputs, state)."""
    state = np.empty(tables.state_size, tables.dtype)
    outputs = torch.empty(1, tables.num_outputs, dtype=weight.dtype, device=CPU)
    compiling.sample_kernels().forward_sample(
        _numbers(inputs), _numbers(weight), _numbers(bias), tables.layers, tables.parameter, state,
        outputs.numpy(),
    )  # fmt: skip
    return outputs, state


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tables: _Tables, weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
        outputs, ctx.state = _forward(tables, weight, bias, inputs)
        needs = ctx.needs_input_grad
        ctx.tables, ctx.num_biases = tables, bias.shape[0]
        ctx.save_for_backward(
            weight if needs[3] or len(tables.layers) > 1 else None, inputs if needs[1] else None
        )
        ctx.num_edges = weight.shape[0]
        # Not saved: a bias that changes before the backward pass does no harm.
        ctx.bias = bias if needs[2] else None
        ctx.sources = weight if needs[1] else None, inputs if needs[3] else None
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        refuse_batched_gradients("fused_cpu", gradients)
        computed = _gradients(ctx, *gradients)
        if torch.is_grad_enabled():
            tensors = (*ctx.sources, ctx.bias, *gradients)
            depends_on = tuple(tensor for tensor in tensors if tensor is not None)
            computed = refuse_second_derivative("fused_cpu", computed, depends_on)
        return None, *computed


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by weight, bias and inputs; None where not needed."""
    kernels, tables = compiling.sample_kernels(), ctx.tables
    _, needs_weight, needs_bias, needs_inputs = ctx.needs_input_grad
    weight, inputs = ctx.saved_tensors
    by_bias = np.empty(ctx.num_biases, tables.dtype)
    by_input = tables.no_inputs
    if needs_inputs:
        by_input = np.empty((1, tables.no_inputs.shape[1]), tables.dtype)
    kernels.backward_sample(
        _numbers(gradient), tables.no_weights if weight is None else _numbers(weight),
        tables.layers, tables.parameter, ctx.state, by_bias, by_input,
    )  # fmt: skip
    by_weight = None
    if needs_weight:
        by_weight = empty(ctx.num_edges, gradient.dtype)
        kernels.write_by_weight(
            _numbers(inputs), tables.layers, ctx.state, by_bias, by_weight.numpy()
        )
    return (
        by_weight,
        torch.from_numpy(by_bias) if needs_bias else None,
        torch.from_numpy(by_input) if needs_inputs else None,
    )
