"""Plans of complete blocks only: torch's matrix products, with a gradient of their own.

Autograd would join the levels' weight gradients in one more (E,) tensor. Here every product writes
to its place in the result. States are batch-major, (B, n), as nn.Linear has them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from graphnn.activation import apply
from graphnn.backends import eager
from graphnn.backends.base import Keep, States
from graphnn.backends.buffers import empty
from graphnn.backends.fused_cpu_chain import IN_PLACE, SLOPES
from graphnn.backends.refusals import refuse_batched_gradients, refuse_second_derivative
from graphnn.backends.transforms import needs_gradient
from graphnn.levels import Level
from graphnn.plan import ExecutionPlan

_Result = TypeVar("_Result")
# Runs what it is given, and sees to what goes wrong there.
Guard = Callable[[Callable[[], Any]], Any]


def _unguarded(compute: Callable[[], _Result]) -> _Result:
    return compute()


def run(
    plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None,
    keep: Keep, name: str, guard: Guard = _unguarded,
) -> Tensor | States:  # fmt: skip
    """Runs a plan all of whose levels are blocks, of plain tensors; see `Backend.run`.

    Args:
        plan: As there, and so on to `keep`.
        weight: As there.
        bias: As there.
        inputs: As there.
        offset: As there.
        keep: As there.
        name: The backend's, for errors.
        guard: Runs the backward pass; kept until then, so it must hold no tensor of the call.
    """
    if needs_gradient(weight, bias, inputs, offset):
        return _Run.apply(plan, keep, name, guard, weight, bias, inputs, offset)
    with torch.no_grad():
        forward = _Forward(plan, weight, bias, inputs, offset)
        return forward.outputs() if keep == "outputs" else forward.everything()


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: ExecutionPlan, keep: Keep, name: str, guard: Guard, weight: Tensor,
        bias: Tensor, inputs: Tensor, offset: Tensor | None,
    ) -> Any:  # fmt: skip
        forward = _Forward(plan, weight, bias, inputs, offset)
        ctx.plan, ctx.keep, ctx.name, ctx.guard = plan, keep, name, guard
        ctx.batch, ctx.num_biases = inputs.shape[0], bias.shape[0]
        ctx.dtype, ctx.device = weight.dtype, weight.device
        ctx.needs = ctx.needs_input_grad[4:]
        ctx.by_first = ctx.needs[2] or ctx.needs[3]
        result = forward.trained_outputs() if keep == "outputs" else forward.everything()
        used = ctx.by_first or plan.num_levels > 2
        ctx.save_for_backward(weight if used else None, *forward.needed())
        ctx.set_materialize_grads(False)
        # Not saved: a bias that changes before the backward pass does no harm.
        ctx.differentiated = [
            tensor
            for tensor in (weight, bias, inputs, offset)
            if tensor is not None and tensor.requires_grad
        ]
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        refuse_batched_gradients(ctx.name, gradients)
        kind = ctx.device.type
        autocast = torch.is_autocast_enabled(kind)
        with torch.no_grad(), torch.autocast(kind, enabled=False) if autocast else nullcontext():
            computed = ctx.guard(lambda: _Backward(ctx, gradients).run())
        if torch.is_grad_enabled():
            arrived = [gradient for gradient in gradients if gradient is not None]
            depends_on = (*ctx.differentiated, *arrived)
            computed = refuse_second_derivative(ctx.name, computed, depends_on)
        return None, None, None, None, *computed


class _Forward:
    """The walk up the levels."""

    def __init__(
        self, plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None,
    ) -> None:  # fmt: skip
        self.plan, self.weight, self.bias, self.inputs = plan, weight, bias, inputs
        self.shifts = None if offset is None else eager.by_level(plan, offset)
        columns = plan.tables.input_columns
        first = inputs if columns is None else inputs.index_select(1, columns)
        if self.shifts is not None:
            first = first + self.shifts[0].t()
        # An activation in place leaves its value in `pres` too.
        self.pres: list[Tensor | None] = [first]
        self.values: list[Tensor | None] = [first]

    def outputs(self) -> Tensor:
        """(B, n_out), letting go of every value after its last reader."""
        tables = self.plan.tables
        kept = {index for index, _ in tables.output_rows}
        for level in tables.levels:
            self.values.append(_activate_in_place(level, self._preactivation(level)))
            for source in level.pool_levels:
                if tables.last_reader[source] == level.index and source not in kept:
                    self.values[source] = None
        return self._joined()

    def trained_outputs(self) -> Tensor:
        """(B, n_out), keeping what the gradient needs."""
        for level in self.plan.levels:
            self.pres.append(pre := self._preactivation(level))
            self.values.append(_activate_in_place(level, pre))
        return self._joined()

    def everything(self) -> States:
        """(B, N) values and preactivations, in neuron order."""
        for level in self.plan.levels:
            self.pres.append(pre := self._preactivation(level))
            self.values.append(_activate(level, pre))
        return _neuron_order(self.plan, self.values), _neuron_order(self.plan, self.pres)

    def needed(self) -> list[Tensor | None]:
        """Every level's value, then every level's preactivation; None for what has no use."""
        last_reader = self.plan.tables.last_reader
        values = [v if last_reader[i] > i else None for i, v in enumerate(self.values)]
        points: list[Tensor | None] = [None]
        for level, pre, value in zip(self.plan.levels, self.pres[1:], self.values[1:], strict=True):
            function = _only_function(level)
            points.append(value if function in IN_PLACE else pre)
            if function == "identity":
                points[-1] = None
        return values + points

    def _preactivation(self, level: Level) -> Tensor:
        own_bias = eager.level_bias(level, self.bias[level.bias])
        pre = F.linear(_operand(level, self.values), _matrix(level, self.weight), own_bias)
        return pre if self.shifts is None else pre.add_(self.shifts[level.index].t())

    def _joined(self) -> Tensor:
        tables = self.plan.tables
        pieces = []
        for index, rows in tables.output_rows:
            value = self.values[index]
            assert value is not None
            pieces.append(value if rows is None else value.index_select(1, rows))
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        if tables.output_order is not None:
            return joined.index_select(1, tables.output_order)
        # Never the caller's own memory.
        return joined.clone() if joined is self.inputs else joined


class _Backward:
    """The walk down again."""

    def __init__(self, ctx: Any, gradients: tuple[Tensor | None, ...]) -> None:
        self.plan: ExecutionPlan = ctx.plan
        self.dtype, self.device, self.batch = ctx.dtype, ctx.device, ctx.batch
        self.by_first, self.needs = ctx.by_first, ctx.needs
        self.weight, *saved = ctx.saved_tensors
        count = self.plan.num_levels
        self.values, self.points = saved[:count], saved[count:]
        self.by_value: list[Tensor | None] = [None] * count
        self.by_pre: list[Tensor | None] = [None] * count
        # The levels whose `by_value` is nobody else's memory.
        self.own: set[int] = set()
        self.by_weight = self._empty(self.plan.num_edges) if self.needs[0] else None
        self.by_bias = self._empty(ctx.num_biases) if self.needs[1] else None
        if ctx.keep == "outputs":
            self._receive_outputs(gradients[0])
            return
        for received, gradient in zip((self.by_value, self.by_pre), gradients, strict=True):
            if gradient is not None:
                received[:] = [piece.t() for piece in eager.by_level(self.plan, gradient)]

    def _receive_outputs(self, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        tables = self.plan.tables
        if tables.output_order is not None:
            gradient = gradient.index_select(1, tables.output_order.argsort())
        sizes = [self._size(index, rows) for index, rows in tables.output_rows]
        pieces = [gradient] if len(sizes) == 1 else gradient.split(sizes, 1)
        for (index, rows), piece in zip(tables.output_rows, pieces, strict=True):
            if rows is None:
                self._add(index, None, piece)
            else:
                self._add(index, None, self._by_neuron(index, rows, piece))
                self.own.add(index)

    def _by_neuron(self, index: int, rows: Tensor, piece: Tensor) -> Tensor:
        """(B, n) of a level, from the gradients by its outputs, which may repeat."""
        whole = piece.new_zeros(self.batch, self._size(index, None))
        if piece.device.type == "cpu":
            return whole.index_add_(1, rows, piece)
        # On a GPU index_add_ adds with atomics, in any order.
        return torch.ops.aten.index_put_(whole, [None, rows], piece, True)

    def run(self) -> tuple[Tensor | None, ...]:
        """The gradients by weight, bias, inputs and offset; None where not needed."""
        for level in reversed(self.plan.levels):
            gradient = self._by_preactivation(level)
            self._take_parameters(level, gradient)
            if gradient is not None and (self.by_first or level.pool_levels != (0,)):
                self._spread(level, gradient)
            if self.needs[3]:
                self.by_pre[level.index] = gradient
        by_inputs = by_offset = None
        if self.by_first:
            self.by_pre[0] = first = self._by_first()
            columns = self.plan.tables.input_columns
            by_inputs = first if columns is None else first.index_select(1, columns.argsort())
        if self.needs[3]:
            by_offset = _neuron_order(
                self.plan, [self._or_zeros(i) for i in range(len(self.by_pre))]
            )
        return self.by_weight, self.by_bias, by_inputs if self.needs[2] else None, by_offset

    def _empty(self, count: int) -> Tensor:
        if self.device.type == "cpu":
            return empty(count, self.dtype)
        return torch.empty(count, dtype=self.dtype, device=self.device)

    def _size(self, index: int, rows: Tensor | None) -> int:
        if rows is not None:
            return rows.numel()
        tables = self.plan.tables
        return tables.levels[index - 1].size if index else tables.input_neurons.numel()

    def _or_zeros(self, index: int) -> Tensor:
        gradient = self.by_pre[index]
        if gradient is not None:
            return gradient
        size = self.batch, self._size(index, None)
        return torch.zeros(size, dtype=self.dtype, device=self.device)

    def _by_first(self) -> Tensor:
        by_value, by_pre = self.by_value[0], self.by_pre[0]
        if by_value is None or by_pre is None:
            self.by_pre[0] = by_pre if by_value is None else by_value
            first = self._or_zeros(0)
            return first if 0 in self.own else first.clone()
        return by_value + by_pre

    def _by_preactivation(self, level: Level) -> Tensor | None:
        index = level.index
        by_value, by_pre = self.by_value[index], self.by_pre[index]
        self.by_value[index] = None
        if by_value is None:
            return by_pre
        function, point = _only_function(level), self.points[index]
        if function == "identity":
            gradient = by_value
        elif function in SLOPES:
            to = by_value if index in self.own else torch.empty_like(by_value)
            gradient = SLOPES[function](by_value, point, level.activations[0][0].parameters, to)
        else:
            gradient = _slope_by_autograd(level, point, by_value)
        return gradient if by_pre is None else gradient + by_pre

    def _take_parameters(self, level: Level, gradient: Tensor | None) -> None:
        """Writes the gradients by a level's weights and biases."""
        if self.by_weight is not None:
            if gradient is None:
                self.by_weight[level.edges] = 0
            elif isinstance(level.edges, slice):
                to = _matrix(level, self.by_weight)
                torch.mm(gradient.t(), _operand(level, self.values), out=to)
            else:
                product = gradient.t().mm(_operand(level, self.values))
                self.by_weight[level.edges] = product.view(-1)
        if self.by_bias is not None:
            if gradient is None:
                self.by_bias[level.bias] = 0
                return
            biased = gradient if level.biased is None else gradient.index_select(1, level.biased)
            if isinstance(level.bias, slice):
                torch.sum(biased, 0, out=self.by_bias[level.bias])
            else:
                self.by_bias[level.bias] = biased.sum(0)

    def _spread(self, level: Level, gradient: Tensor) -> None:
        """Adds to the gradients of the values that a level reads."""
        by_pool = gradient.mm(_matrix(level, self.weight))
        if level.block_columns is not None:
            by_pool = by_pool.index_select(1, level.block_columns.argsort())
        places = list(zip(level.pool_levels, level.pool_rows, strict=True))
        sizes = [self._size(*place) for place in places]
        pieces = [by_pool] if len(sizes) == 1 else by_pool.split(sizes, 1)
        for (source, rows), piece in zip(places, pieces, strict=True):
            self._add(source, rows, piece)
            self.own.add(source)

    def _add(self, index: int, rows: Tensor | None, piece: Tensor) -> None:
        """Adds to the gradient by a level's values; a first whole piece is taken as it is."""
        before = self.by_value[index]
        if before is None and rows is None:
            self.by_value[index] = piece
            return
        if before is None:
            before = piece.new_zeros(self.batch, self._size(index, None))
        elif index not in self.own:
            before = before.clone()
        self.own.add(index)
        # The rows are distinct.
        self.by_value[index] = (
            before.add_(piece) if rows is None else before.index_add_(1, rows, piece)
        )


