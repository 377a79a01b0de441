"""What the GPU kernels read of a plan, made on the plan's device out of torch's sorts and scans."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from graphnn import algorithms
from graphnn.activation import Activation
from graphnn.backends.fused_gpu_fours import Fours, find
from graphnn.plan import ExecutionPlan

# Edges from which on a block is run as a matrix product.
LARGE_BLOCK = 1 << 14
# Elements whose indices are made int64 at a time, where torch insists on that.
_PIECE = 1 << 26
_FROM_VALUE = {"identity", "relu", "relu6", "selu", "clamp"}


@dataclass(frozen=True, eq=False)
class Product:
    """A large complete block: its rows are an nn.Linear of some lower rows.

    Args:
        shape: (neurons, sources), the shape of its nn.Linear weight.
        rows: Its positions.
        sources: The positions that it reads, in the order of the weight's columns.
        edges: The ids of its edges, row-major over the weight.
    """

    shape: tuple[int, int]
    rows: slice
    sources: slice | Tensor
    edges: slice | Tensor


@dataclass(frozen=True, eq=False)
class Transpose:
    """The edges that are in no product, sorted by (source, target) position.

    Args:
        ptr: (N + 1,) offsets of each position's outgoing edges.
        target: (E',) target positions.
        edge: (E',) edge ids.
        level_ptr: L + 1 offsets of the levels' outgoing edges.
    """

    ptr: Tensor
    target: Tensor
    edge: Tensor
    level_ptr: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Ring:
    """A state that is shorter than the network: position p is row p % `size`.

    Args:
        size: Rows, enough for a level and all lower neurons that it or a later one reads.
        source: (E,) rows of the sources.
        outputs: Rows of the outputs.
    """

    size: int
    source: Tensor
    outputs: Tensor | slice


class Schedule:
    """A plan as the kernels read it; lives beside the plan. What inference does without is lazy."""

    def __init__(self, plan: ExecutionPlan) -> None:
        self.plan = plan
        self.level_ptr: tuple[int, ...] = tuple(plan.level_ptr.tolist())
        small = torch.int32 if plan.num_edges < 2**31 else torch.int64
        self.row_ptr = plan.row_ptr.to(small)
        self.levels = plan.level_ptr.to(torch.int32)
        self.table = plan.activation_code.to(torch.int32)
        self.edge_ptr: tuple[int, ...] = tuple(plan.row_ptr[plan.level_ptr].tolist())
        self.products = self._find_products()
        self.widest = max(b - a for a, b in zip(self.level_ptr, self.level_ptr[1:], strict=False))
        self.in_order = _counts_up(plan.edge_order)
        self.inputs_in_order = _counts_up(plan.input_position)
        self.output_rows = _as_slice(plan.output_position)
        self.outputs_repeat = plan.output_position.unique().numel() < plan.output_position.numel()
        biased = torch.nonzero(plan.bias_slot >= 0).flatten()
        self.num_biases = biased.numel()
        self.bias_position = biased[plan.bias_slot[biased].argsort()]
        # Neurons without a bias read the zero that is put after the last one.
        self.bias_slot = plan.bias_slot.where(plan.bias_slot >= 0, self.num_biases)
        self.seeded = self._seeded()
        self.keeps_pre = any(not _slope_is_in_value(entry) for entry in plan.activation_table)
        self._kinds: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    @property
    def only_products(self) -> bool:
        """Whether every level is a matrix product."""
        return len(self.products) == self.plan.num_levels - 1

    def kinds(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(codes, parameters) of the plan's activations, two parameters of `dtype` each."""
        if dtype not in self._kinds:
            from graphnn.backends.fused_gpu_activations import NAMES

            entries = self.plan.activation_table
            codes = [NAMES.index(entry.function) for entry in entries]
            padded = [(*entry.parameters, 1.0, 1.0)[:2] for entry in entries]
            where = self.plan.device
            self._kinds[dtype] = (
                torch.tensor(codes, dtype=torch.int32, device=where),
                torch.tensor(padded, dtype=dtype, device=where),
            )
        return self._kinds[dtype]

    @cached_property
    def used(self) -> int:
        """The set of activation codes that occur, as bits."""
        from graphnn.backends.fused_gpu_activations import NAMES

        return sum({1 << NAMES.index(entry.function) for entry in self.plan.activation_table})

    def _find_products(self) -> dict[int, Product]:
        plan, found = self.plan, {}
        firsts = plan.block_first_edge.tolist()
        for level, width in enumerate(plan.block_width.tolist()):
            top, end = self.level_ptr[level : level + 2]
            if width * (end - top) < LARGE_BLOCK:
                continue
            start, stop = self.edge_ptr[level : level + 2]
            sources = plan.edge_source[start : start + width].long()
            low = int(sources[0])
            in_order = _counts_up(sources - low)
            first = firsts[level]
            found[level] = Product(
                shape=(end - top, width),
                rows=slice(top, end),
                sources=slice(low, low + width) if in_order else sources,
                edges=slice(first, first + stop - start)
                if first >= 0
                else plan.edge_order[start:stop].long(),
            )
        return found

    def _seeded(self) -> tuple[bool, ...]:
        """Whether a level's gradient begins with more than what its outgoing edges bring."""
        starts = self.plan.level_ptr[1:].contiguous()
        readers = [self.plan.output_position]
        for product in self.products.values():
            own = product.sources
            if isinstance(own, slice):
                own = torch.arange(own.start, own.stop, device=starts.device)
            readers.append(own)
        levels = set(torch.bucketize(torch.cat(readers), starts, right=True).unique().tolist())
        return tuple(level in levels for level in range(self.plan.num_levels))

    @cached_property
    def transpose(self) -> Transpose:
        """The plan's edges by source."""
        plan = self.plan
        ids = torch.arange(plan.num_neurons, dtype=plan.edge_source.dtype, device=plan.device)
        target = torch.repeat_interleave(ids, plan.row_ptr.diff(), output_size=plan.num_edges)
        source, edge = plan.edge_source, plan.edge_order
        if self.products:
            in_product = torch.zeros(plan.num_neurons, dtype=torch.bool, device=plan.device)
            for product in self.products.values():
                in_product[product.rows] = True
            keep = torch.nonzero(~in_product.index_select(0, target)).flatten()
            source, target, edge = (part.index_select(0, keep) for part in (source, target, edge))
        own = algorithms.on(plan.device)
        ptr = own.row_pointers(source, plan.num_neurons)
        # Stable, so that a source's edges keep the order of their targets.
        order = own.stable_order(source, ptr, edge.dtype)
        return Transpose(
            ptr=ptr.to(self.row_ptr.dtype),
            target=target.index_select(0, order),
            edge=edge.index_select(0, order),
            level_ptr=tuple(ptr[plan.level_ptr].tolist()),
        )

    @cached_property
    def fours(self) -> Fours:
        """The neurons that are computed four at a time."""
        plan = self.plan
        return find(plan.level_ptr, plan.row_ptr, plan.edge_source, self.products)

    @cached_property
    def edges_of_fours(self) -> int:
        """Edges of levels that are computed four neurons at a time."""
        ends = pairwise(self.edge_ptr)
        return sum(end - start for k, (start, end) in enumerate(ends) if self.fours.count(k))

    @cached_property
    def ring(self) -> Ring:
        """The rows that inference needs."""
        plan, count = self.plan, self.plan.num_neurons
        size = count if self.products else self._window()
        # A little less memory is not worth the second copy of the sources.
        if 2 * size > count:
            return Ring(count, plan.edge_source, self.output_rows)
        return Ring(size, plan.edge_source % size, _as_slice(plan.output_position % size))

    def _window(self) -> int:
        """The most positions from the lowest that is read later to the end of a level."""
        plan = self.plan
        lowest = torch.full((plan.num_levels,), plan.num_neurons, device=plan.device)
        # Level by level, because a level's number for every edge would take 8 bytes an edge.
        for level, (start, end) in enumerate(pairwise(self.edge_ptr)):
            if end > start:
                lowest[level] = plan.edge_source[start:end].amin()
        if plan.output_position.numel():
            lowest[-1] = torch.minimum(lowest[-1], plan.output_position.min())
        later = lowest.flip(0).cummin(0).values.flip(0)
        start = torch.minimum(later, plan.level_ptr[:-1])
        return int((plan.level_ptr[1:] - start).max())

    def in_graph_order(self, by_edge: Tensor, dtype: torch.dtype) -> Tensor:
        """(E,) zeros but for the transpose's edges, from their numbers (E',)."""
        edges = self.transpose.edge
        make = by_edge.new_zeros if self.products else by_edge.new_empty
        ordered = make(self.plan.num_edges, dtype=dtype)
        for piece, own in zip(edges.split(_PIECE), by_edge.split(_PIECE), strict=True):
            ordered.index_copy_(0, piece.long(), own.to(dtype))
        return ordered


def _as_slice(ids: Tensor) -> Tensor | slice:
    """The ids, as a slice where each is one more than the one before."""
    first = int(ids[0]) if ids.numel() else 0
    return slice(first, first + ids.numel()) if _counts_up(ids - first) else ids


def _counts_up(ids: Tensor) -> bool:
    return torch.equal(ids, torch.arange(ids.numel(), dtype=ids.dtype, device=ids.device))


def _slope_is_in_value(entry: Activation) -> bool:
    """Whether the slope follows from the value, so that the preactivation need not be kept."""
    if entry.function == "leaky_relu":
        return entry.parameters[0] >= 0
    if entry.function == "elu":
        return entry.parameters[0] > 0
    return entry.function in _FROM_VALUE


@torch.inference_mode(False)
def schedule(plan: ExecutionPlan) -> Schedule:
    """A plan's schedule, made once and kept beside it."""
    if "fused_gpu" not in plan.derived:
        plan.derived.setdefault("fused_gpu", Schedule(plan))
    return plan.derived["fused_gpu"]
