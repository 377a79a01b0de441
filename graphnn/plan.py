"""The schedule of a network: flat integer arrays derived from the wiring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphnn import algorithms, exhausted
from graphnn.activation import Activation
from graphnn.graph import NeuronGraph
from graphnn.levels import Level, LevelTables, cut_levels
from graphnn.placing import exact_device, untouched


@dataclass(frozen=True, eq=False)
class ExecutionPlan:
    """A graph's schedule. Positions number the neurons by (level, id).

    Args:
        num_neurons: N.
        num_edges: E.
        num_levels: L, level 0 counted.
        level_ptr: (L + 1,) int64 offsets of the levels' positions.
        neuron_order: (N,) int64 neuron id at each position.
        neuron_position: (N,) int64 position of each neuron id.
        row_ptr: (N + 1,) int64 offsets of each position's incoming edges.
        edge_source: (E,) int32 or int64 source positions, sorted by (target position, source id).
        edge_order: (E,) edge ids in that order, of the same dtype.
        bias_slot: (N,) int64 place of each position's bias in the bias vector, or -1.
        activation_code: (N,) int64 place of each position's activation in `activation_table`.
        activation_table: The distinct activations.
        block_width: (L,) int64 number of sources that every neuron of the level reads; 0 where the
            level is not a complete bipartite block.
        block_first_edge: (L,) int64 id of a block's first edge where its edges are consecutive ids
            in sorted order, so that the block's nn.Linear weight is a view; -1 elsewhere.
        input_position: (n_in,) int64 positions of the inputs, groups one after the other.
        output_position: (n_out,) int64 positions of the outputs.
        device: Where the tensors are.
        derived: What backends derive from the plan and keep beside it.
    """

    num_neurons: int
    num_edges: int
    num_levels: int
    level_ptr: Tensor
    neuron_order: Tensor
    neuron_position: Tensor
    row_ptr: Tensor
    edge_source: Tensor
    edge_order: Tensor
    bias_slot: Tensor
    activation_code: Tensor
    activation_table: tuple[Activation, ...]
    block_width: Tensor
    block_first_edge: Tensor
    input_position: Tensor
    output_position: Tensor
    device: torch.device
    derived: dict[Any, Any] = field(default_factory=dict, repr=False)

    def to(self, device: torch.device) -> ExecutionPlan:
        """The same plan with its tensors on `device`."""
        if device == self.device:
            return self
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.__dict__.items()
        }
        # The tables are cut where the plan was made: on a meta device there is nothing to cut.
        origin = self.derived.get("origin", self)
        return ExecutionPlan(**{**moved, "device": device, "derived": {"origin": origin}})

    def __deepcopy__(self, memo: dict[int, Any]) -> ExecutionPlan:
        # Never written to, so a copied network shares its plan as it shares its graph.
        return self

    @property
    def tables(self) -> LevelTables:
        """The plan cut into levels, for backends that run level by level; made at first use."""
        return _tables(self)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels 1 ... L - 1 of `tables`."""
        return self.tables.levels


def _tables(plan: ExecutionPlan) -> LevelTables:
    if "tables" not in plan.derived:
        origin = plan.derived.get("origin", plan)
        tables = untouched(cut_levels, origin, plan.device)
        plan.derived.setdefault("tables", tables)
    return plan.derived["tables"]


# What torch.compiler.assume_constant_result does, without its four seconds of imports:
# torch.compile and torch.export take the tables as a constant instead of tracing their making.
_tables._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def build_plan(graph: NeuronGraph, device: torch.device | str | None = None) -> ExecutionPlan:
    """The execution plan of a graph on a device, built once and kept beside the graph.

    Args:
        graph: The wiring.
        device: Where the plan's tensors live; by default where the graph is. It is derived where
            the graph is, and moved.

    Returns:
        The plan. The same object for the same graph and device.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]])
        >>> graphnn.build_plan(graph).level_ptr
        tensor([0, 1, 3, 4])
    """
    own = graph.device
    where = own if device is None else exact_device(device)
    # Of two threads that build at once, the first to finish keeps its plan and both get that one.
    if ("plan", own) not in graph.derived:
        made = exhausted.built(lambda: _build(graph), own, graph.num_edges)
        graph.derived.setdefault(("plan", own), made)
    if ("plan", where) not in graph.derived:
        with torch.inference_mode(False):
            moved = graph.derived["plan", own].to(where)
        graph.derived.setdefault(("plan", where), moved)
    return graph.derived["plan", where]


# As in NeuronGraph: what is kept beside the graph must not be made of inference tensors.
@torch.inference_mode(False)
def _build(graph: NeuronGraph) -> ExecutionPlan:
    own, edges, level = algorithms.on(graph.device), graph.sorted_edges, graph.level
    neurons = torch.arange(graph.num_neurons, device=graph.device)
    level_ptr = own.row_pointers(level, graph.num_levels)
    if (level.diff() >= 0).all():
        # Neurons numbered level by level, as converters and generators do: nothing moves.
        neuron_order = position = neurons
        row_ptr, edge_source, edge_order = edges.ptr, edges.source, edges.order
    else:
        neuron_order = own.stable_order(level, level_ptr, torch.int64)
        position = torch.empty_like(neurons)
        position[neuron_order] = neurons
        row_ptr, edge_source, edge_order = own.reorder_rows(
            edges.ptr, edges.source, edges.order, neuron_order, position
        )
    width, first_edge = own.complete_levels(level_ptr, row_ptr, edge_source, edge_order)
    slot = torch.full_like(neurons, -1)
    slot[graph.bias_neurons] = neurons[: graph.bias_neurons.numel()]
    return ExecutionPlan(
        num_neurons=graph.num_neurons,
        num_edges=graph.num_edges,
        num_levels=graph.num_levels,
        level_ptr=level_ptr,
        neuron_order=neuron_order,
        neuron_position=position,
        row_ptr=row_ptr,
        edge_source=edge_source,
        edge_order=edge_order,
        bias_slot=slot[neuron_order],
        activation_code=graph.activation_code[neuron_order],
        activation_table=graph.activation_table,
        block_width=width,
        block_first_edge=first_edge,
        input_position=position[graph.input_ids],
        output_position=position[graph.output_ids],
        device=graph.device,
    )
