"""Edges as columns, read from rows, ids or a frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from graphnn import algorithms, wiring
from graphnn.errors import FormatError, GraphError


@dataclass(frozen=True, eq=False)
class EdgeTable:
    """Edges as columns, with what error messages need to point at one of them.

    Args:
        edge_index: (2, E) int64 ids, row 0 the sources; on a device only where `weight` is None.
        weight: (E,) float64, finite; None where the edges have no weights.
        names: The label of every id; None where the ids themselves were given.
        numbers: (E,) int64 number of the row or line that each edge came from, where `edge_index`
            is; None: its place.
        path: The file that the edges came from, or None.
        unit: What an edge came from is called: "row", "line" or "entry".
        num_neurons: N, where more neurons than those that occur are known of, else None.
    """

    edge_index: Tensor
    weight: np.ndarray | None = None
    names: tuple[Hashable, ...] | None = None
    numbers: Tensor | None = None
    path: Path | None = None
    unit: str = "row"
    num_neurons: int | None = None

    def place(self, edge: int) -> str:
        """Where an edge came from, as messages name it: "row 3" or "line 5"."""
        return f"{self.unit} {edge if self.numbers is None else int(self.numbers[edge])}"

    def refuse(self, message: str) -> NoReturn:
        """Raises a GraphError, or for a file a FormatError that names it."""
        if self.path is None:
            raise GraphError(message)
        raise FormatError(f"{self.path}: {message}")

    def check_weights(self) -> None:
        """Refuses NaN and infinite weights."""
        if self.weight is None or np.isfinite(self.weight).all():
            return
        edge = int(np.argmin(np.isfinite(self.weight)))
        self.refuse(
            f"weights must be finite, but that of {self.place(edge)} is {self.weight[edge]}."
        )

    def check_duplicates(self) -> None:
        """Refuses two edges with the same source and target."""
        own = algorithms.on(self.edge_index.device)
        first, later = own.first_duplicate(*self._sorted_by_target())
        if later < 0:
            return
        source, target = (wiring.describe(i, self.names) for i in self.edge_index[:, first])
        self.refuse(
            f"no two edges may have the same source and target, but {self.place(first)} and "
            f"{self.place(later)} both go from {source} to {target}. Remove one, or pass "
            "coalesce='sum' to add duplicates up."
        )

    def coalesced(self) -> EdgeTable:
        """The table with every pair once, where it first occurred, its weights summed."""
        ptr, source, order = self._sorted_by_target()
        starts = torch.ones_like(order, dtype=torch.bool)
        torch.ne(source[1:], source[:-1], out=starts[1:])
        starts[ptr[:-1][ptr.diff() > 0]] = True
        starts = starts.nonzero().flatten()
        # Within a pair the order is that of the edges, so its first one stands at the start.
        edges, kept = order[starts].sort()
        total = None
        if self.weight is not None:
            sums = np.add.reduceat(self.weight[order.numpy()], starts.numpy())
            total = sums[kept.numpy()]
        numbers = edges if self.numbers is None else self.numbers[edges]
        return replace(self, edge_index=self.edge_index[:, edges], weight=total, numbers=numbers)

    def _sorted_by_target(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row pointers, source ids and edge ids of the (target, source) order, ties by edge id."""
        own = algorithms.on(self.edge_index.device)
        source, target = self.edge_index
        num_neurons = int(self.edge_index.max()) + 1 if self.edge_index.numel() else 0
        ptr = own.row_pointers(target, num_neurons)
        order, sorted_source = own.sort_by_target(source, target, ptr, torch.int64)
        return ptr, sorted_source, order


def read_ids(edges: Tensor | np.ndarray) -> EdgeTable:
    """Reads a (2, E) integer tensor or array, whose ids stay what they are."""
    try:
        # What is below says where labels go.
        ids = wiring.read_edge_index(edges, for_labels="")
        # Negative ids are refused here; there is no upper bound yet.
        wiring.check_range(ids, int(ids.max()) + 1 if ids.numel() else 0)
    except GraphError as error:
        raise GraphError(
            f"edges given as a tensor or array must be neuron ids: {error} Labels and weights are "
            "given as rows (source, target[, weight]), in a list or a DataFrame."
        ) from None
    return EdgeTable(ids)


