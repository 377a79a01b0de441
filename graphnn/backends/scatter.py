"""Layered message passing with PyTorch Geometric's segment reduction, and its own gradient.

PyG reduces with torch-scatter where that is installed and with torch where not; both add the edges
of a target one after the other, so the results are the same bits.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from graphnn.activation import built_in
from graphnn.backends import eager
from graphnn.backends.base import Call, Keep, States, describe_level, is_transformed
from graphnn.backends.refusals import refuse_batched_gradients, refuse_second_derivative
from graphnn.levels import Level
from graphnn.plan import ExecutionPlan

# Messages (edges, samples) are made for so many samples at a time that they stay below this size.
_MESSAGE_ELEMENTS = 1 << 22


def _sample_chunks(num_edges: int, num_samples: int) -> list[slice]:
    step = max(1, _MESSAGE_ELEMENTS // max(1, num_edges))
    return [slice(i, min(i + step, num_samples)) for i in range(0, num_samples, step)]


def _segment_sum(messages: Tensor, ptr: Tensor) -> Tensor:
    from torch_geometric.utils import segment

    return segment(messages, ptr, reduce="sum")


def _aggregate(level: Level, pool: Tensor, weight: Tensor) -> Tensor:
    total = pool.new_zeros(level.size, pool.shape[1])
    if level.columns.numel() == 0:
        return total
    own = weight[:, None]
    for chunk in _sample_chunks(level.columns.numel(), pool.shape[1]):
        messages = pool[:, chunk].index_select(0, level.columns).mul_(own)
        total[:, chunk] = _segment_sum(messages, level.row_ptr)
    return total


def _edge_gradients(
    level: Level, pool: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """A level's gradients by its weights (E_l,) and its pool (S, B), from its preactivations'."""
    by_weight = weight.new_zeros(level.columns.numel())
    by_pool = torch.zeros_like(pool)
    if level.columns.numel() == 0:
        return by_weight, by_pool
    order, ptr = level.by_source
    own = weight[level.edges][:, None]
    for chunk in _sample_chunks(level.columns.numel(), pool.shape[1]):
        arriving = gradient[:, chunk].index_select(0, level.rows)
        by_weight += (pool[:, chunk].index_select(0, level.columns) * arriving).sum(1)
        by_pool[:, chunk] = _segment_sum(arriving.mul_(own).index_select(0, order), ptr)
    return by_weight, by_pool


def _block_gradients(
    level: Level, pool: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for a block, by matrix products."""
    matrix = weight[level.edges].view(level.size, level.pool_size)
    by_weight = gradient @ eager.block_operand(level, pool).t()
    by_operand = matrix.t() @ gradient
    if level.block_columns is None:
        return by_weight.reshape(-1), by_operand
    return by_weight.reshape(-1), torch.empty_like(by_operand).index_copy_(
        0, level.block_columns, by_operand
    )


def _activation_gradient(level: Level, pre: Tensor, gradient: Tensor) -> Tensor:
    if all(activation.function == "identity" for activation, _ in level.activations):
        return gradient
    with torch.enable_grad():
        point = pre.detach().requires_grad_()
        value = eager.activate(level, point)
    # A step function that was registered has no gradient to ask for.
    if not value.requires_grad:
        return torch.zeros_like(gradient)
    return torch.autograd.grad(value, point, gradient)[0]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: ExecutionPlan,
        keep: Keep,
        weight: Tensor,
        bias: Tensor,
        inputs: Tensor,
        offset: Tensor | None,
    ) -> Any:
        pres: list[Tensor] = []
        states: list[Tensor] = []
        eager.walk(
            plan, weight, bias, inputs, offset, _aggregate,
            lambda _, pre, state: (pres.append(pre), states.append(state)), forget=False,
        )  # fmt: skip
        ctx.plan, ctx.keep = plan, keep
        # Inputs are saved as they came: saving a view of them would hide them from autograd's
        # check for changes in place.
        ctx.save_for_backward(weight, bias, inputs, offset, *pres[1:], *states[1:])
        ctx.set_materialize_grads(True)
        if keep == "all":
            return eager.neuron_order(plan, states), eager.neuron_order(plan, pres)
        rows_of = plan.tables.output_rows
        pieces = [eager.output_piece(index, rows, states[index]) for index, rows in rows_of]
        outputs = eager.join_outputs(plan, pieces)
        # A view made in here could not be changed in place by the caller, nor without harm to
        # what is saved for the gradient.
        return outputs.clone() if outputs._is_view() else outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        refuse_batched_gradients("scatter", gradients)
        with torch.no_grad(), torch.autocast(gradients[0].device.type, enabled=False):
            computed = _Backward(ctx, gradients).run()
        if torch.is_grad_enabled():
            weight, bias, inputs, offset = ctx.saved_tensors[:4]
            tensors = (weight, bias, inputs, *gradients)
            depends_on = tensors if offset is None else (*tensors, offset)
            computed = refuse_second_derivative("scatter", computed, depends_on)
        return None, None, *computed


