"""One call of a plan on a GPU: its state, and the kernels that are launched over it upwards.

A state is (rows, stride): row p holds the neuron at position p, a column a sample. Rows are padded
to whole blocks of samples, so that no kernel asks which samples exist except where it adds over
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphnn.backends.fused_gpu_schedule import Product, schedule
from graphnn.backends.fused_gpu_tiles import (
    LARGEST_BLOCK,
    Launches,
    Tile,
    launches,
    level_tile,
    stride_of,
    walk_tile,
)
from graphnn.plan import ExecutionPlan

# What sums are made in.
ACCUMULATED = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}
# A state of inference that is smaller than this is made in one piece, else in pieces of at most a
# quarter of the free memory.
_SMALL_STATE = 1 << 28
# Elements of a tile of one level, and of one of fours, where a thread holds four sums of each.
_TILE, _TILE_OF_FOURS = 1024, 512
# Elements of a state that 32 bits count, which spares a seventh of the instructions of an edge.
_COUNTED_BY_32_BITS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class State:
    """What a forward pass leaves: values, and preactivations where they are kept."""

    values: Tensor
    pres: Tensor | None


class Pass:
    """One call of the plan: how it is launched, and its weights in the plan's order."""

    def __init__(self, plan: ExecutionPlan, weight: Tensor, batch: int) -> None:
        self.plan, self.weight, self.batch = plan, weight.contiguous(), batch
        self.own = schedule(plan)
        self.dtype, self.accumulated = weight.dtype, ACCUMULATED[weight.dtype]
        self.stride = stride_of(batch) if batch else 0
        self.launches: Launches = launches(self.own, batch, weight.element_size())
        self.index = self._type_of_places(plan.num_neurons)

    def _type_of_places(self, rows: int) -> torch.dtype:
        """What counts the elements of a state of that many rows."""
        return torch.int32 if rows * self.stride <= _COUNTED_BY_32_BITS else torch.int64

    def tile(self, walks: bool, elements: int) -> Tile:
        """The tile of a walk, or of that many elements for one level."""
        if walks:
            return walk_tile(self.batch, self.own.widest)
        return level_tile(self.batch, elements)

    def empty(self, rows: int, span: int | None = None) -> Tensor:
        """A state, or a piece of one with room for `span` samples."""
        return self.weight.new_empty(rows, self.stride if span is None else span)

    def padded(self, samples: Tensor, rows: Tensor, span: int | None = None) -> Tensor:
        """(len(rows), span) from the columns `rows` of (B, n), zero beyond the batch."""
        state = self.empty(rows.numel(), span)
        state[:, : samples.shape[0]] = samples.index_select(1, rows).t()
        state[:, samples.shape[0] :] = 0
        return state

    def by_sample(self, state: Tensor, rows: Tensor | slice) -> Tensor:
        """(B, len(rows)) from rows of a state, in memory of its own, which keeps no state alive."""
        found = take(state, rows)[:, : self.batch].t()
        return found.clone(memory_format=torch.contiguous_format)

    def launch(self, kernel: Any, tile: Tile, grid: int, *arguments: Any, **constants: Any) -> None:
        """Starts `grid` programs, each on a tile."""
        if grid == 0:
            return
        with torch.cuda.device_of(self.weight):
            kernel[(grid,)](
                *arguments, ROWS=tile.rows, COLS=tile.cols, ACC=_triton_type(self.accumulated),
                INDEX=_triton_type(self.index), USED=self.own.used, num_warps=tile.warps,
                maxnreg=tile.registers, enable_fp_fusion=True, **constants,
            )  # fmt: skip

    def row_blocks(self, level: int, tile: Tile) -> int:
        """Tiles, one above the other, that cover a level."""
        first, end = self.own.level_ptr[level : level + 2]
        return -(-(end - first) // tile.rows)

    def in_plan_order(self) -> Tensor:
        """(E,) weights."""
        if self.own.in_order:
            return self.weight
        return self.weight.index_select(0, self.plan.edge_order)

    def matrix(self, product: Product) -> Tensor:
        """The nn.Linear weight of a product; a view where its edges are consecutive."""
        return self.weight[product.edges].view(product.shape)

    def forward(
        self, bias: Tensor, inputs: Tensor, offset: Tensor | None, keeps_pre: bool
    ) -> State:
        """The whole state, a row a neuron."""
        count = self.plan.num_neurons
        values = self.empty(count)
        pres = self.empty(count) if keeps_pre else None
        shift = None if offset is None else self.padded(offset, self.plan.neuron_order)
        forward = _Forward(self, bias, values, pres, shift, self.plan.edge_source, count)
        forward.start(inputs)
        forward.run()
        return State(values, pres)

    def infer(self, bias: Tensor, inputs: Tensor, offset: Tensor | None) -> Tensor:
        """The (B, n_out) outputs, from a state no longer than the levels that are still read."""
        ring = self.own.ring
        if offset is None:
            self.index = self._type_of_places(ring.size)
        values = self.empty(ring.size)
        shift = None if offset is None else self.padded(offset, self.plan.neuron_order)
        forward = _Forward(self, bias, values, None, shift, ring.source, ring.size)
        forward.start(inputs)
        forward.run()
        return self.by_sample(values, ring.outputs)

    def values_and_preactivations(self, state: State) -> tuple[Tensor, Tensor]:
        """Each (B, N), in neuron order."""
        rows = self.plan.neuron_position
        pres = state.values if state.pres is None else state.pres
        return self.by_sample(state.values, rows), self.by_sample(pres, rows)

    def outputs(self, state: State) -> Tensor:
        """(B, n_out)."""
        return self.by_sample(state.values, self.own.output_rows)


class _Forward:
    """The walk upwards; lives as long as that takes."""

    def __init__(
        self, call: Pass, bias: Tensor, values: Tensor, pres: Tensor | None, shift: Tensor | None,
        source: Tensor, ring: int,
    ) -> None:  # fmt: skip
        self.call, self.values, self.pres, self.shift = call, values, pres, shift
        own = call.own
        padded = torch.cat([bias, bias.new_zeros(1)]).to(call.accumulated)
        row_bias = padded.index_select(0, own.bias_slot)
        self.edges = (source, call.in_plan_order(), own.row_ptr)
        # What a kernel is not told to read is any tensor.
        shifted = values if shift is None else shift
        self.rows = (shifted, row_bias, own.table, *own.kinds(call.accumulated))
        self.written = (values, values if pres is None else pres)
        self.shape = (call.stride, ring)
        self.flags = {"KEEPS_PRE": pres is not None, "SHIFTED": shift is not None}

    def start(self, inputs: Tensor) -> None:
        """Writes level 0."""
        call, plan = self.call, self.call.plan
        first = self.values[: inputs.shape[1]]
        first[:, call.batch :] = 0
        given, own = inputs.t(), first[:, : call.batch]
        if call.own.inputs_in_order:
            own.copy_(given)
        else:
            own.index_copy_(0, plan.input_position, given)
        if self.shift is not None:
            first += self.shift[: inputs.shape[1]]
        if self.pres is not None:
            # An input's preactivation is its value.
            self.pres[: inputs.shape[1]] = first

    def run(self) -> None:
        """Computes all other levels."""
        from graphnn.backends import fused_gpu_kernels as kernels

        call, own = self.call, self.call.own
        walks = call.launches == "walk"
        tile = call.tile(walks, _TILE)
        blocks = -(-call.batch // tile.cols)
        if walks:
            call.launch(
                kernels.forward_walk, tile, blocks, *self.written, *self.edges, *self.rows,
                own.levels, call.plan.num_levels, *self.shape, **self.flags,
            )  # fmt: skip
            return
        fours, by_fours = own.fours, call.tile(False, _TILE_OF_FOURS)
        for level in range(1, call.plan.num_levels):
            grid, span = call.row_blocks(level, tile) * blocks, own.level_ptr[level : level + 2]
            if fours.count(level):
                grid = -(-fours.count(level) // by_fours.rows) * blocks
                call.launch(
                    kernels.forward_fours, by_fours, grid, *self.written, *self.edges, *self.rows,
                    fours.rows, fours.rows.shape[1], *fours.ptr[level : level + 2], *self.shape,
                    **self.flags,
                )  # fmt: skip
            elif level in own.products:
                self._multiply(own.products[level])
                call.launch(
                    kernels.activate_level, tile, grid, *self.written, *self.rows, *span,
                    *self.shape, **self.flags,
                )  # fmt: skip
            else:
                call.launch(
                    kernels.forward_level, tile, grid, *self.written, *self.edges, *self.rows,
                    *span, *self.shape, **self.flags,
                )  # fmt: skip

    def _multiply(self, product: Product) -> None:
        torch.mm(
            self.call.matrix(product),
            self.values[product.sources],
            out=self.values[product.rows],
        )


def chunked(
    make: Callable[[int], Pass], bias: Tensor, inputs: Tensor, offset: Tensor | None, shrink: int
) -> Tensor:
    """The outputs of a batch, inferred in pieces whose states fit the memory.

    Args:
        make: Makes the pass of a batch of that many samples.
        bias: (K,).
        inputs: (B, n_in).
        offset: (B, N) or None.
        shrink: How many times smaller than usual the pieces are.
    """
    batch = inputs.shape[0]
    whole = make(batch)
    room = _samples_that_fit(whole.own.ring.size, inputs, shrink)
    if batch <= room:
        return whole.infer(bias, inputs, offset)
    outputs = inputs.new_empty(batch, whole.plan.output_position.numel())
    for start in range(0, batch, room):
        part = slice(start, min(start + room, batch))
        shift = None if offset is None else offset[part]
        outputs[part] = make(part.stop - start).infer(bias, inputs[part], shift)
    return outputs


def _samples_that_fit(rows: int, inputs: Tensor, shrink: int) -> int:
    room = _SMALL_STATE
    a_sample = rows * inputs.element_size()
    if a_sample * inputs.shape[0] > room and inputs.is_cuda:
        room = max(room, torch.cuda.mem_get_info(inputs.device)[0] // 4)
    return max(1, room // shrink // max(1, a_sample) // LARGEST_BLOCK) * LARGEST_BLOCK


def take(state: Tensor, rows: Tensor | slice) -> Tensor:
    """Rows of a state."""
    return state[rows] if isinstance(rows, slice) else state.index_select(0, rows)


def _triton_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))