def read_matrix(matrix: Any) -> EdgeTable:
    """Reads one of scipy's sparse matrices: entry [i, j] is the weight of the edge i -> j."""
    entries = matrix.tocoo()
    if entries.ndim != 2 or entries.shape[0] != entries.shape[1]:
        raise GraphError(
            "a matrix of edges must be square, entry [source, target] an edge's weight (got shape "
            f"{tuple(entries.shape)}). An (out, in) mask between two levels goes to "
            "graphnn.from_masks."
        )
    if entries.shape[0] == 0:
        raise GraphError("edges must hold at least one neuron (got an empty matrix).")
    edge_index = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    table = EdgeTable(edge_index, unit="entry", num_neurons=entries.shape[0])
    return table if entries.dtype == np.bool_ else with_weights(table, entries.data)


def read_rows(edges: Any) -> EdgeTable:
    """Reads any iterable of tuples or lists (source, target[, weight]), once."""
    # What is a mapping and a set too is a set of edges that can be asked for their attributes, such
    # as networkx's views; a dict's values would be lost.
    is_view = isinstance(edges, Mapping) and isinstance(edges, Set)
    if (isinstance(edges, Mapping) and not is_view) or not isinstance(edges, Iterable):
        raise GraphError(
            "edges must be an iterable of (source, target) or (source, target, weight), a (2, E) "
            "integer tensor or array, one of scipy's sparse matrices, a pandas DataFrame, or the "
            f"path of a CSV or TSV file (got {type(edges).__name__})."
        )
    rows = list(edges)
    if not rows:
        raise GraphError(
            f"edges must hold at least one edge (got an empty {type(edges).__name__})."
        )
    columns = _check_rows(rows)
    if is_view and columns == 3:
        raise GraphError(
            "the edges of a multigraph end with a key, which is no weight (got "
            f"{_shown(rows[0])} from {type(edges).__name__}). Pass graph.edges(data='weight') or, "
            "to have the weights drawn, graph.edges()."
        )
    cells = list(chain.from_iterable(rows))
    weights = cells[2::columns] if columns == 3 else None
    if columns == 3:
        del cells[2::columns]
    # A label that is not yet in the dict gets the next id: one look-up for each.
    place: defaultdict[Any, int] = defaultdict(count().__next__)
    try:
        codes = np.fromiter(map(place.__getitem__, cells), np.int64, len(cells))
    except TypeError:
        refuse_unhashable(cells)
    check_types(list(place), cells, codes)
    names = plain_names(list(place), codes)
    edge_index = np.ascontiguousarray(codes.reshape(-1, 2).T)
    table = EdgeTable(torch.from_numpy(edge_index), names=names)
    return table if weights is None else with_weights(table, weights)


