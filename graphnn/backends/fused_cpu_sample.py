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
from graphnn.backends.base import Keep, States
from graphnn.backends.buffers import CPU, DTYPES, empty, numbers
from graphnn.backends.fused_cpu_chain import Chain
from graphnn.backends.refusals import (
    check_size,
    refuse_batched_gradients,
    refuse_second_derivative,
    refuse_transforms,
)
from graphnn.backends.transforms import needs_gradient
from graphnn.plan import ExecutionPlan

# Edges up to which torch's threads, awake as they are, gain nothing over one.
_EDGES_FOR_ONE = 150_000


@dataclass(frozen=True, eq=False)
class _Tables:
    """A chain as the kernels read it, for one dtype.

    Args:
        layers: (L, 7), see `fused_cpu_sample_kernels`; values overwrite where they may.
        all_layers: The same, for a state of all preactivations and, behind them, all values.
        parameter: (L, 2) activation parameters.
        num_edges: E.
        num_biases: K.
        state_size: Numbers in a state of `layers`.
        order: Neuron ids, the inputs' first, then layer by layer.
        dtype: The numbers' type.
        no_inputs: (0, n_in), where no gradient by inputs is wanted.
        no_outputs: (0, n_out), where no gradient by outputs arrives.
        nothing: (0,), for weights that are not read and gradients that do not arrive.
    """

    layers: np.ndarray
    all_layers: np.ndarray
    parameter: np.ndarray
    num_edges: int
    num_biases: int
    state_size: int
    order: np.ndarray
    dtype: Any
    no_inputs: np.ndarray
    no_outputs: np.ndarray
    nothing: np.ndarray


def is_for(plan: ExecutionPlan, batch: int) -> bool:
    """Whether this is the way for so many samples, with the threads that torch has now."""
    return batch == 1 and (plan.num_edges <= _EDGES_FOR_ONE or torch.get_num_threads() == 1)


def run_sample(
    plan: ExecutionPlan, chain: Chain, weight: Tensor, bias: Tensor, inputs: Tensor, keep: Keep
) -> Tensor | States:
    """Runs a chain of plain tensors; as `Backend.run`, with inputs (1, n_in)."""
    key = ("sample", weight.dtype)
    tables = plan.derived.get(key)
    if tables is None:
        tables = plan.derived[key] = _tables(plan, chain, weight.dtype)
    if needs_gradient(weight, bias, inputs, None):
        return _Run.apply(tables, keep, weight, bias, inputs)
    return _forward(tables, keep, weight, bias, inputs)[0]


def _tables(plan: ExecutionPlan, chain: Chain, dtype: torch.dtype) -> _Tables:
    from graphnn.backends.elementwise import CODES, slope_needs_preactivation

    kind = DTYPES[dtype]
    parameter = np.zeros((len(chain), 2), kind)
    count = sum(layer.size for layer in chain)
    layers, all_layers, size, place = [], [], 0, 0
    for row, layer in enumerate(chain):
        own = layer.activation
        parameter[row, : len(own.parameters)] = own.parameters
        first = (*layer.matrix, layer.first_edge, layer.first_bias)
        all_layers.append((*first, place, count + place, CODES[own.function]))
        place += layer.size
        pre = size
        if slope_needs_preactivation(own.function, own.parameters):
            size += layer.size
        layers.append((*first, pre, size, CODES[own.function]))
        size += layer.size
    tables = _Tables(
        layers=np.array(layers, np.int64),
        all_layers=np.array(all_layers, np.int64),
        parameter=parameter,
        num_edges=plan.num_edges,
        num_biases=count,
        state_size=size,
        order=plan.neuron_order.numpy(),
        dtype=kind,
        no_inputs=np.empty((0, chain[0].matrix[1]), kind),
        no_outputs=np.empty((0, chain[-1].size), kind),
        nothing=np.empty(0, kind),
    )
    compiling.announce(("sample", dtype), lambda: _compile(tables))
    return tables


