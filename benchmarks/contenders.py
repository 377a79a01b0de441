"""What graphnn's backends are measured against, each written as well as torch allows.

A contender runs level by level over whole lower levels: the one below in a layered network, all
that are read where there are skip connections. What does not change from step to step is prepared
outside the timed part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

import graphnn


class Contender(Protocol):
    """One way to run a network: `forward` and `gradients` are what is timed."""

    name: str

    def unsupported(self, batch: int, gradients: bool) -> str | None:
        """Why this contender is not run, or None."""
        ...

    def arranged(self, samples: Tensor) -> Tensor:
        """(B, n) inputs, or gradients by outputs, as this contender takes them."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, with gradients where they are on."""
        ...

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """The gradients by all weights and biases, in this contender's own form."""
        ...

    def in_graph_order(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The same by edge (E,) and by `bias_neurons` (K,)."""
        ...


class Backend:
    """A backend of graphnn."""

    def __init__(self, net: graphnn.Network, name: str) -> None:
        self.net, self.name = net, name

    def unsupported(self, batch: int, gradients: bool) -> str | None:
        """The reference holds all messages, and for gradients keeps what they were made of."""
        gigabytes = (3 if gradients else 2) * 4e-9 * self.net.graph.num_edges * batch
        if self.name == "reference" and not bool((self.net.plan.block_width[1:] > 0).all()):
            return f"needs about {gigabytes:.0f} GB" if gigabytes > 4 else None
        return None

    def arranged(self, samples: Tensor) -> Tensor:
        """As they are."""
        return samples

    def forward(self, x: Tensor) -> Tensor:
        """Runs the network."""
        self.net.backend = self.name
        return self.net(x)

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """By `weight` and `bias`."""
        return torch.autograd.grad(self.forward(x), [self.net.weight, self.net.bias], seed)

    def in_graph_order(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As they are."""
        return gradients[0], gradients[1]


@dataclass(frozen=True, eq=False)
class Level:
    """One level as a sparse matrix over whole lower levels.

    Args:
        pool: The lower levels that it reads, ascending.
        neurons: (n,) ids.
        edges: (E_l,) ids, by (row, column).
        row: (E_l,) place of the target in the level.
        column: (E_l,) place of the source in the joined pool.
        shape: (n, neurons of the pool).
        relu: Whether its neurons are relu; else they are identity.
    """

    pool: list[int]
    neurons: Tensor
    edges: Tensor
    row: Tensor
    column: Tensor
    shape: tuple[int, int]
    relu: bool


def levels_of(graph: graphnn.NeuronGraph) -> list[Level]:
    """Levels 1 ... L - 1; every level has one activation, and every neuron of it a bias."""
    members = [torch.nonzero(graph.level == i).flatten() for i in range(graph.num_levels)]
    members[0] = graph.input_ids
    place = torch.empty(graph.num_neurons, dtype=torch.long)
    for ids in members:
        place[ids] = torch.arange(ids.numel())
    levels = []
    for index in range(1, graph.num_levels):
        edges = graph.edges_of_level(index)
        source, target = graph.edge_index[:, edges]
        pool = graph.level[source].unique().tolist()
        start = torch.zeros(graph.num_levels, dtype=torch.long)
        width = 0
        for lower in pool:
            start[lower], width = width, width + members[lower].numel()
        row, column = place[target], start[graph.level[source]] + place[source]
        order = torch.argsort(row * width + column)
        activations = {graph.activation[i] for i in members[index].tolist()}
        assert len(activations) == 1, "a level with several activations"
        shape = (members[index].numel(), width)
        levels.append(
            Level(
                pool,
                members[index],
                edges[order],
                row[order],
                column[order],
                shape,
                activations == {"relu"},
            )
        )
    return levels


class _Levels:
    """What both torch contenders share: the walk, the outputs and the order of the gradients."""

    axis: int

    def __init__(self, net: graphnn.Network) -> None:
        graph = net.graph
        self.levels, self.graph = levels_of(graph), graph
        slot = torch.full((graph.num_neurons,), -1)
        slot[graph.bias_neurons] = torch.arange(graph.bias_neurons.numel())
        self.bias_slots = [slot[level.neurons] for level in self.levels]
        self.biases = [net.bias.detach()[slots] for slots in self.bias_slots]
        # The outputs: usually the last level as it is; else rows of all levels joined.
        joined = torch.cat([graph.input_ids, *[level.neurons for level in self.levels]])
        place = torch.empty_like(joined)
        place[joined] = torch.arange(joined.numel())
        is_last = torch.equal(graph.output_ids, self.levels[-1].neurons)
        self.output_places = None if is_last else place[graph.output_ids]

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Runs the network level by level."""
        states = [x]
        for index, level in enumerate(self.levels):
            parts = [states[lower] for lower in level.pool]
            pool = parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)
            pre = self.product(index, pool)
            states.append(pre.relu() if level.relu else pre)
        if self.output_places is None:
            return states[-1]
        return torch.cat(states, self.axis).index_select(self.axis, self.output_places)

    def collected(self, by_edge: Sequence[Tensor], by_bias: Sequence[Tensor]
                  ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(E,) and (K,) in graph order, from each level's."""
        weight = torch.empty(self.graph.num_edges)
        bias = torch.empty(self.graph.bias_neurons.numel())
        for level, slots, edge, own in zip(
            self.levels, self.bias_slots, by_edge, by_bias, strict=True
        ):
            weight[level.edges] = edge
            bias[slots] = own
        return weight, bias


class MaskedLinear(_Levels):
    """F.linear with zeros for the missing edges; they stay zero because their gradient is masked.

    A weight that starts masked need not be masked again in every forward pass.
    """

    axis = 1

    def __init__(self, net: graphnn.Network) -> None:
        super().__init__(net)
        self.is_full = all(x.edges.numel() == x.shape[0] * x.shape[1] for x in self.levels)
        self.name = "nn.Sequential" if self.is_full else "masked Linear"
        self.weights: list[Tensor] = []
        self.masks: list[Tensor] = []
        for level in self.levels:
            matrix, mask = torch.zeros(level.shape), torch.zeros(level.shape)
            matrix[level.row, level.column] = net.weight.detach()[level.edges]
            mask[level.row, level.column] = 1
            self.weights.append(matrix.requires_grad_())
            self.masks.append(mask)
        self.biases = [bias.requires_grad_() for bias in self.biases]

    def unsupported(self, batch: int, gradients: bool) -> str | None:
        """Runs every network."""
        return None

    def arranged(self, samples: Tensor) -> Tensor:
        """As they are."""
        return samples

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        return F.linear(pool, self.weights[index], self.biases[index])

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """By every level's weights, then by every level's biases."""
        found = torch.autograd.grad(self.forward(x), [*self.weights, *self.biases], seed)
        if not self.is_full:
            for gradient, mask in zip(found, self.masks, strict=False):
                gradient.mul_(mask)
        return found

    def in_graph_order(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """By edge and by biased neuron."""
        count = len(self.levels)
        by_edge = [
            gradient[level.row, level.column]
            for level, gradient in zip(self.levels, gradients[:count], strict=True)
        ]
        return self.collected(by_edge, gradients[count:])


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one; torch's own gradient would transpose in every step."""

    @staticmethod
    def forward(ctx: Any, matrix: Matrix, values: Tensor, pool: Tensor) -> Tensor:
        own = matrix.with_values(values)
        ctx.matrix = matrix
        ctx.save_for_backward(values, pool)
        return own @ pool

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        values, pool = ctx.saved_tensors
        own = ctx.matrix.with_values(values)
        by_values = torch.sparse.sampled_addmm(own, gradients[0], pool.t(), beta=0).values()
        by_pool = None
        if ctx.needs_input_grad[2]:
            by_pool = ctx.matrix.transposed(values) @ gradients[0]
        return None, by_values, by_pool


class Matrix:
    """The places of a CSR matrix and of its transpose, int32."""

    def __init__(self, level: Level) -> None:
        self.shape = level.shape
        self.rows = _pointers(level.row, self.shape[0])
        self.columns = level.column.int()
        self.order = torch.argsort(level.column * self.shape[0] + level.row)
        self.back_rows = _pointers(level.column, self.shape[1])
        self.back_columns = level.row[self.order].int()

    def with_values(self, values: Tensor) -> Tensor:
        """The matrix that holds these (E_l,) values."""
        return torch.sparse_csr_tensor(
            self.rows, self.columns, values, self.shape, check_invariants=False
        )

    def transposed(self, values: Tensor) -> Tensor:
        """Its transpose."""
        return torch.sparse_csr_tensor(
            self.back_rows, self.back_columns, values.index_select(0, self.order),
            self.shape[::-1], check_invariants=False,
        )  # fmt: skip


def _pointers(rows: Tensor, count: int) -> Tensor:
    return F.pad(torch.bincount(rows, minlength=count).cumsum(0), (1, 0)).int()


class SparseCsr(_Levels):
    """torch.sparse CSR (MKL), neuron-major, with a gradient that is made of its products."""

    name = "sparse CSR"
    axis = 0

    def __init__(self, net: graphnn.Network) -> None:
        super().__init__(net)
        weight = net.weight.detach()
        self.matrices = [Matrix(level) for level in self.levels]
        self.values = [weight[level.edges].requires_grad_() for level in self.levels]
        self.biases = [bias[:, None].requires_grad_() for bias in self.biases]

    def unsupported(self, batch: int, gradients: bool) -> str | None:
        """Runs every network."""
        return None

    def arranged(self, samples: Tensor) -> Tensor:
        """Neuron-major."""
        return samples.t().contiguous()

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        own = _Product.apply(self.matrices[index], self.values[index], pool)
        return own + self.biases[index]  # pyright: ignore[reportOperatorIssue]

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """By every level's weights, then by every level's biases."""
        return torch.autograd.grad(self.forward(x), [*self.values, *self.biases], seed)

    def in_graph_order(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """By edge and by biased neuron."""
        count = len(self.levels)
        return self.collected(gradients[:count], [bias.flatten() for bias in gradients[count:]])


def contenders(net: graphnn.Network) -> list[Any]:
    """The backends of graphnn, and torch's two ways to run the same network."""
    own = [Backend(net, name) for name in graphnn.backends()]
    return [*own, MaskedLinear(net), SparseCsr(net)]
