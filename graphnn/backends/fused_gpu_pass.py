"""One call of a plan on a GPU: its state, and the kernels that are launched over it.

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
    level_tile,
    stride_of,
    walk_tile,
    walks,
)
from graphnn.plan import ExecutionPlan

# What sums are made in.
ACCUMULATED = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}
# Bytes of the buffer in which blocks of samples keep their shares of the weights' gradient.
_SHARE_BYTES = 1 << 28
# Programs of a walk that a GPU runs at one time; more would only need more shares.
_WALKERS = 264
# A state of inference that is smaller than this is made in one piece, else in pieces of at most a
# quarter of the free memory.
_SMALL_STATE = 1 << 28


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
        self.walks = walks(self.own, batch, weight.element_size())
        self.tile = walk_tile(batch, self.own.widest) if self.walks else level_tile(batch)
        self.blocks = -(-batch // self.tile.cols)
        # 32 bits spare some of the few instructions that an edge takes.
        small = plan.num_neurons * self.stride < 2**31
        self.index = torch.int32 if small else torch.int64

    def _empty(self, rows: int) -> Tensor:
        return self.weight.new_empty(rows, self.stride)

    def _padded(self, samples: Tensor, rows: Tensor) -> Tensor:
        """(len(rows), stride) from the columns `rows` of (B, n), zero beyond the batch."""
        state = self._empty(rows.numel())
        state[:, : self.batch] = samples.index_select(1, rows).t()
        state[:, self.batch :] = 0
        return state

    def _by_sample(self, state: Tensor, rows: Tensor) -> Tensor:
        """(B, len(rows)) from rows of a state."""
        return state.index_select(0, rows)[:, : self.batch].t().contiguous()

    def _launch(self, kernel: Any, grid: int, *arguments: Any, **constants: Any) -> None:
        if grid == 0:
            return
        tile = self.tile
        with torch.cuda.device_of(self.weight):
            kernel[(grid,)](
                *arguments, ROWS=tile.rows, COLS=tile.cols, ACC=_triton_type(self.accumulated),
                INDEX=_triton_type(self.index), USED=self.own.used, num_warps=tile.warps,
                enable_fp_fusion=True, **constants,
            )  # fmt: skip

    def _row_blocks(self, level: int) -> int:
        first, end = self.own.level_ptr[level : level + 2]
        return -(-(end - first) // self.tile.rows)

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
        values = self._empty(count)
        pres = self._empty(count) if keeps_pre else None
        shift = None if offset is None else self._padded(offset, self.plan.neuron_order)
        forward = _Forward(self, bias, values, pres, shift, self.plan.edge_source, count)
        forward.start(inputs)
        forward.run()
        return State(values, pres)

    def infer(self, bias: Tensor, inputs: Tensor, offset: Tensor | None) -> Tensor:
        """The (B, n_out) outputs, from a state no longer than the levels that are still read."""
        ring = self.own.ring
        values = self._empty(ring.size)
        shift = None if offset is None else self._padded(offset, self.plan.neuron_order)
        forward = _Forward(self, bias, values, None, shift, ring.source, ring.size)
        forward.start(inputs)
        forward.run()
        return self._by_sample(values, ring.outputs)

    def values_and_preactivations(self, state: State) -> tuple[Tensor, Tensor]:
        """Each (B, N), in neuron order."""
        rows = self.plan.neuron_position
        pres = state.values if state.pres is None else state.pres
        return self._by_sample(state.values, rows), self._by_sample(pres, rows)

    def outputs(self, state: State) -> Tensor:
        """(B, n_out)."""
        return self._by_sample(state.values, self.plan.output_position)

    def backward(
        self,
        state: State,
        by_output: Tensor | None,
        by_neuron: tuple[Tensor, Tensor] | None,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:
        """Gradients by weight, bias, inputs and offset.

        Args:
            state: From `forward`.
            by_output: (B, n_out) gradients by outputs, or None.
            by_neuron: (B, N) gradients by values and by preactivations, or None.
            needs: Which gradients are wanted; None stands for the others.
        """
        plan = self.plan
        back = _Backward(self, state, needs[0])
        back.start(by_output, by_neuron)
        back.run()
        gradient = back.gradient
        return (
            back.by_weight() if needs[0] else None,
            self._by_bias(gradient) if needs[1] else None,
            self._by_sample(gradient, plan.input_position) if needs[2] else None,
            self._by_sample(gradient, plan.neuron_position) if needs[3] else None,
        )

    def _by_bias(self, gradient: Tensor) -> Tensor:
        summed = gradient[:, : self.batch].sum(1, dtype=self.accumulated)
        return summed.index_select(0, self.own.bias_position).to(self.dtype)


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
        if call.walks:
            call._launch(
                kernels.forward_walk, call.blocks, *self.written, *self.edges, *self.rows,
                own.levels, call.plan.num_levels, *self.shape, **self.flags,
            )  # fmt: skip
            return
        for level in range(1, call.plan.num_levels):
            grid, span = call._row_blocks(level) * call.blocks, own.level_ptr[level : level + 2]
            if level in own.products:
                self._multiply(own.products[level])
                call._launch(
                    kernels.activate_level, grid, *self.written, *self.rows, *span, *self.shape,
                    **self.flags,
                )  # fmt: skip
            else:
                call._launch(
                    kernels.forward_level, grid, *self.written, *self.edges, *self.rows, *span,
                    *self.shape, **self.flags,
                )  # fmt: skip

    def _multiply(self, product: Product) -> None:
        torch.mm(
            self.call.matrix(product),
            self.values[product.sources],
            out=self.values[product.rows],
        )


class _Backward:
    """The walk downwards; lives as long as that takes."""

    def __init__(self, call: Pass, state: State, dots: bool) -> None:
        self.call, self.state, self.dots = call, state, dots
        own = call.own
        self.gradient = call._empty(call.plan.num_neurons)
        self.by_pre: Tensor | None = None
        back = own.transpose
        self.by_edge = self.gradient.new_empty(
            back.edge.numel() if dots else 0, dtype=call.accumulated
        )
        self.by_block: dict[int, Tensor] = {}
        self.edges = (back.target, call.weight.index_select(0, back.edge), back.ptr)
        self.kinds = (own.table, *own.kinds(call.accumulated))

    def start(self, by_output: Tensor | None, by_neuron: tuple[Tensor, Tensor] | None) -> None:
        """Writes what arrives from outside."""
        call, own = self.call, self.call.own
        if by_neuron is not None:
            order = call.plan.neuron_order
            by_value, by_pre = by_neuron
            self.gradient = call._padded(by_value, order)
            self.by_pre = call._padded(by_pre, order)
        elif call.walks:
            self.gradient.zero_()
        else:
            for level, seeded in enumerate(own.seeded):
                if seeded:
                    self.gradient[own.level_ptr[level] : own.level_ptr[level + 1]] = 0
        if by_output is not None:
            to = self.gradient[:, : call.batch]
            if own.outputs_repeat:
                to.index_put_((call.plan.output_position,), by_output.t(), accumulate=True)
            else:
                to.index_copy_(0, call.plan.output_position, by_output.t())

    def run(self) -> None:
        """Computes the gradients by all preactivations, and by edge where they are wanted."""
        if self.call.walks:
            self._walk()
            return
        for level in reversed(range(self.call.plan.num_levels)):
            self._level(level)
            if level in self.call.own.products:
                self._multiply(level, self.call.own.products[level])

    def _operands(self) -> tuple[Tensor, ...]:
        values, pres = self.state.values, self.state.pres
        by_pre = values if self.by_pre is None else self.by_pre
        given = (self.gradient, by_pre, values, values if pres is None else pres)
        return *given, *self.edges, *self.kinds

    def _flags(self) -> dict[str, bool]:
        return {
            "KEEPS_PRE": self.state.pres is not None,
            "PRE_SEEDED": self.by_pre is not None,
            "DOTS": self.dots,
        }

    def _shares(self, limit: int, width: int) -> int:
        """How many blocks of samples may have a share of so many edges' gradients each."""
        if not self.dots:
            return limit
        room = _SHARE_BYTES // max(1, width * self.by_edge.element_size())
        return max(1, min(limit, room))

    def _walk(self) -> None:
        from graphnn.backends import fused_gpu_kernels as kernels

        call, width = self.call, self.by_edge.numel()
        programs = self._shares(min(call.blocks, _WALKERS), width)
        by_program = self.by_edge.new_empty(programs if self.dots else 0, width)
        call._launch(
            kernels.backward_walk, programs, *self._operands(), by_program, width, call.blocks,
            call.own.levels, call.plan.num_levels, call.batch, call.stride, **self._flags(),
        )  # fmt: skip
        if self.dots:
            torch.sum(by_program, 0, out=self.by_edge)

    def _level(self, level: int) -> None:
        from graphnn.backends import fused_gpu_kernels as kernels

        call, own = self.call, self.call.own
        base, stop = own.transpose.level_ptr[level : level + 2]
        width = stop - base
        shares = self._shares(call.blocks, width)
        own_edges = self.by_edge[base:stop] if self.dots else self.by_edge
        by_block = own_edges
        if self.dots and shares > 1:
            by_block = own_edges.new_empty(shares, width)
        seeded = own.seeded[level] or self.by_pre is not None
        for block in range(0, call.blocks, shares):
            call._launch(
                kernels.backward_level, call._row_blocks(level) * min(shares, call.blocks - block),
                *self._operands(), by_block, base, width, block, *own.level_ptr[level : level + 2],
                call.batch, call.stride, SEEDED=seeded, **self._flags(),
            )  # fmt: skip
        if self.dots and shares > 1:
            torch.sum(by_block, 0, out=own_edges)

    def _multiply(self, level: int, product: Product) -> None:
        """Hands a product's gradient on to its sources."""
        call, gradient = self.call, self.gradient
        arriving = gradient[product.rows]
        brought = call.matrix(product).t() @ arriving
        if isinstance(product.sources, slice):
            gradient[product.sources] += brought
        else:
            # The sources of a block are distinct: no two additions meet.
            gradient[product.sources] = gradient[product.sources] + brought
        if self.dots:
            batch = slice(0, call.batch)
            own = self.state.values[product.sources][:, batch]
            self.by_block[level] = arriving[:, batch] @ own.t()

    def by_weight(self) -> Tensor:
        """(E,), in graph order."""
        call = self.call
        if call.batch == 0:
            return torch.zeros_like(call.weight)
        ordered = call.own.in_graph_order(self.by_edge, call.dtype)
        for level, gradient in self.by_block.items():
            ordered[call.own.products[level].edges] = gradient.view(-1)
        return ordered


def chunked(
    make: Callable[[int], Pass], bias: Tensor, inputs: Tensor, offset: Tensor | None
) -> Tensor:
    """The outputs of a batch, inferred in pieces whose states fit the memory.

    Args:
        make: Makes the pass of a batch of that many samples.
        bias: (K,).
        inputs: (B, n_in).
        offset: (B, N) or None.
    """
    batch = inputs.shape[0]
    whole = make(batch)
    room = _samples_that_fit(whole.own.ring.size, inputs)
    if batch <= room:
        return whole.infer(bias, inputs, offset)
    pieces = []
    for start in range(0, batch, room):
        part = slice(start, min(start + room, batch))
        shift = None if offset is None else offset[part]
        pieces.append(make(part.stop - start).infer(bias, inputs[part], shift))
    return torch.cat(pieces)


def _samples_that_fit(rows: int, inputs: Tensor) -> int:
    room = _SMALL_STATE
    a_sample = rows * inputs.element_size()
    if a_sample * inputs.shape[0] > room and inputs.is_cuda:
        room = max(room, torch.cuda.mem_get_info(inputs.device)[0] // 4)
    return max(1, room // max(1, a_sample) // LARGEST_BLOCK) * LARGEST_BLOCK


def _triton_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))