def _check_rows(rows: list[Any]) -> int:
    """The rows' common length, 2 or 3; refuses rows that are not tuples or lists of it."""
    # Sets of types and lengths are quick to make; a row is looked for only after a failure.
    wrong = {kind for kind in set(map(type, rows)) if not issubclass(kind, tuple | list)}
    if wrong:
        i = next(i for i, row in enumerate(rows) if type(row) in wrong)
        hint = ""
        if isinstance(rows[i], Tensor | np.ndarray):
            hint = " Pass ids as one (2, E) tensor, such as torch.stack([sources, targets])."
        raise GraphError(
            f"every edge must be a tuple (source, target) or (source, target, weight), but row {i} "
            f"is {_shown(rows[i])}.{hint}"
        )
    lengths = set(map(len, rows))
    if lengths in ({2}, {3}):
        return lengths.pop()
    if lengths == {2, 3}:
        with_weight = next(i for i, row in enumerate(rows) if len(row) == 3)
        without = next(i for i, row in enumerate(rows) if len(row) == 2)
        raise GraphError(
            f"either all edges must have a weight or none, but row {with_weight} has one and row "
            f"{without} has none: {_shown(rows[without])}."
        )
    i = next(i for i, row in enumerate(rows) if len(row) not in (2, 3))
    hint = ""
    if len(rows) == 2 and len(lengths) == 1:
        hint = " If these are the two rows of an edge_index, pass torch.tensor(edges)."
    raise GraphError(
        f"every edge must be a tuple (source, target) or (source, target, weight), but row {i} has "
        f"{len(rows[i])} elements: {_shown(rows[i])}.{hint}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"the {type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def role_of(cell: int) -> str:
    """What a cell of the interleaved sources and targets is."""
    return "target" if cell % 2 else "source"


def refuse_unhashable(labels: Iterable[Any]) -> NoReturn:
    """Raises the error that names the first label, of interleaved ones, without a hash."""
    for i, label in enumerate(labels):
        try:
            hash(label)
        except TypeError:
            raise GraphError(
                f"labels must be hashable, but the {role_of(i)} of row {i // 2} is {_shown(label)}."
            ) from None
    raise AssertionError("every label is hashable")


def check_types(labels: Sequence[Any], cells: Iterable[Any], codes: np.ndarray) -> None:
    """Refuses labels that are equal though one is a bool, one an int or one a float.

    Args:
        labels: The distinct labels.
        cells: The labels of all rows' sources and targets, interleaved.
        codes: (2 E,) their places among the distinct ones.
    """
    if not any(isinstance(label, bool | int | float) for label in labels):
        return
    kinds = [_number_kind(label) for label in labels]
    for i, (cell, code) in enumerate(zip(cells, codes.tolist(), strict=True)):
        if type(cell) is not type(labels[code]) and _number_kind(cell) != kinds[code]:
            raise GraphError(
                "labels of different types must not be equal, but the "
                f"{role_of(i)} of row {i // 2} is {_shown(cell)} and elsewhere there is "
                f"{_shown(labels[code])}. Use labels of one type."
            )


def _number_kind(label: Any) -> type | None:
    plain = label.item() if isinstance(label, np.generic) else label
    return type(plain) if isinstance(plain, bool | int | float) else None


def plain_names(labels: list[Any], codes: np.ndarray) -> tuple[Hashable, ...]:
    """The labels as plain Python values; refuses those that cannot name a neuron.

    Args:
        labels: The distinct labels.
        codes: (2 E,) place of each row's source and target among them, interleaved.
    """
    if set(map(type, labels)) <= {str, int}:
        return tuple(labels)
    names = []
    for i, label in enumerate(labels):
        if label is None or not wiring.is_label(label):
            first = int(np.argmax(codes == i))
            hint = ""
            if isinstance(label, Tensor):
                hint = " Tensors are equal only to themselves; use label.item()."
            raise GraphError(
                "labels must be values that equal themselves, such as strings or integers, but "
                f"the {role_of(first)} of row {first // 2} is {_shown(label)}.{hint}"
            )
        # Dates stay what they are: their plain form depends on their unit.
        plain = isinstance(label, np.generic) and label.dtype.kind not in "mM"
        names.append(label.item() if plain else label)
    return tuple(names)


def with_weights(table: EdgeTable, values: Sequence[Any]) -> EdgeTable:
    """The table with these E weights."""
    try:
        weight = np.array(values)
    except (ValueError, TypeError, RuntimeError):
        weight = np.array(None)
    # Whatever numpy does not take for a column of numbers is read one by one, or refused.
    if weight.dtype.kind not in "fiu" or weight.ndim != 1:
        weight = np.array([_number(table, i, value) for i, value in enumerate(values)])
    table = replace(table, weight=weight.astype(np.float64))
    table.check_weights()
    return table


def _number(table: EdgeTable, edge: int, value: Any) -> float:
    if not isinstance(value, str | bytes | bool | np.bool_ | np.complexfloating):
        try:
            return float(value.detach() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
    table.refuse(
        f"weights must be finite numbers, but that of {table.place(edge)} is {_shown(value)}."
    )
