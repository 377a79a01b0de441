"""Edges from pandas frames."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch

from graphnn.edge_columns import Columns
from graphnn.edge_table import (
    EdgeTable,
    check_types,
    plain_names,
    refuse_unhashable,
    with_weights,
)
from graphnn.errors import GraphError


def read_frame(frame: Any, columns: Columns) -> EdgeTable:
    """Reads a pandas DataFrame that has these columns."""
    import pandas

    found = list(frame.columns)
    own = columns.find(found)
    if own is None:
        raise GraphError(
            f"a frame of edges must have one column each for {columns.shown} (got the columns "
            f"{', '.join(map(repr, found)) or 'none'}). Rename them with frame.rename(), or name "
            "yours in columns=."
        )
    if len(frame) == 0:
        raise GraphError("edges must hold at least one edge (got an empty frame).")
    source, target = frame[found[own[0]]], frame[found[own[1]]]
    edge_index, labels = _number_columns(source, target)
    names = plain_names(labels, edge_index.T.reshape(-1))
    table = EdgeTable(torch.from_numpy(edge_index), names=names)
    if len(own) == 2:
        return table
    weight = frame[found[own[2]]]
    if pandas.api.types.is_numeric_dtype(weight) and not pandas.api.types.is_bool_dtype(weight):
        return with_weights(table, weight.to_numpy(np.float64, na_value=np.nan))
    return with_weights(table, weight.tolist())


def _number_columns(source: Any, target: Any) -> tuple[np.ndarray, list[Any]]:
    """(2, E) ids of two columns' labels by first appearance, and the label of each id."""
    import pandas

    from graphnn import numbering

    if source.dtype != target.dtype:
        # A common dtype could change labels, such as 1 to 1.0.
        source, target = source.astype(object), target.astype(object)
    # Each column by itself: one table of all labels is looked up twice as slowly.
    codes, uniques = [], []
    for role, column in (("source", source), ("target", target)):
        try:
            own_codes, own_labels = pandas.factorize(column)
        except TypeError:
            refuse_unhashable(_interleaved(source, target))
        if own_codes.min() < 0:
            row = int(np.argmin(own_codes))
            raise GraphError(
                f"every edge must have labels, but the {role} of row {row} is missing."
            )
        codes.append(own_codes)
        uniques.append(own_labels)
    # As series of the columns' dtype: an Index of objects would make numbers of them.
    joined = pandas.concat([pandas.Series(own, dtype=source.dtype) for own in uniques])
    place, distinct = pandas.factorize(joined)
    in_source, in_target = np.split(place, [len(uniques[0])])
    edge_index, order = numbering.number_rows(
        codes[0], codes[1], in_source, in_target, len(distinct)
    )
    labels = distinct.take(order).tolist()
    if source.dtype == object:
        check_types(labels, _interleaved(source, target), edge_index.T.reshape(-1))
    return edge_index, labels


def _interleaved(source: Any, target: Any) -> Iterator[Any]:
    return chain.from_iterable(zip(source, target, strict=True))
