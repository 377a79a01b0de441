"""Everything that one call of a network computed, neuron by neuron and edge by edge."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from graphnn import network_summary, wiring
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.picking import pick
from graphnn.triplets import triplets

if TYPE_CHECKING:
    import pandas as pd

At = Literal["value", "preactivation"]
EdgeIds = Sequence[int] | Tensor | np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The numbers of one call of `Network.trace`; differentiable if gradients were on.

    Args:
        values: (*, N) value of every neuron.
        preactivations: (*, N) preactivation of every neuron; an input's is its value.
        outputs: What the network returned, output transform included.
        graph: The wiring.
        weight: (E,) the weights at the time of the call.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]], bias=False)
        >>> net = graphnn.Network(graph, weight=torch.tensor([1.0, 2.0, 3.0, -4.0]))
        >>> with torch.no_grad():
        ...     trace = net.trace(torch.tensor([[1.0]]))
        >>> trace.values
        tensor([[ 1.,  1.,  2., -5.]])
        >>> trace.triplets()[1]
        tensor([[[ 1.,  3., -5.],
                 [ 2., -4., -5.]]])
    """

    values: Tensor
    preactivations: Tensor
    outputs: Any
    graph: NeuronGraph
    weight: Tensor

    def triplets(self, target: At = "value") -> list[Tensor]:
        """Source value, edge weight and target value of every edge, level by level.

        Args:
            target: Whether the last place holds the target's "value" or "preactivation".

        Returns:
            For each of the levels 1 ... L - 1 a tensor (*, E_level, 3), its edges as
            `graph.edges_of_level`. For the level of a converted nn.Linear(i, o) and a batch of B,
            ``.view(B, o, i, 3)`` is the dense grid.

        Raises:
            GraphError: `target` is neither "value" nor "preactivation".
        """
        graph = self._placed
        levels = range(1, graph.num_levels)
        return [self._gather(graph.edges_of_level(level), target) for level in levels]

    def triplets_of(self, edges: EdgeIds, target: At = "value") -> Tensor:
        """The triplets of chosen edges.

        Args:
            edges: Edge ids; an id may repeat.
            target: As in `triplets`.

        Returns:
            (*, len(edges), 3).

        Raises:
            GraphError: An id is not an edge's, or `target` is unknown.
        """
        return self._gather(self._edge_ids(edges), target)

    def iter_triplets(
        self, chunk_edges: int = 65536, target: At = "value"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All triplets in pieces, for networks whose triplets do not fit in memory.

        Args:
            chunk_edges: The number of edges in a piece; at least 1.
            target: As in `triplets`.

        Returns:
            An iterator over (edge ids (n,), triplets (*, n, 3)), in the order of the levels and in
            a level by id: `triplets`, joined and cut anew. The ids are where the graph is.

        Raises:
            GraphError: `chunk_edges` is below 1, or `target` is unknown.
        """
        if not isinstance(chunk_edges, numbers.Integral) or chunk_edges < 1:
            raise GraphError(f"chunk_edges must be an integer of at least 1 (got {chunk_edges!r}).")
        self._at_target(target)
        graphs = self.graph, self._placed
        ids, own = (g.edges_in_level_order.split(int(chunk_edges)) for g in graphs)
        return (
            (edges, self._gather(placed, target))
            for edges, placed in zip(ids, own, strict=True)
            if edges.numel()
        )

    def contributions(self, edges: EdgeIds | None = None) -> Tensor:
        """What each edge adds to its target's preactivation: weight * source value.

        Args:
            edges: Edge ids, or None for all in graph order.

        Returns:
            (*, E) or (*, len(edges)).

        Raises:
            GraphError: An id is not an edge's.
        """
        source, weight = self._placed.edge_index[0], self.weight
        if edges is not None:
            ids = self._edge_ids(edges)
            source, weight = source[ids], weight[ids]
        return pick(self.values, -1, source) * weight

    def top_edges(
        self,
        k: int,
        by: Literal["contribution", "weight"] = "contribution",
        sample: int | None = None,
    ) -> Tensor:
        """The strongest edges.

        Ranks by the magnitude of the mean over samples, so contributions of opposite sign cancel.
        No (*, E) tensor is built.

        Args:
            k: How many; all of them where the network has fewer.
            by: "contribution" (weight * source value) or "weight".
            sample: One sample, counted over all leading dimensions, or None for the mean over all.

        Returns:
            (min(k, E),) int64 edge ids where the graph is, the largest magnitude first, ties by id;
            NaN counts as infinite.

        Raises:
            GraphError: `k` is negative or no integer, `by` is unknown, there is no such sample, or
                no sample at all.
        """
        if not isinstance(k, numbers.Integral) or k < 0:
            raise GraphError(f"k must be an integer and not negative (got {k!r}).")
        if by not in ("contribution", "weight"):
            raise GraphError(f"by must be 'contribution' or 'weight' (got {by!r}).")
        if sample is not None:
            sample = self._sample(sample)
        score = self.weight.detach()
        if by == "contribution":
            values = self._samples(self.values).detach()
            if values.shape[0] == 0:
                raise GraphError(
                    "edges must be ranked over at least one sample (the trace has none)."
                )
            strength = values.mean(0) if sample is None else values[sample]
            score = score * strength.index_select(0, self._placed.edge_index[0])
        magnitude = score.abs().nan_to_num_(nan=torch.inf, posinf=torch.inf)
        return largest(magnitude, int(k)).to(self.graph.device)

    def to_frame(self, sample: int = 0, edges: EdgeIds | None = None) -> pd.DataFrame:
        """One sample's edges as a pandas table.

        Args:
            sample: The sample, counted over all leading dimensions.
            edges: Edge ids, or None for all.

        Returns:
            A DataFrame with a row for each edge, indexed by its id, and the columns source, target
            (names where the graph has them, else ids), level (of the target), source_value,
            weight, target_value, target_preactivation, contribution.

        Raises:
            GraphError: There is no such sample, or an id is not an edge's.
            ImportError: pandas is not installed.
        """
        import pandas as pd

        graph = self.graph.to("cpu")
        row = self._sample(sample)
        ids = np.arange(graph.num_edges)
        if edges is not None:
            ids = self._edge_ids(edges).cpu().numpy()
        source, target = graph.edge_index.numpy()[:, ids]
        value = _array(self._samples(self.values)[row])
        preactivation = _array(self._samples(self.preactivations)[row])
        weight = _array(self.weight)[ids]
        names = graph.names
        return pd.DataFrame(
            {
                "source": source if names is None else [names[i] for i in source.tolist()],
                "target": target if names is None else [names[i] for i in target.tolist()],
                "level": graph.level.numpy()[target],
                "source_value": value[source],
                "weight": weight,
                "target_value": value[target],
                "target_preactivation": preactivation[target],
                "contribution": weight * value[source],
            },
            index=pd.Index(ids, name="edge"),
        )

    def __str__(self) -> str:
        return network_summary.of_trace(self).text()

    def _repr_html_(self) -> str:
        return network_summary.of_trace(self).html()

    def __repr__(self) -> str:
        return network_summary.one_line(self)

    @property
    def _placed(self) -> NeuronGraph:
        """The wiring where the numbers are."""
        return self.graph.to(self.values.device)

    def _samples(self, state: Tensor) -> Tensor:
        return state.reshape(-1, state.shape[-1]) if state.dim() != 2 else state

    def _sample(self, sample: int) -> int:
        count = self._samples(self.values).shape[0]
        if not isinstance(sample, numbers.Integral) or not -count <= sample < count:
            raise GraphError(
                f"sample must be an integer in 0 ... {count - 1} (got {sample!r}, and the trace "
                f"has {count} samples)."
            )
        return int(sample) % count

    def _edge_ids(self, edges: EdgeIds) -> Tensor:
        count, device = self.graph.num_edges, self.values.device
        return wiring.read_ids(edges, "edges", count, kind="edge", device=device)

    def _at_target(self, target: str) -> Tensor:
        if target not in ("value", "preactivation"):
            raise GraphError(f"target must be 'value' or 'preactivation' (got {target!r}).")
        return self.values if target == "value" else self.preactivations

    def _gather(self, edges: Tensor, target: str) -> Tensor:
        at_target = self._samples(self._at_target(target))
        values = self._samples(self.values)
        own = triplets(values, self.weight, at_target, self._placed.edge_index, edges)
        return own.reshape(*self.values.shape[:-1], *own.shape[1:])


def _array(values: Tensor) -> np.ndarray:
    values = values.detach().cpu()
    # numpy has no bfloat16, and a table gains nothing from half precision.
    return (values.float() if values.dtype.itemsize < 4 else values).numpy()


def largest(score: Tensor, k: int) -> Tensor:
    """The places of the largest numbers.

    Args:
        score: (n,) without NaN.
        k: How many; all of them where there are fewer.

    Returns:
        (min(k, n),) int64, the largest first, ties by place.
    """
    k = min(k, score.numel())
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=score.device)
    # topk breaks ties as it likes: take all above the k-th value, then the lowest ids equal to it.
    threshold = score.topk(k, sorted=True).values[-1]
    above = torch.nonzero(score > threshold).flatten()
    equal = torch.nonzero(score == threshold).flatten()[: k - above.numel()]
    ids = torch.cat([above, equal]).sort().values
    return ids[score[ids].sort(descending=True, stable=True).indices]
