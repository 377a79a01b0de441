"""One pass over a plan in compiled code, forward or backward: buffers, threads, and their shares.

A batch is cut into groups of 16 samples, and the groups into tiles of 64, 32 or 16. A *state* holds
the rows of all tiles, a tile after another: what the backward pass needs of the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from graphnn.backends import buffers, compiling, fused_cpu_products, threads
from graphnn.backends.base import Keep
from graphnn.backends.fused_cpu_schedule import Product, Schedule, Step, schedule_of
from graphnn.plan import ExecutionPlan

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# (thread, its pieces, (first run, end run, first position, end position))
Kernel = Callable[[int, "tuple[Piece, ...]", tuple[int, int, int, int]], None]

_GROUP = 16
# What an edge costs a sample in a tile of so many samples, relative to the widest; and how much
# more where the values that a level reads do not fit the second-level cache.
_COST = {64: 1.0, 32: 1.15, 16: 1.8}
_SPILLED = 4.0
# Bytes of a level's sources that leave room for edges in a second-level cache of 2 MiB.
_CACHE_BYTES = 5 << 18
# Edge x sample products below which a thread costs more than it saves.
_PRODUCTS_PER_THREAD = 500_000
# Edge x sample products below which a level is not shared between threads.
_PRODUCTS_PER_STEP = 3_000_000
# The price of an edge for one sample alone, in edge x sample products of a full tile.
_PRICE_ALONE = 16


@dataclass(frozen=True)
class Piece:
    """Tiles of one width: `tiles` of them, from sample `first` on."""

    width: int
    first: int
    tiles: int


@dataclass(frozen=True, eq=False)
class Cut:
    """How a batch is shared.

    Args:
        shares: Each thread's pieces. Or one share, whose rows several threads compute.
        threads: How many threads.
    """

    shares: tuple[tuple[Piece, ...], ...]
    threads: int

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, in the order of their samples."""
        return tuple(piece for share in self.shares for piece in share)

    @cached_property
    def is_by_rows(self) -> bool:
        """Whether the threads share a level's rows instead of the samples."""
        return len(self.shares) < self.threads


