"""What one level is made of, in torch operations: its sources, its bias, its activation.

States are neuron-major here: row r of a level's (n, B) tensor is the level's r-th neuron. A matrix
product leaves a transposed view of a contiguous (B, n) tensor, so consecutive blocks copy nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphnn.activation import ROUNDED_BY_PLACE, apply
from graphnn.backends.base import States
from graphnn.levels import Level
from graphnn.picking import pick
from graphnn.plan import ExecutionPlan

# (level, its pool (S, B), its weights (E_l,)) -> sums (n, B) of weight * value over each neuron's
# edges.
Aggregate = Callable[[Level, Tensor, Tensor], Tensor]


def input_state(plan: ExecutionPlan, inputs: Tensor) -> Tensor:
    """The (n_0, B) values of level 0, from (B, n_in) inputs."""
    columns = plan.tables.input_columns
    return (inputs if columns is None else inputs.index_select(1, columns)).t()


def gather_pool(level: Level, values: Sequence[Tensor | None]) -> Tensor:
    """The (S, B) values of a level's distinct sources, from the levels' (n, B) values."""
    pieces = []
    for source, rows in zip(level.pool_levels, level.pool_rows, strict=True):
        state = values[source]
        assert state is not None
        pieces.append(state if rows is None else state.index_select(0, rows))
    if not pieces:
        first = values[0]
        assert first is not None
        return first.new_zeros(0, first.shape[1])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def block_operand(level: Level, pool: Tensor) -> Tensor:
    """The pool (S, B) in the order of a block's weight columns."""
    return pool if level.block_columns is None else pool.index_select(0, level.block_columns)


def cut(
    numbers: Tensor, places: Sequence[slice | Tensor], sizes: tuple[int, ...] | None
) -> Sequence[Tensor]:
    """The parts of a parameter that belong to each level.

    Args:
        numbers: (E,) weights or (K,) biases.
        places: Each level's slice or ids.
        sizes: The slices' lengths if they follow one another and leave nothing out. One split has
            one gradient; every slice would have one of the parameter's full size.
    """
    return [numbers[place] for place in places] if sizes is None else numbers.split(sizes)


def level_bias(level: Level, own: Tensor) -> Tensor | None:
    """The (n,) biases of a level, 0 where a neuron has none; None where no neuron has one."""
    if level.biased is None:
        return own
    if own.numel() == 0:
        return None
    return own.new_zeros(level.size).index_copy(0, level.biased, own)


def preactivation(
    level: Level, pool: Tensor, weight: Tensor, bias: Tensor, aggregate: Aggregate
) -> Tensor:
    """The (n, B) preactivations of a level, from its pool (S, B), weights and biases."""
    own_bias = level_bias(level, bias)
    if level.is_block:
        matrix = weight.view(level.size, level.pool_size)
        return F.linear(block_operand(level, pool).t(), matrix, own_bias).t()
    total = aggregate(level, pool, weight)
    return total if own_bias is None else total + own_bias[:, None]


def activate(level: Level, state: Tensor) -> Tensor:
    """The (n, B) values of a level, from its preactivations."""
    parts = []
    for activation, rows in level.activations:
        own = state if rows is None else state.index_select(0, rows)
        if not level.is_block and activation.function in ROUNDED_BY_PLACE:
            # Strided, all elements go through the scalar code: a sample's bits must not depend on
            # which samples share its batch.
            own = torch.stack([own, own], dim=-1)[..., 0]
        parts.append(apply(activation.function, activation.parameters, own))
    if level.activation_order is None:
        return parts[0]
    return torch.cat(parts).index_select(0, level.activation_order)


