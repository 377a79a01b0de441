"""One pass over a plan in compiled code, forward or backward: buffers, threads, and their shares.

A *state* holds the rows of all tiles of a batch (`fused_cpu_cut`), a tile after another: what the
backward pass needs of the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphnn.backends import buffers, compiling, fused_cpu_products, threads
from graphnn.backends.base import Keep
from graphnn.backends.fused_cpu_cut import (
    PRICE_ALONE,
    PRODUCTS_PER_STEP,
    Piece,
    cut_batch,
    num_lanes,
    widest_tile,
)
from graphnn.backends.fused_cpu_products import Tiles
from graphnn.backends.fused_cpu_schedule import Product, Schedule, Step, schedule_of
from graphnn.plan import ExecutionPlan

# (thread, its pieces, (first run, end run, first position, end position))
Kernel = Callable[[int, "tuple[Piece, ...]", tuple[int, int, int, int]], None]


@dataclass(frozen=True, eq=False)
class _Tables:
    """What passes over a plan share, for one dtype.

    Args:
        schedule: The plan as the kernels read it.
        widest: The width of its tiles.
        code: (R,) activation codes.
        parameter: (R, 2) activation parameters.
        no_states: (0, N), for offsets and gradients that are not there.
        no_outputs: (0, n_out).
        no_inputs: (0, n_in).
        nothing: (0, 0), for the shares of threads that there are not.
    """

    schedule: Schedule
    widest: int
    code: np.ndarray
    parameter: np.ndarray
    no_states: np.ndarray
    no_outputs: np.ndarray
    no_inputs: np.ndarray
    nothing: np.ndarray


def _tables_of(plan: ExecutionPlan, dtype: torch.dtype) -> _Tables:
    """The plan's tables, made at first use."""
    key = ("fused_cpu", dtype)
    tables = plan.derived.get(key)
    if tables is None:
        own = schedule_of(plan)
        shapes = (
            (0, own.num_neurons), (0, own.output_position.size), (0, own.input_column.size), (0, 0),
        )  # fmt: skip
        empty = [np.empty(shape, buffers.DTYPES[dtype]) for shape in shapes]
        code, parameter = own.run_tables(buffers.DTYPES[dtype])
        tables = _Tables(own, widest_tile(own, dtype.itemsize), code, parameter, *empty)
        plan.derived[key] = tables
    return tables


