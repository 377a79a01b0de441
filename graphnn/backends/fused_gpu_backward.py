"""The gradients of one call of a plan on a GPU.

The gradient's state holds a piece of the batch at a time: all that has to last is (E,) sums by edge
and (N,) sums by neuron. A state of the whole batch would double the memory of a training step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphnn.backends.fused_gpu_pass import Pass, State, take
from graphnn.backends.fused_gpu_schedule import Product
from graphnn.backends.fused_gpu_tiles import WALKERS

# Bytes of the buffer in which blocks of samples keep their shares of the weights' gradient.
_SHARE_BYTES = 1 << 28
# Bytes of the gradient of a piece of the batch, and programs that keep a GPU busy: a piece is the
# larger of what either allows.
_PIECE_BYTES, _PROGRAMS = 1 << 27, 4096
# Elements of a tile of one level: a thread holds more of each than it does forward.
_TILE = 512

ByNeuron = tuple[Tensor, Tensor]


class Backward:
    """The walk downwards; lives as long as that takes.

    Args:
        call: What ran forward.
        state: What that left.
        needs: Which gradients are wanted, of weight, bias, inputs and offset.
    """

    def __init__(self, call: Pass, state: State, needs: tuple[bool, ...]) -> None:
        self.call, self.state, self.needs = call, state, needs
        own, back = call.own, call.own.transpose
        self.dots = needs[0]
        self.by_edge = call.weight.new_empty(
            back.edge.numel() if self.dots else 0, dtype=call.accumulated
        )
        self.edges = (back.target, call.weight.index_select(0, back.edge), back.ptr)
        self.kinds = (own.table, *own.kinds(call.accumulated))
        self.walks = call.launches == "walk" and self._can_walk()
        self.tile = call.tile(self.walks, _TILE)
        self.blocks = -(-call.batch // self.tile.cols)
        self.by_product: dict[int, Tensor] = {}
        self.by_row: Tensor | None = None
        self.by_program = self.by_edge
        if self.walks:
            self.programs = min(self.blocks, WALKERS)
            if self.dots and self.programs > 1:
                self.by_program = self.by_edge.new_empty(self.programs, self.by_edge.numel())

    def _can_walk(self) -> bool:
        """Whether as many programs as run at a time have room for a share of all edges each."""
        programs = -(-self.call.batch // self.call.tile(True, 0).cols)
        return self._shares(min(programs, WALKERS), self.by_edge.numel()) >= min(programs, WALKERS)

    def _shares(self, limit: int, width: int) -> int:
        """How many blocks of samples may have a share of so many edges' gradients each."""
        if not self.dots:
            return limit
        room = _SHARE_BYTES // max(1, width * self.by_edge.element_size())
        return max(1, min(limit, room))

    def _piece(self) -> int:
        """Blocks of samples whose gradient is held at a time."""
        call = self.call
        a_block = call.plan.num_neurons * self.tile.cols * call.weight.element_size()
        room = _PIECE_BYTES // max(1, a_block)
        if self.walks:
            # Whole rounds of programs, so that each adds to a share of its own.
            return max(1, room // self.programs) * self.programs
        return max(room, -(-_PROGRAMS // -(-call.own.widest // self.tile.rows)))

    def run(self, by_output: Tensor | None, by_neuron: ByNeuron | None) -> list[Tensor | None]:
        """Gradients by weight, bias, inputs and offset; None where they are not wanted.

        Args:
            by_output: (B, n_out) gradients by outputs, or None.
            by_neuron: (B, N) gradients by values and by preactivations, or None.
        """
        call, plan = self.call, self.call.plan
        inputs, neurons = plan.input_position, plan.neuron_position
        by_input = call.weight.new_empty(call.batch, inputs.numel()) if self.needs[2] else None
        by_offset = call.weight.new_empty(call.batch, neurons.numel()) if self.needs[3] else None
        most = self._piece()
        for first in range(0, self.blocks, most):
            blocks = min(most, self.blocks - first)
            piece = _Piece(self, first, blocks)
            piece.start(by_output, by_neuron)
            if self.walks:
                self._walk(piece)
            else:
                self._levels(piece)
            gradient = piece.gradient[:, : piece.count]
            if self.needs[1]:
                by_row = gradient.sum(1, dtype=call.accumulated)
                self.by_row = by_row if self.by_row is None else self.by_row.add_(by_row)
            if by_input is not None:
                by_input[piece.samples] = take(gradient, inputs).t()
            if by_offset is not None:
                by_offset[piece.samples] = take(gradient, neurons).t()
        by_weight = self._by_weight() if self.needs[0] else None
        return [by_weight, self._by_bias() if self.needs[1] else None, by_input, by_offset]

    def _walk(self, piece: _Piece) -> None:
        from graphnn.backends import fused_gpu_kernels as kernels

        call, width = self.call, self.by_edge.numel()
        call.launch(
            kernels.backward_walk, self.tile, min(self.programs, piece.blocks), *piece.operands(),
            *self.edges, *self.kinds, self.by_program, width, piece.first, piece.blocks,
            call.own.levels, call.plan.num_levels, piece.count, call.stride, piece.span,
            **piece.flags(),
        )  # fmt: skip

    def _levels(self, piece: _Piece) -> None:
        for level in reversed(range(self.call.plan.num_levels)):
            self._level(piece, level)
            if level in self.call.own.products:
                self._multiply(piece, level, self.call.own.products[level])

    def _level(self, piece: _Piece, level: int) -> None:
        from graphnn.backends import fused_gpu_kernels as kernels

        call, own = self.call, self.call.own
        base, stop = own.transpose.level_ptr[level : level + 2]
        width, row_blocks = stop - base, call.row_blocks(level, self.tile)
        busy = -(-_PROGRAMS // max(1, row_blocks))
        shares = self._shares(min(piece.blocks, busy), width)
        own_edges = self.by_edge[base:stop] if self.dots else self.by_edge
        shared = self.dots and shares > 1
        by_block = own_edges.new_empty(shares, width) if shared else own_edges
        seeded = own.seeded[level] or piece.by_pre is not None
        for block in range(0, piece.blocks, shares):
            earlier = block if shared else piece.first + block
            call.launch(
                kernels.backward_level, self.tile, row_blocks * min(shares, piece.blocks - block),
                *piece.operands(), *self.edges, *self.kinds, by_block, base, width, earlier, block,
                *own.level_ptr[level : level + 2], piece.count, call.stride, piece.span,
                SEEDED=seeded, **piece.flags(),
            )  # fmt: skip
        if shared and piece.first:
            own_edges += by_block.sum(0)
        elif shared:
            torch.sum(by_block, 0, out=own_edges)

    def _multiply(self, piece: _Piece, level: int, product: Product) -> None:
        """Hands a product's gradient on to its sources."""
        call, gradient = self.call, piece.gradient
        arriving = gradient[product.rows]
        brought = call.matrix(product).t() @ arriving
        if isinstance(product.sources, slice):
            gradient[product.sources] += brought
        else:
            # The sources of a block are distinct: no two additions meet.
            gradient[product.sources] = gradient[product.sources] + brought
        if not self.dots:
            return
        values = piece.values[product.sources][:, : piece.count].t()
        gradient, before = arriving[:, : piece.count], self.by_product.get(level)
        # Added up in the type of all sums: hundreds of pieces would be lost in half precision.
        if before is None:
            self.by_product[level] = (gradient @ values).to(call.accumulated)
        elif before.dtype == values.dtype:
            before.addmm_(gradient, values)
        else:
            before += gradient @ values

    def _by_weight(self) -> Tensor:
        """(E,), in graph order."""
        call = self.call
        if call.batch == 0:
            return torch.zeros_like(call.weight)
        if self.by_program is not self.by_edge:
            torch.sum(self.by_program, 0, out=self.by_edge)
        ordered = call.own.in_graph_order(self.by_edge, call.dtype)
        for level, gradient in self.by_product.items():
            ordered[call.own.products[level].edges] = gradient.view(-1).to(call.dtype)
        return ordered

    def _by_bias(self) -> Tensor:
        call = self.call
        if self.by_row is None:
            return call.weight.new_zeros(call.own.num_biases)
        return self.by_row.index_select(0, call.own.bias_position).to(call.dtype)


class _Piece:
    """Some blocks of samples, and the gradient by their values.

    Args:
        back: The walk that it is a piece of.
        first: Its first block.
        blocks: How many it has.
    """

    def __init__(self, back: Backward, first: int, blocks: int) -> None:
        self.call, self.back, self.first, self.blocks = back.call, back, first, blocks
        start, self.span = first * back.tile.cols, blocks * back.tile.cols
        self.count = min(self.span, self.call.batch - start)
        self.samples = slice(start, start + self.count)
        state = back.state
        self.values = state.values[:, start : start + self.span]
        self.pres = None if state.pres is None else state.pres[:, start : start + self.span]
        self.by_pre: Tensor | None = None
        self.gradient = self.values

    def start(self, by_output: Tensor | None, by_neuron: ByNeuron | None) -> None:
        """Writes what arrives from outside."""
        call, own = self.call, self.call.own
        if by_neuron is not None:
            order = call.plan.neuron_order
            by_value, by_pre = by_neuron
            self.gradient = call.padded(by_value[self.samples], order, self.span)
            self.by_pre = call.padded(by_pre[self.samples], order, self.span)
        else:
            self.gradient = call.empty(call.plan.num_neurons, self.span)
            if self.back.walks:
                # At once: a launch a level would take longer than the walk.
                self.gradient.zero_()
            else:
                for level, seeded in enumerate(own.seeded):
                    if seeded:
                        self.gradient[own.level_ptr[level] : own.level_ptr[level + 1]] = 0
        if by_output is not None:
            to, given = self.gradient[:, : self.count], by_output[self.samples].t()
            if own.outputs_repeat:
                to.index_put_((call.plan.output_position,), given, accumulate=True)
            else:
                to.index_copy_(0, call.plan.output_position, given)

    def operands(self) -> tuple[Tensor, ...]:
        """The states that a kernel reads; what it is not told to read is any tensor."""
        by_pre = self.values if self.by_pre is None else self.by_pre
        pres = self.values if self.pres is None else self.pres
        return self.gradient, by_pre, self.values, pres

    def flags(self) -> dict[str, bool]:
        """The constants of the kernels."""
        return {
            "KEEPS_PRE": self.pres is not None,
            "PRE_SEEDED": self.by_pre is not None,
            "DOTS": self.back.dots,
        }