def num_lanes(batch: int) -> int:
    """Samples that a state has room for."""
    return batch if batch <= 1 else -(-batch // _GROUP) * _GROUP


def _pieces(first: int, end: int, widest: int) -> tuple[Piece, ...]:
    pieces = []
    for width in _COST:
        tiles = (end - first) // (width // _GROUP) if width <= widest else 0
        if tiles:
            pieces.append(Piece(width, first * _GROUP, tiles))
            first += tiles * (width // _GROUP)
    return tuple(pieces)


def _widest(schedule: Schedule, element_size: int) -> int:
    """The width whose tiles cost least, by the levels' sources that fit the cache."""

    def cost(width: int) -> float:
        spills = schedule.level_sources * (width * element_size) > _CACHE_BYTES
        spilled = int(schedule.level_edges[spills].sum())
        return _COST[width] * (schedule.num_edges + (_SPILLED - 1) * spilled)

    return min(_COST, key=cost)


@lru_cache(maxsize=256)
def _cut(widest: int, batch: int, work: int, largest_level: int, most_threads: int) -> Cut:
    """Cuts a batch, each sample of which takes `work` products, `largest_level` on one level."""
    if batch == 0:
        return Cut(((),), 1)
    price = _PRICE_ALONE if batch == 1 else num_lanes(batch)
    workers = max(1, min(most_threads, work * price // _PRODUCTS_PER_THREAD))
    groups = num_lanes(batch) // _GROUP
    if groups < workers and largest_level * price < _PRODUCTS_PER_STEP:
        workers = max(1, groups)
    if batch == 1:
        return Cut(((Piece(1, 0, 1),),), workers)
    if groups < workers:
        return Cut((_pieces(0, groups, widest),), workers)
    ends = [groups * i // workers for i in range(workers + 1)]
    shares = [_pieces(a, b, widest) for a, b in pairwise(ends)]
    return Cut(tuple(shares), workers)


def _contiguous(tensor: Tensor) -> np.ndarray:
    # The imaginary part of a conjugate is stored with the opposite sign.
    return tensor.detach().resolve_neg().contiguous().numpy()


class Pass:
    """What a forward and a backward pass share: the same arguments give the same cut.

    Args:
        plan: The plan, on the CPU.
        weight: (E,) float32 or float64, in graph order.
        bias: (K,).
        inputs: (B, n_in).
        most_threads: How many threads it may use.
    """

    def __init__(
        self, plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor, most_threads: int
    ) -> None:
        self.schedule = own = schedule_of(plan)
        self.dtype, self.numpy_dtype = weight.dtype, DTYPES[weight.dtype]
        self.batch = inputs.shape[0]
        key = ("fused_cpu", weight.dtype)
        if key not in plan.derived:
            tables = own.run_tables(self.numpy_dtype)
            plan.derived[key] = (_widest(own, weight.element_size()), *tables)
        widest, self.code, self.parameter = plan.derived[key]
        self.cut = _cut(
            widest, self.batch, own.num_edges + own.num_neurons, own.largest_level, most_threads
        )
        self.weight = weight.detach().resolve_neg().contiguous()
        self.bias, self.inputs = bias, inputs
        self.none = np.empty((0, own.num_neurons), self.numpy_dtype)

    def forward(
        self, offset: Tensor | None, keep: Keep, keeps_state: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(outputs, empty, state), or with keep="all" (values, preactivations, state).

        Args:
            offset: (B, N) or None.
            keep: As in `Call`.
            keeps_state: Whether the state is for `backward`; else it may be scratch.
        """
        own, cut, none = self.schedule, self.cut, self.none
        rows = own.training_rows if keeps_state else own.inference_rows
        whole = keeps_state or cut.is_by_rows or bool(own.products)
        state = buffers.empty(num_lanes(self.batch) * rows.count if whole else 0, self.dtype)
        x, moved = _contiguous(self.inputs), none if offset is None else _contiguous(offset)
        weight = self._gathered(self.weight, own.edge_ids)
        row_bias = np.zeros(own.num_neurons, self.numpy_dtype)
        row_bias[own.bias_position] = _contiguous(self.bias)
        if keep == "all":
            first, second = (self._empty(self.batch, own.num_neurons) for _ in range(2))
            values, pres = first.numpy(), second.numpy()
            out = np.empty((0, own.output_position.size), self.numpy_dtype)
        else:
            first = self._empty(self.batch, own.output_position.size)
            second, out, values, pres = self._empty(0), first.numpy(), none, none

        def kernel(_: int, share: tuple[Piece, ...], part: tuple[int, int, int, int]) -> None:
            for piece, states in self._tiles(share, state, rows.count):
                compiling.kernels().forward_tiles(
                    compiling.tags()[piece.width], x, own.input_column, rows.output, own.run_ptr,
                    self.code, self.parameter, rows.value_shift, rows.pre_shift,
                    own.is_product, own.row_ptr, rows.source, weight, row_bias, moved,
                    own.neuron_order, states, out, values, pres, piece.first, piece.tiles, *part,
                )  # fmt: skip

        self._compile("forward", kernel)
        for step in self._steps():
            if isinstance(step, Product):
                shift = rows.pre_shift[step.first_run]
                fused_cpu_products.forward(step, self.weight, self._views(state, rows.count), shift)
            else:
                self._share(kernel, step, own.row_ptr)
        return first, second, state

    def backward(
        self, state: Tensor, seeds: tuple[Tensor | None, ...], needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Gradients by weight, bias, inputs and offset.

        Args:
            state: From `forward` of a pass over the same plan, batch and threads.
            seeds: Gradients by outputs (B, n_out), values (B, N) and preactivations (B, N).
            needs: Which gradients are wanted; None stands for the others.
        """
        own, cut, n = self.schedule, self.cut, self.schedule.num_neurons
        back, rows = own.transpose, own.training_rows
        whole = cut.is_by_rows or bool(own.products)
        gradient = buffers.empty(num_lanes(self.batch) * n if whole else 0, self.dtype)
        if own.products:
            gradient.zero_()
        by_output, by_value, by_pre = (
            self.none if seed is None else _contiguous(seed) for seed in seeds
        )
        out_weight = self._gathered(self.weight, back.edge)
        # Threads that share rows never add to the same edge.
        copies = 1 if cut.is_by_rows else cut.threads
        wanted = needs[0] or needs[1]
        by_weight = self._zeros(copies, own.source.size if wanted else 0)
        by_row = self._zeros(copies, n if wanted else 0)
        by_input = self._empty(self.batch if needs[2] else 0, own.input_column.size)
        by_offset = self._empty(self.batch if needs[3] else 0, n)
        into = by_weight.numpy(), by_row.numpy(), by_input.numpy(), by_offset.numpy()

        def kernel(thread: int, share: tuple[Piece, ...], part: tuple[int, ...]) -> None:
            mine = 0 if cut.is_by_rows else thread
            for (piece, states), (_, gradients) in zip(
                self._tiles(share, state, rows.count), self._tiles(share, gradient, n), strict=True
            ):
                compiling.kernels().backward_tiles(
                    compiling.tags()[piece.width], by_output, own.output_order,
                    own.outputs_in_order, own.output_ptr, by_value, by_pre, own.neuron_order,
                    own.input_column, own.run_ptr, self.code, self.parameter, rows.pre_shift,
                    own.is_product, own.is_seeded, own.row_ptr, own.source, back.out_ptr,
                    back.target, out_weight, states, gradients, into[0][mine], into[1][mine],
                    into[2], into[3], piece.first, piece.tiles, *part,
                )  # fmt: skip

        self._compile("backward", kernel)
        by_product = None
        if own.products and needs[0]:
            by_product = buffers.empty(own.num_edges, self.dtype)
            if self.batch == 0:
                by_product.zero_()
        for step in reversed(self._steps()):
            if isinstance(step, Product):
                states, gradients = self._views(state, rows.count), self._views(gradient, n)
                fused_cpu_products.backward(step, self.weight, states, gradients, by_product)
            else:
                self._share(kernel, step, back.out_ptr)
        return (
            self._add_shares(by_weight, by_product) if needs[0] else None,
            by_row.sum(0)[torch.from_numpy(own.bias_position)] if needs[1] else None,
            by_input if needs[2] else None,
            by_offset if needs[3] else None,
        )

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype)

    def _zeros(self, *shape: int) -> Tensor:
        # numpy's are zeroed when they are first touched, by the thread that does.
        return torch.from_numpy(np.zeros(shape, self.numpy_dtype))

    def _tiles(
        self, share: tuple[Piece, ...], state: Tensor, rows: int
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """Each piece and its (tiles, rows * width) part of a state; scratch where that is empty."""
        if state.numel() == 0:
            # The first piece of a share is the widest.
            scratch = buffers.scratch(rows * share[0].width if share else 0, self.dtype)
            for piece in share:
                yield piece, scratch[None, : rows * piece.width]
            return
        for piece in share:
            start, size = piece.first * rows, piece.tiles * rows * piece.width
            yield piece, state[start : start + size].view(piece.tiles, rows * piece.width).numpy()

    def _views(self, state: Tensor, rows: int) -> list[Tensor]:
        """The (tiles, rows, width) parts of a state, one for each piece."""
        return [
            torch.from_numpy(part).view(piece.tiles, rows, piece.width)
            for piece, part in self._tiles(self.cut.pieces, state, rows)
        ]

    def _steps(self) -> list[Step]:
        if self.batch == 0:
            return []
        if not self.cut.is_by_rows:
            return self.schedule.steps(math.inf)
        lanes = _PRICE_ALONE if self.batch == 1 else num_lanes(self.batch)
        return self.schedule.steps(_PRODUCTS_PER_STEP / lanes)

    def _share(self, kernel: Kernel, runs: tuple[int, int], edge_ptr: np.ndarray) -> None:
        """Runs a step: each thread its samples, or its rows of a level."""
        own, cut = self.schedule, self.cut
        top, end = int(own.run_ptr[runs[0]]), int(own.run_ptr[runs[1]])
        if not cut.is_by_rows:
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
        key = (direction, self.dtype, self.cut)
        if key in self.schedule.compiled:
            return
        for width in {piece.width for piece in self.cut.pieces}:
            # Without tiles, to compile what is not yet compiled before threads wait for it.
            variant = (direction, self.dtype, width, self.schedule.source.dtype)
            compiling.announce(variant, lambda w=width: kernel(0, (Piece(w, 0, 0),), (0, 0, 0, 0)))
        self.schedule.compiled.add(key)

    def _gathered(self, numbers: Tensor, ids: Tensor | None) -> np.ndarray:
        """numbers[ids], or the numbers themselves without ids."""
        if ids is None:
            return numbers.numpy()
        into = buffers.empty(ids.numel(), self.dtype).numpy()
        own, places, run = numbers.numpy(), ids.numpy(), compiling.kernels().gather
        threads.over(ids.numel(), lambda a, b: run(own, places, into, a, b))
        return into

    def _add_shares(self, by_thread: Tensor, by_weight: Tensor | None) -> Tensor:
        """The sum of the threads' (T, E') gradients by weight, in graph order."""
        # The threads' shares are added in their order, so the sum repeats bit for bit.
        shares, ids, run = by_thread.numpy(), self.schedule.edge_ids, compiling.kernels()
        if ids is None and len(shares) == 1:
            return by_thread[0]
        if by_weight is None:
            by_weight = buffers.empty(self.schedule.num_edges, self.dtype)
        into, count = by_weight.numpy(), by_thread.shape[1]
        if ids is None:
            threads.over(count, lambda a, b: run.sum_shares(shares, into, a, b))
        else:
            places = ids.numpy()
            threads.over(count, lambda a, b: run.scatter_shares(shares, places, into, a, b))
        return by_weight