class Pass:
    """What a forward and a backward pass share: the same arguments give the same cut.

    It holds none of a call's tensors, whose life is autograd's business.

    Args:
        plan: The plan, on the CPU.
        dtype: Of all tensors: float32 or float64.
        batch: B, how many samples.
        most_threads: How many threads it may use.
    """

    def __init__(
        self, plan: ExecutionPlan, dtype: torch.dtype, batch: int, most_threads: int
    ) -> None:
        self.tables = tables = _tables_of(plan, dtype)
        self.schedule = own = tables.schedule
        self.dtype, self.numpy_dtype, self.batch = dtype, buffers.DTYPES[dtype], batch
        self.cut = cut_batch(tables.widest, batch, own.work, own.largest_level, most_threads)

    def forward(
        self, weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None, keep: Keep,
        keeps_state: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """(outputs, None, state), or with keep="all" (values, preactivations, state).

        Args:
            weight: (E,) in graph order.
            bias: (K,).
            inputs: (B, n_in).
            offset: (B, N) or None.
            keep: As in `Call`.
            keeps_state: Whether the state is for `backward`; None stands for one that is not.
        """
        own, cut, tables = self.schedule, self.cut, self.tables
        rows = own.training_rows if keeps_state else own.inference_rows
        fours = own.fours
        whole = keeps_state or cut.is_by_rows or own.products
        state = buffers.empty(num_lanes(self.batch) * rows.count, self.dtype) if whole else None
        x, moved, numbers = buffers.numbers(inputs), tables.no_states, buffers.numbers(weight)
        if offset is not None:
            moved = buffers.numbers(offset)
        of_edge = self._gathered(numbers, own.edge_ids)
        row_bias = np.zeros(own.num_neurons, self.numpy_dtype)
        row_bias[own.bias_position] = buffers.numbers(bias)
        first = second = None
        out = values = pres = tables.no_states
        if keep == "all":
            first, second = (self._empty(self.batch, own.num_neurons) for _ in range(2))
            values, pres, out = first.numpy(), second.numpy(), tables.no_outputs
        else:
            first = self._empty(self.batch, own.output_position.size)
            out = first.numpy()

        at_end = (own.num_runs, own.num_runs, own.num_neurons, own.num_neurons)

        def kernel(_: int, share: tuple[Piece, ...], part: tuple[int, int, int, int]) -> None:
            # Of threads that share rows, one that is done does not know the others' values.
            to = tables.no_outputs if cut.is_by_rows and part != at_end else out
            for piece, states in self._tiles(share, state, rows.count):
                compiling.kernels().forward_tiles(
                    compiling.tags()[piece.width], x, own.input_column, rows.output, own.run_ptr,
                    tables.code, tables.parameter, rows.value_shift, rows.pre_shift,
                    own.is_product, own.row_ptr, rows.source, of_edge, row_bias, fours.ptr,
                    fours.rows, moved, own.neuron_order, states, to, values, pres, piece.first,
                    piece.tiles, *part,
                )  # fmt: skip

        self._compile("forward", kernel)
        for step in self._steps():
            if isinstance(step, Product):
                fused_cpu_products.add_by_target(
                    step, self._gathered(numbers, step.edges), row_bias,
                    Tiles(state, cut.pieces, rows.count), int(rows.pre_shift[step.first_run]),
                    cut.threads,
                )  # fmt: skip
            else:
                self._share(kernel, step, own.row_ptr)
        if cut.is_by_rows:
            kernel(0, cut.shares[0], at_end)
        if state is not None and keeps_state:
            self._clear_padding(state, rows.count)
        return first, second, state

    def backward(
        self, weight: Tensor, state: Tensor, seeds: tuple[Tensor | None, ...],
        needs: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """Gradients by weight, bias, inputs and offset.

        Args:
            weight: As in `forward`.
            state: From `forward` of a pass over the same plan, batch and threads.
            seeds: Gradients by outputs (B, n_out), values (B, N) and preactivations (B, N).
            needs: Which gradients are wanted; None stands for the others.
        """
        own, cut, tables, n = self.schedule, self.cut, self.tables, self.schedule.num_neurons
        rows, whole = own.training_rows, cut.is_by_rows or own.products
        # Several tiles are worth having the weights sorted by source for them.
        several = any(sum(piece.tiles for piece in share) > 1 for share in cut.shares)
        back = own.pulled if whole or several else own.pushed
        gradient = buffers.empty(num_lanes(self.batch) * back.count, self.dtype) if whole else None
        if gradient is not None and own.products:
            zeros = gradient.numpy()
            threads.over(zeros.size, lambda a, b: zeros[a:b].fill(0))
        none = tables.no_states
        by_output, by_value, by_pre = (
            none if seed is None else buffers.numbers(seed) for seed in seeds
        )
        numbers = buffers.numbers(weight)
        # The gradients by inputs may be nobody's wish: level 0 has none, and level 1 pushes none.
        wanted = 0 if needs[2] or needs[3] else 1
        push_from = own.level_ptr[min(wanted + 1, own.num_levels)]
        of_edge = self._gathered(numbers, back.edge, back.first_edge(own.level_ptr[wanted]))
        # Threads that share rows never add to the same edge.
        others = 0 if cut.is_by_rows else cut.threads - 1
        edges = own.source.size if needs[0] or needs[1] else 0
        # The first share becomes the result, the others are let go.
        by_weight, by_weight_of_others = buffers.empty(edges, self.dtype), tables.nothing
        if others:
            by_weight_of_others = (
                buffers.empty(others * edges, self.dtype).view(others, edges).numpy()
            )
        weight_shares = [by_weight.numpy(), *by_weight_of_others]
        by_row = np.zeros((1 + others, n if needs[0] or needs[1] else 0), self.numpy_dtype)
        if self.batch == 0:
            by_weight.zero_()
            by_weight_of_others.fill(0)
        by_input = self._empty(self.batch, own.input_column.size) if needs[2] else None
        by_offset = self._empty(self.batch, n) if needs[3] else None
        to_input = tables.no_inputs if by_input is None else by_input.numpy()
        to_offset = none if by_offset is None else by_offset.numpy()

        def kernel(thread: int, share: tuple[Piece, ...], part: tuple[int, ...]) -> None:
            mine = 0 if cut.is_by_rows else thread
            for (piece, states), (_, gradients) in zip(
                self._tiles(share, state, rows.count),
                self._tiles(share, gradient, back.count),
                strict=True,
            ):
                compiling.backward_kernels().backward_tiles(
                    compiling.tags()[piece.width], by_output, own.output_order,
                    own.outputs_in_order, own.output_ptr, by_value, by_pre, own.neuron_order,
                    own.input_column, own.run_ptr, tables.code, tables.parameter, rows.pre_shift,
                    own.is_product, own.is_seeded, own.row_ptr, own.source, own.lowest,
                    back.pushes, push_from, of_edge, back.out_ptr, back.target, back.fours.ptr,
                    back.fours.rows, back.shift, back.mask, states, gradients,
                    weight_shares[mine], by_row[mine],
                    to_input, to_offset, piece.first == share[0].first, self.batch, piece.first,
                    piece.tiles, *part,
                )  # fmt: skip

        self._compile("backward", kernel)
        by_product = None
        if own.products and needs[0]:
            by_product = buffers.empty(own.num_edges, self.dtype)
            if self.batch == 0:
                by_product.zero_()
        for step in reversed(self._steps()):
            if isinstance(step, Product):
                back_tiles = Tiles(gradient, cut.pieces, n)
                if step.pool.max() >= own.level_ptr[wanted]:
                    of_level = self._gathered(numbers, step.edges)
                    fused_cpu_products.add_by_source(step, of_level, back_tiles, cut.threads)
                if by_product is not None:
                    values = Tiles(state, cut.pieces, rows.count)
                    fused_cpu_products.write_by_weight(
                        step, values, back_tiles, by_product, cut.threads
                    )
            else:
                self._share(kernel, step, back.out_ptr)
        return (
            self._add_shares(by_weight, by_weight_of_others, by_product) if needs[0] else None,
            self._by_bias(by_row) if needs[1] else None,
            by_input,
            by_offset,
        )

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=self.dtype, device=buffers.CPU)

    def _tiles(
        self, share: tuple[Piece, ...], state: Tensor | None, rows: int
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """Each piece and its (tiles, rows * width) part of a state; scratch where there is none."""
        if state is None:
            # The first piece of a share is the widest.
            scratch = buffers.scratch(rows * share[0].width if share else 0, self.dtype)
            for piece in share:
                yield piece, scratch[None, : rows * piece.width]
            return
        for piece in share:
            start, size = piece.first * rows, piece.tiles * rows * piece.width
            yield piece, state[start : start + size].view(piece.tiles, rows * piece.width).numpy()

    def _clear_padding(self, state: Tensor, rows: int) -> None:
        """Writes zeros to the lanes of a state that no sample is in."""
        padding = num_lanes(self.batch) - self.batch
        if padding:
            width = self.cut.pieces[-1].width
            state[-rows * width :].view(rows, width).numpy()[:, -padding:] = 0

    def _steps(self) -> list[Step]:
        if self.batch == 0:
            return []
        if not self.cut.is_by_rows:
            return self.schedule.steps(math.inf)
        lanes = PRICE_ALONE if self.batch == 1 else num_lanes(self.batch)
        return self.schedule.steps(PRODUCTS_PER_STEP / lanes)

    def _share(self, kernel: Kernel, runs: tuple[int, int], edge_ptr: np.ndarray) -> None:
        """Runs a step: each thread its samples, or its rows of a level."""
        own, cut = self.schedule, self.cut
        top, end = own.run_starts[runs[0]], own.run_starts[runs[1]]
        if cut.threads == 1:
            kernel(0, cut.shares[0], (*runs, top, end))
        elif not cut.is_by_rows:
            threads.share(lambda t: kernel(t, cut.shares[t], (*runs, top, end)), cut.threads)
        elif not own.is_one_level(*runs):
            kernel(0, cut.shares[0], (*runs, top, end))
        else:
            edges = edge_ptr[top : end + 1]
            wanted = np.linspace(edges[0], edges[-1], cut.threads + 1)[1:-1]
            cuts = [top, *(np.searchsorted(edges, wanted) + top).tolist(), end]
            threads.share(
                lambda t: kernel(t, cut.shares[0], (*runs, cuts[t], cuts[t + 1])), cut.threads
            )

    def _compile(self, direction: str, kernel: Kernel) -> None:
        key = (direction, self.dtype, self.cut.widths)
        if key in self.schedule.compiled:
            return
        for width in self.cut.widths:
            # Without tiles, to compile what is not yet compiled before threads wait for it.
            variant = (direction, self.dtype, width, self.schedule.source.dtype)
            compiling.announce(variant, lambda w=width: kernel(0, (Piece(w, 0, 0),), (0, 0, 0, 0)))
        self.schedule.compiled.add(key)

    def _gathered(
        self, numbers: np.ndarray, ids: slice | Tensor | None, first: int = 0
    ) -> np.ndarray:
        """numbers[ids], uninitialised before `first`; or the numbers themselves without ids."""
        if ids is None:
            return numbers
        if isinstance(ids, slice):
            return numbers[ids]
        into = buffers.empty(ids.numel(), self.dtype).numpy()
        places, run = ids.numpy(), compiling.kernels().gather
        threads.over(
            places.size - first, lambda a, b: run(numbers, places, into, first + a, first + b)
        )
        return into

    def _by_bias(self, by_row: np.ndarray) -> Tensor:
        """The sum of the threads' (T, N) gradients by row, in the order of the biases."""
        shares = by_row[:, self.schedule.bias_position]
        # By numpy: torch's threads would wake for it, and stay awake on our threads' cores.
        return torch.from_numpy(shares[0] if len(shares) == 1 else shares.sum(0))

    def _add_shares(self, own: Tensor, others: np.ndarray, by_weight: Tensor | None) -> Tensor:
        """The sum of the threads' gradients by weight, in graph order.

        Args:
            own: (E',) the first thread's share, overwritten by the sum.
            others: (T - 1, E').
            by_weight: (E,) those of products, which the others are added to; or None.
        """
        # The threads' shares are added in their order, so the sum repeats bit for bit.
        sums, run = own.numpy(), compiling.kernels()
        if len(others):
            threads.over(sums.size, lambda a, b: run.add_shares(others, sums, a, b))
        if self.schedule.edge_ids is None:
            return own
        if by_weight is None:
            by_weight = buffers.empty(self.schedule.num_edges, self.dtype)
        # Read here and there, written in order: threads that write to a line of a cache in turn
        # wait for one another.
        places, into = self.schedule.place_of_edge, by_weight.numpy()
        threads.over(into.size, lambda a, b: run.gather_present(sums, places, into, a, b))
        return by_weight
