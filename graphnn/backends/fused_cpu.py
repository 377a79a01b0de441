"""The whole plan in compiled code on the CPU: one call forward, one call backward.

Samples are cut into tiles, and every thread takes its tiles through all levels: no barrier, and a
tile's state stays in the core's cache. Threads are Python's own (the compiled code holds no lock),
because a second OpenMP runtime beside torch's can be many times slower than one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn import activation
from graphnn.backends import compiling, threads
from graphnn.backends.base import Call, Keep, States, is_transformed
from graphnn.backends.reference import Reference
from graphnn.backends.second_order import refuse_batched_gradients, refuse_second_derivative
from graphnn.plan import ExecutionPlan

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# Bytes of a tile's state that leave room for edges in a second-level cache of 2 MiB.
_CACHE_BYTES = 3 << 19
# Edge x sample products below which a thread costs more than it saves.
_PRODUCTS_PER_THREAD = 100_000
# Edges from which on a block is faster as a matrix product, even with its samples put in order.
_LARGE_BLOCK = 4096
# What an edge costs a sample in a tile of so many samples, relative to the widest.
_COST = {64: 1.0, 32: 1.05, 16: 1.7}


@dataclass(frozen=True, eq=False)
class _Arrays:
    """A plan as the kernels read it."""

    row_ptr: np.ndarray
    source: np.ndarray
    run_ptr: np.ndarray
    code: np.ndarray
    parameter: np.ndarray
    input_position: np.ndarray
    output_position: np.ndarray
    neuron_order: np.ndarray
    neuron_position: np.ndarray


@dataclass(frozen=True, eq=False)
class _Transpose:
    """The plan's edges by source."""

    out_ptr: np.ndarray
    target: np.ndarray
    edge: np.ndarray


def _transpose(plan: ExecutionPlan) -> _Transpose:
    if "transpose" not in plan.derived:
        from graphnn import topology

        row_ptr, source = plan.row_ptr.numpy(), plan.edge_source.numpy()
        out_ptr = topology.row_pointers(source, plan.num_neurons)
        target, edge = np.empty_like(source), np.empty_like(source)
        topology.transpose_rows(row_ptr, source, out_ptr, target, edge)
        plan.derived["transpose"] = _Transpose(out_ptr, target, edge)
    return plan.derived["transpose"]


def _arrays(plan: ExecutionPlan, dtype: Any) -> _Arrays:
    key = ("fused_cpu", dtype)
    if key not in plan.derived:
        from graphnn.backends.elementwise import CODES

        table = plan.activation_table
        code, level_ptr = plan.activation_code.numpy(), plan.level_ptr.numpy()
        starts = np.flatnonzero(np.diff(code, prepend=-1))
        starts = np.union1d(starts, level_ptr[1:-1])
        starts = starts[starts >= level_ptr[1]]
        parameters = np.zeros((len(table), 2), dtype)
        for row, entry in enumerate(table):
            parameters[row, : len(entry.parameters)] = entry.parameters
        codes = np.array([CODES[entry.function] for entry in table], np.int64)
        plan.derived[key] = _Arrays(
            row_ptr=plan.row_ptr.numpy(),
            source=plan.edge_source.numpy(),
            run_ptr=np.append(starts, plan.num_neurons),
            code=codes[code[starts]],
            parameter=parameters[code[starts]],
            input_position=plan.input_position.numpy(),
            output_position=plan.output_position.numpy(),
            neuron_order=plan.neuron_order.numpy(),
            neuron_position=plan.neuron_position.numpy(),
        )
    return plan.derived[key]


@dataclass(frozen=True)
class _Tiling:
    """How a batch is cut: `width` samples a tile, `tiles` tiles, over `threads` threads."""

    width: int
    tiles: int
    threads: int