def walk(
    plan: ExecutionPlan,
    weight: Tensor,
    bias: Tensor,
    inputs: Tensor,
    offset: Tensor | None,
    aggregate: Aggregate,
    visit: Callable[[int, Tensor, Tensor], Any],
    forget: bool,
) -> None:
    """Computes the levels in order.

    Args:
        plan: The schedule.
        weight: (E,).
        bias: (K,).
        inputs: (B, n_in).
        offset: (B, N) or None.
        aggregate: The sum over incoming edges of a level that is not a block.
        visit: Called with (level, preactivations, values), both (n, B), for every level.
        forget: Whether to let go of a level's values when no later level reads them.
    """
    tables = plan.tables
    last_reader = tables.last_reader
    values: list[Tensor | None] = [None] * plan.num_levels
    first = input_state(plan, inputs)
    shifts = None if offset is None else by_level(plan, offset)
    if shifts is not None:
        first = first + shifts[0]
    values[0] = first
    visit(0, first, first)
    levels = tables.levels
    weights = cut(weight, [level.edges for level in levels], tables.edge_sizes)
    biases = cut(bias, [level.bias for level in levels], tables.bias_sizes)
    for level, own, own_bias in zip(levels, weights, biases, strict=True):
        pre = preactivation(level, gather_pool(level, values), own, own_bias, aggregate)
        if shifts is not None:
            pre = pre + shifts[level.index]
        state = activate(level, pre)
        visit(level.index, pre, state)
        values[level.index] = state
        if forget:
            for source in level.pool_levels:
                if last_reader[source] == level.index:
                    values[source] = None


def run_levels(
    plan: ExecutionPlan,
    weight: Tensor,
    bias: Tensor,
    inputs: Tensor,
    offset: Tensor | None,
    keep: str,
    aggregate: Aggregate,
) -> Tensor | States:
    """Walks the levels and gives what `Backend.run` gives."""
    # No rows at all, but they tie an empty bias into the result: its gradient is empty, not None,
    # which DistributedDataParallel would wait for.
    tie = [bias.view(0, 1).expand(0, inputs.shape[0])] if bias.numel() == 0 else []
    if keep == "all":
        pres: list[Tensor] = []
        states: list[Tensor] = []
        walk(
            plan, weight, bias, inputs, offset, aggregate,
            lambda _, pre, state: (pres.append(pre), states.append(state)), forget=False,
        )  # fmt: skip
        return neuron_order(plan, states + tie), neuron_order(plan, pres + tie)
    rows_of = dict(plan.tables.output_rows)
    pieces: list[Tensor] = []

    def keep_outputs(index: int, _: Tensor, state: Tensor) -> None:
        if index in rows_of:
            pieces.append(output_piece(index, rows_of[index], state))

    walk(plan, weight, bias, inputs, offset, aggregate, keep_outputs, forget=True)
    return join_outputs(plan, pieces + tie)


def output_piece(level: int, rows: Tensor | None, state: Tensor) -> Tensor:
    """The output rows of a level's (n, B) values, never the caller's own memory."""
    if rows is not None:
        return pick(state, 0, rows)
    return state.clone() if level == 0 else state


def join_outputs(plan: ExecutionPlan, pieces: list[Tensor]) -> Tensor:
    """(B, n_out) from the output rows of each level that has some."""
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if plan.tables.output_order is not None:
        joined = pick(joined, 0, plan.tables.output_order)
    return joined.t().contiguous()


def by_level(plan: ExecutionPlan, states: Tensor) -> list[Tensor]:
    """Every level's (n, B), from (B, N) in neuron order."""
    tables = plan.tables
    # Cut at once: the gradient of a cut is one concatenation, that of a gather for each level
    # would be as many (B, N) to add up.
    ordered = states if tables.is_ordered else states.index_select(1, plan.neuron_order)
    sizes = [tables.input_neurons.numel(), *[level.size for level in tables.levels]]
    return [piece.t() for piece in ordered.split(sizes, 1)]


def neuron_order(plan: ExecutionPlan, states: list[Tensor]) -> Tensor:
    """(B, N) in neuron order, from every level's (n, B)."""
    joined = torch.cat([state.t() for state in states], dim=1)
    if plan.tables.is_ordered:
        return joined
    return joined.index_select(1, plan.neuron_position)