def _compile(tables: _Tables) -> None:
    """Compiles what is not yet compiled, by calls without layers."""
    kernels, none, parameter = compiling.sample_kernels(), tables.nothing, tables.parameter
    no_layers, row = tables.layers[:0], np.empty((1, 0), tables.dtype)
    kernels.forward_sample(row, none, none, no_layers, parameter, none, row)
    kernels.backward_sample(row, none, none, none, no_layers, parameter, none, none, row)
    kernels.write_by_weight(row, no_layers, none, none, none)


def _forward(
    tables: _Tables, keep: Keep, weight: Tensor, bias: Tensor, inputs: Tensor
) -> tuple[Tensor | States, Tensor]:
    """What `run_sample` returns, and the state."""
    x, dtype = numbers(inputs), weight.dtype
    outputs = torch.empty(1, tables.no_outputs.shape[1], dtype=dtype, device=CPU)
    above = tables.order.size - x.size
    if keep == "outputs":
        layers, size = tables.layers, tables.state_size
    else:
        layers, size = tables.all_layers, 2 * above
    kept = torch.empty(size, dtype=dtype, device=CPU)
    state = kept.numpy()
    compiling.sample_kernels().forward_sample(
        x, numbers(weight), numbers(bias), layers, tables.parameter, state, outputs.numpy()
    )
    if keep == "outputs":
        return outputs, kept
    found = []
    for part in (state[above:], state[:above]):
        found.append(torch.empty(1, tables.order.size, dtype=dtype, device=CPU))
        found[-1].numpy()[0, tables.order] = np.concatenate((x[0], part))
    return (found[0], found[1]), kept


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tables: _Tables, keep: Keep, weight: Tensor, bias: Tensor, inputs: Tensor
    ) -> Any:
        found, state = _forward(tables, keep, weight, bias, inputs)
        ctx.tables, ctx.keep = tables, keep
        _, _, needs_weight, needs_bias, needs_inputs = ctx.needs_input_grad
        ctx.save_for_backward(
            weight if needs_inputs or len(tables.layers) > 1 else None,
            inputs if needs_weight else None,
            state,
        )
        ctx.set_materialize_grads(False)
        # Not saved: a bias that changes before the backward pass does no harm.
        ctx.bias = bias if needs_bias else None
        ctx.sources = weight if needs_weight else None, inputs if needs_inputs else None
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        refuse_batched_gradients("fused_cpu", gradients)
        refuse_transforms("fused_cpu", gradients)
        computed = _gradients(ctx, gradients)
        if torch.is_grad_enabled():
            tensors = (*ctx.sources, ctx.bias, *gradients)
            depends_on = tuple(tensor for tensor in tensors if tensor is not None)
            computed = refuse_second_derivative("fused_cpu", computed, depends_on)
        return None, None, *computed


def _gradients(ctx: Any, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The gradients by weight, bias and inputs; None where not needed."""
    kernels, tables = compiling.sample_kernels(), ctx.tables
    _, _, needs_weight, needs_bias, needs_inputs = ctx.needs_input_grad
    weight, inputs, kept = ctx.saved_tensors
    check_size(weight, tables.num_edges)
    state = kept.numpy()
    by_bias, by_input = np.empty(tables.num_biases, tables.dtype), tables.no_inputs
    if needs_inputs:
        by_input = np.empty((1, by_input.shape[1]), tables.dtype)
    layers, by_output, by_state = tables.layers, tables.no_outputs, (tables.nothing,) * 2
    if ctx.keep == "all":
        layers = tables.all_layers
        by_state = [tables.nothing if g is None else numbers(g)[0, tables.order] for g in gradients]
    elif gradients[0] is not None:
        by_output = numbers(gradients[0])
    kernels.backward_sample(
        by_output, *by_state, tables.nothing if weight is None else numbers(weight), layers,
        tables.parameter, state, by_bias, by_input,
    )  # fmt: skip
    by_weight = None
    if needs_weight:
        by_weight = empty(tables.num_edges, inputs.dtype)
        kernels.write_by_weight(numbers(inputs), layers, state, by_bias, by_weight.numpy())
    return (
        by_weight,
        torch.from_numpy(by_bias) if needs_bias else None,
        torch.from_numpy(by_input) if needs_inputs else None,
    )