def _tiling(plan: ExecutionPlan, batch: int, bytes_per_cell: int) -> _Tiling:
    work = plan.num_edges + plan.num_neurons
    if batch == 0:
        return _Tiling(1, 0, 0)
    workers = max(1, min(torch.get_num_threads(), work * batch // _PRODUCTS_PER_THREAD))
    if batch == 1:
        return _Tiling(1, 1, 1)

    def cost(width: int) -> float:
        tiles = -(-batch // width)
        spills = plan.num_neurons * width * bytes_per_cell > _CACHE_BYTES
        return -(-tiles // workers) * width * _COST[width] * (1.25 if spills else 1.0)

    width = min(_COST, key=cost)
    tiles = -(-batch // width)
    return _Tiling(width, tiles, min(workers, tiles))


def _in_plan_order(plan: ExecutionPlan, weight: Tensor) -> np.ndarray:
    if "edges_in_order" not in plan.derived:
        ids = torch.arange(plan.num_edges, dtype=plan.edge_order.dtype)
        plan.derived["edges_in_order"] = torch.equal(plan.edge_order, ids)
    if plan.derived["edges_in_order"]:
        return _contiguous(weight)
    return weight.index_select(0, plan.edge_order).numpy()


def _row_bias(plan: ExecutionPlan, bias: Tensor) -> np.ndarray:
    given = bias.numpy()
    padded = np.zeros(given.size + 1, given.dtype)
    padded[:-1] = given
    # Slot -1, of a neuron without a bias, reads the zero at the end.
    return padded[plan.bias_slot.numpy()]


def _contiguous(tensor: Tensor) -> np.ndarray:
    # The imaginary part of a conjugate is stored with the opposite sign.
    return tensor.resolve_neg().contiguous().numpy()


class _Pass:
    """One call of the plan: how its batch is cut, and its weights in the plan's order."""

    def __init__(
        self, plan: ExecutionPlan, weight: Tensor, inputs: Tensor, keeps_state: bool
    ) -> None:
        self.plan, self.dtype = plan, _DTYPES[weight.dtype]
        self.batch = inputs.shape[0]
        # Backward, a tile's values and gradients are in use at a time.
        bytes_per_cell = weight.element_size() * (2 if keeps_state else 1)
        self.tiling = _tiling(plan, self.batch, bytes_per_cell)
        self.keeps_state = keeps_state
        self.arrays = _arrays(plan, self.dtype)
        self.weight = _in_plan_order(plan, weight)

    def forward(
        self, bias: Tensor, inputs: Tensor, offset: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n_out) outputs, and preactivations and values of the tiles, each (tiles, N * W).

        Without `keeps_state` the last two are the threads' scratch.
        """
        from graphnn.backends.lanes import TAGS

        own, tiling, keeps = self.arrays, self.tiling, self.keeps_state
        cells = self.plan.num_neurons * tiling.width
        states = np.empty((tiling.tiles if keeps else tiling.threads, cells), self.dtype)
        pres = np.empty_like(states) if keeps else states
        out = np.empty((self.batch, own.output_position.size), self.dtype)
        shift = np.empty((0, self.plan.num_neurons), self.dtype)
        if offset is not None:
            shift = _contiguous(offset)
        x, row_bias = _contiguous(inputs), _row_bias(self.plan, bias)

        def work(thread: int, first: int, end: int) -> None:
            part = slice(first, end) if keeps else slice(thread, thread + 1)
            compiling.kernels().forward_tiles(
                TAGS[tiling.width], x, own.input_position, own.output_position, own.run_ptr,
                own.code, own.parameter, own.row_ptr, own.source, self.weight, row_bias, shift,
                own.neuron_order, pres[part], states[part], out, first, end,
            )  # fmt: skip

        self._share(work, "forward")
        # An input's preactivation is its value.
        inputs_end = own.input_position.size * tiling.width
        pres[:, :inputs_end] = states[:, :inputs_end]
        return torch.from_numpy(out), torch.from_numpy(pres), torch.from_numpy(states)

    def _share(self, work: Callable[[int, int, int], None], direction: str) -> None:
        if self.batch:
            # Without tiles, to compile what is not yet compiled before threads wait for it.
            variant = (direction, self.dtype, self.tiling.width, self.arrays.source.dtype)
            compiling.announce(variant, lambda: work(0, 0, 0))
        threads.share(work, self.tiling.tiles, self.tiling.threads)

    def by_neuron(self, tiles: Tensor) -> Tensor:
        """(B, N) in neuron order, from (tiles, N * W)."""
        n = self.plan.num_neurons
        joined = tiles.view(-1, n, self.tiling.width).transpose(1, 2).reshape(-1, n)
        return joined[: self.batch, self.plan.neuron_position]

    def backward(
        self,
        pres: Tensor,
        states: Tensor,
        seeds: tuple[Tensor | None, ...],
        needs: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:
        """Gradients by weight, bias, inputs and offset.

        Args:
            pres: From `forward`.
            states: From `forward`.
            seeds: Gradients by outputs (B, n_out), values (B, N) and preactivations (B, N).
            needs: Which gradients are wanted; None stands for the others.
        """
        from graphnn.backends.lanes import TAGS

        plan, own, tiling = self.plan, self.arrays, self.tiling
        back, n = _transpose(plan), plan.num_neurons
        none = np.empty((0, n), self.dtype)
        by_output, by_value, by_pre = (
            none if seed is None else _contiguous(seed) for seed in seeds
        )
        for_parameters = needs[0] or needs[1]
        by_weight = np.zeros((tiling.threads, plan.num_edges if for_parameters else 0), self.dtype)
        by_row = np.zeros((tiling.threads, n if for_parameters else 0), self.dtype)
        by_input = np.empty((self.batch if needs[2] else 0, own.input_position.size), self.dtype)
        by_offset = np.empty((self.batch if needs[3] else 0, n), self.dtype)
        out_weight, cells = self.weight[back.edge], n * tiling.width
        pre_tiles, state_tiles = pres.numpy(), states.numpy()

        def work(thread: int, first: int, end: int) -> None:
            compiling.kernels().backward_tiles(
                TAGS[tiling.width], by_output, own.output_position, by_value, by_pre,
                own.neuron_position, own.input_position, own.run_ptr, own.code, own.parameter,
                own.row_ptr, own.source, back.out_ptr, back.target, out_weight, pre_tiles,
                state_tiles, np.empty(cells, self.dtype),
                np.empty(cells if by_pre.size else 0, self.dtype), by_weight[thread],
                by_row[thread], by_input, by_offset, first, end,
            )  # fmt: skip

        self._share(work, "backward")
        return (
            self._in_graph_order(by_weight) if needs[0] else None,
            self._by_bias(by_row) if needs[1] else None,
            torch.from_numpy(by_input) if needs[2] else None,
            torch.from_numpy(by_offset) if needs[3] else None,
        )

    def _in_graph_order(self, by_thread: np.ndarray) -> Tensor:
        # The threads' shares are added in their order, so the sum repeats bit for bit.
        summed = torch.from_numpy(by_thread[0] if len(by_thread) == 1 else by_thread.sum(0))
        if self.plan.derived["edges_in_order"]:
            return summed
        return torch.empty_like(summed).index_copy_(0, self.plan.edge_order.long(), summed)

    def _by_bias(self, by_thread: np.ndarray) -> Tensor:
        by_position = torch.from_numpy(by_thread.sum(0))
        biased = self.plan.bias_slot >= 0
        slots = self.plan.bias_slot[biased]
        return by_position.new_empty(slots.numel()).index_copy_(0, slots, by_position[biased])


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: ExecutionPlan, keep: Keep, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None,
    ) -> Any:  # fmt: skip
        ctx.call = call = _Pass(plan, weight, inputs, keeps_state=True)
        outputs, pres, states = call.forward(bias, inputs, offset)
        ctx.keep = keep
        ctx.save_for_backward(weight, bias, inputs, offset, pres, states)
        if keep == "outputs":
            return outputs
        return call.by_neuron(states), call.by_neuron(pres)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        refuse_batched_gradients("fused_cpu", gradients)
        weight, bias, inputs, offset, pres, states = ctx.saved_tensors
        with torch.no_grad():
            seeds = (gradients[0], None, None) if ctx.keep == "outputs" else (None, *gradients)
            computed = ctx.call.backward(pres, states, seeds, ctx.needs_input_grad[2:])
        if torch.is_grad_enabled():
            tensors = (weight, bias, inputs, *gradients)
            depends_on = tensors if offset is None else (*tensors, offset)
            computed = refuse_second_derivative("fused_cpu", computed, depends_on)
        return None, None, *computed


class FusedCpu:
    """Compiled code for the whole plan, over tiles of samples."""

    name = "fused_cpu"

    def unsupported(self, call: Call) -> list[str]:
        """What keeps this backend from running the call."""
        reasons = []
        if call.weight.device.type != "cpu":
            reasons.append(f"the tensors are on {call.weight.device}, not on the CPU")
        if call.weight.dtype not in _DTYPES:
            reasons.append(f"it computes in float32 and float64, not in {call.weight.dtype}")
        custom = [
            e.name for e in call.plan.activation_table if e.function not in activation.built_in()
        ]
        if custom:
            reasons.append(f"it has no code for the registered activations {', '.join(custom)}")
        if is_transformed(call):
            reasons.append(
                "inside torch.compile, torch.export or a torch.func transform, which see only "
                "torch's own operations"
            )
        return reasons

    def discouraged(self, call: Call) -> list[str]:
        """Not chosen where most edges, but not all, are in large blocks: it has no products."""
        plan = call.plan
        if _only_blocks(plan):
            return []
        share = _share_in_large_blocks(plan)
        if share <= 0.5:
            return []
        return [f"{share:.0%} of the edges are in large blocks, better run as matrix products"]

    def describe_level(self, plan: ExecutionPlan, level: int) -> str:
        """A network of blocks only runs as matrix products; any other as message passing."""
        return "matrix product" if _only_blocks(plan) else "message passing"

    def run(
        self, plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor,
        offset: Tensor | None = None, keep: Keep = "outputs",
    ) -> Tensor | States:  # fmt: skip
        """Runs the plan; see `Backend.run`."""
        if _only_blocks(plan):
            return Reference().run(plan, weight, bias, inputs, offset, keep)
        tensors = Call(plan, weight, bias, inputs, offset, keep).tensors
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return _Run.apply(plan, keep, weight, bias, inputs, offset)
        with torch.no_grad():
            call = _Pass(plan, weight, inputs, keeps_state=keep == "all")
            outputs, pres, states = call.forward(bias, inputs, offset)
            if keep == "outputs":
                return outputs
            return call.by_neuron(states), call.by_neuron(pres)


def _only_blocks(plan: ExecutionPlan) -> bool:
    if "only_blocks" not in plan.derived:
        plan.derived["only_blocks"] = bool((plan.block_width[1:] > 0).all())
    return plan.derived["only_blocks"]


def _share_in_large_blocks(plan: ExecutionPlan) -> float:
    if "share_in_large_blocks" not in plan.derived:
        sizes = plan.block_width * plan.level_ptr.diff()
        in_blocks = int(sizes[sizes >= _LARGE_BLOCK].sum())
        plan.derived["share_in_large_blocks"] = in_blocks / max(1, plan.num_edges)
    return plan.derived["share_in_large_blocks"]