def _operand(level: Level, values: list[Tensor | None]) -> Tensor:
    """The (B, S) values that a level reads, in the order of its weight columns."""
    pieces = []
    for source, rows in zip(level.pool_levels, level.pool_rows, strict=True):
        value = values[source]
        assert value is not None
        pieces.append(value if rows is None else value.index_select(1, rows))
    pool = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
    return pool if level.block_columns is None else pool.index_select(1, level.block_columns)


def _matrix(level: Level, weight: Tensor) -> Tensor:
    """A level's (n, S) weights: a view where its edges follow one another."""
    return weight[level.edges].view(level.size, level.pool_size)


def _only_function(level: Level) -> str:
    """The name of a level's activation function, or "" where there are several."""
    return level.activations[0][0].function if len(level.activations) == 1 else ""


def _activate(level: Level, pre: Tensor) -> Tensor:
    """A level's (B, n) values from its preactivations, which stay as they are."""
    if level.activation_order is not None:
        return eager.activate(level, pre.t()).t()
    activation, _ = level.activations[0]
    return apply(activation.function, activation.parameters, pre)


def _activate_in_place(level: Level, pre: Tensor) -> Tensor:
    """The same in the preactivations' memory, where the gradient does not need them."""
    change = IN_PLACE.get(_only_function(level))
    return _activate(level, pre) if change is None else change(pre)


def _slope_by_autograd(level: Level, pre: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by the preactivations, of activations that have no entry in `SLOPES`."""
    with torch.enable_grad():
        point = pre.detach().requires_grad_()
        value = _activate(level, point)
    return torch.autograd.grad(value, point, gradient)[0]


def _neuron_order(plan: ExecutionPlan, states: list[Tensor | None]) -> Tensor:
    """(B, N) in neuron order, from every level's (B, n)."""
    return eager.neuron_order(plan, [state.t() for state in states if state is not None])