class _Backward:
    """The reverse walk over the levels."""

    def __init__(self, ctx: Any, gradients: tuple[Tensor, ...]) -> None:
        self.plan: ExecutionPlan = ctx.plan
        weight, bias, inputs, offset, *saved = ctx.saved_tensors
        half = len(saved) // 2
        self.weight, self.bias, self.needs = weight, bias, ctx.needs_input_grad[2:]
        first = eager.input_state(self.plan, inputs)
        if offset is not None:
            first = first + offset.index_select(1, self.plan.tables.input_neurons).t()
        self.pres = [first, *saved[:half]]
        self.states = [first, *saved[half:]]
        self.by_state = [torch.zeros_like(state) for state in self.states]
        self.by_pre: list[Tensor | None] = [None] * self.plan.num_levels
        if ctx.keep == "all":
            self._receive_all(*gradients)
        else:
            self._receive_outputs(gradients[0])

    def _receive_outputs(self, gradient: Tensor) -> None:
        gradient = gradient.t()
        order = self.plan.tables.output_order
        if order is not None:
            gradient = torch.empty_like(gradient).index_copy_(0, order, gradient)
        start = 0
        for index, rows in self.plan.tables.output_rows:
            state = self.by_state[index]
            size = state.shape[0] if rows is None else rows.numel()
            piece = gradient[start : start + size]
            start += size
            # An output may repeat, so its gradients are added.
            state.add_(piece) if rows is None else state.index_add_(0, rows, piece)

    def _receive_all(self, by_value: Tensor, by_pre: Tensor) -> None:
        order = self.plan.neuron_order
        starts = self.plan.level_ptr.tolist()
        for index in range(self.plan.num_levels):
            neurons = order[starts[index] : starts[index + 1]]
            self.by_state[index].add_(by_value.index_select(1, neurons).t())
            self.by_pre[index] = by_pre.index_select(1, neurons).t()

    def run(self) -> tuple[Tensor | None, ...]:
        plan = self.plan
        by_weight = torch.zeros_like(self.weight)
        by_bias = torch.zeros_like(self.bias)
        for level in reversed(plan.levels):
            gradient = _activation_gradient(
                level, self.pres[level.index], self.by_state[level.index]
            )
            own = self.by_pre[level.index]
            if own is not None:
                gradient = gradient + own
            self.by_pre[level.index] = gradient
            pool = eager.gather_pool(level, self.states)
            compute = _block_gradients if level.is_block else _edge_gradients
            by_weight[level.edges], by_pool = compute(level, pool, self.weight, gradient)
            biased = gradient if level.biased is None else gradient.index_select(0, level.biased)
            by_bias[level.bias] = biased.sum(1)
            self._spread(level, by_pool)
        own = self.by_pre[0]
        first = self.by_state[0] if own is None else self.by_state[0] + own
        self.by_pre[0] = first
        return (
            by_weight if self.needs[0] else None,
            by_bias if self.needs[1] else None,
            self._by_inputs(first) if self.needs[2] else None,
            eager.neuron_order(plan, self.by_pre) if self.needs[3] else None,  # pyright: ignore[reportArgumentType]
        )

    def _spread(self, level: Level, by_pool: Tensor) -> None:
        """Adds a pool's gradient to the levels that the pool was gathered from."""
        start = 0
        for source, rows in zip(level.pool_levels, level.pool_rows, strict=True):
            state = self.by_state[source]
            size = state.shape[0] if rows is None else rows.numel()
            piece = by_pool[start : start + size]
            start += size
            if rows is None:
                state += piece
            else:
                # The rows of a pool are distinct: no two additions meet.
                state[rows] += piece

    def _by_inputs(self, first: Tensor) -> Tensor:
        columns = self.plan.tables.input_columns
        if columns is None:
            return first.t()
        return torch.empty_like(first.t()).index_copy_(1, columns, first.t())


def _trained_activations(call: Call) -> list[str]:
    """A reason for each registered activation that holds parameters of its own."""
    registered = [a for a in call.plan.activation_table if a.function not in built_in()]
    if not registered or not torch.is_grad_enabled():
        return []
    point = torch.zeros(1, dtype=call.weight.dtype, device=call.weight.device)
    return [
        f"activation {activation.name!r} has parameters of its own, whose gradient it does not take"
        for activation in registered
        if activation(point).requires_grad
    ]


class Scatter:
    """Message passing as PyTorch Geometric does it, without autograd's price for every level."""

    name = "scatter"
    sums_in_float32 = False

    def unsupported(self, call: Call) -> list[str]:
        """What keeps this backend from running the call."""
        reasons = []
        if find_spec("torch_geometric") is None:
            reasons.append("torch_geometric is not installed (pip install graphnn[pyg])")
        if is_transformed(call):
            reasons.append(
                "inside torch.compile, torch.export, a torch.func transform, forward-mode "
                "differentiation or on the meta device, which see only torch's own operations"
            )
        return reasons + _trained_activations(call)

    def discouraged(self, call: Call) -> list[str]:
        """Nothing speaks against it."""
        return []

    def describe_level(self, plan: ExecutionPlan, level: int) -> str:
        """Blocks run as matrix products, other levels as message passing."""
        return describe_level(plan, level)

    def run(
        self,
        plan: ExecutionPlan,
        weight: Tensor,
        bias: Tensor,
        inputs: Tensor,
        offset: Tensor | None = None,
        keep: Keep = "outputs",
    ) -> Tensor | States:
        """Runs the plan; see `Backend.run`."""
        call = Call(plan, weight, bias, inputs, offset, keep)
        if torch.is_grad_enabled() and any(t.requires_grad for t in call.tensors):
            return _Run.apply(plan, keep, weight, bias, inputs, offset)
        return eager.run_levels(plan, weight, bias, inputs, offset, keep, _aggregate)
