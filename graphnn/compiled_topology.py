"""`topology`'s compiled loops, for tensors on the CPU; each does what `device_topology` says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphnn import topology


def scan_edges(source: Tensor, target: Tensor) -> tuple[bool, bool, int]:
    """As `device_topology.scan_edges`."""
    return topology.scan_edges(source.numpy(), target.numpy())


def row_pointers(ids: Tensor, num_rows: int) -> Tensor:
    """As `device_topology.row_pointers`."""
    try:
        return torch.from_numpy(topology.row_pointers(ids.numpy(), num_rows))
    except ValueError as error:
        # numpy's word for more rows than there are addresses.
        raise MemoryError(str(error)) from None


def stable_order(ids: Tensor, ptr: Tensor, dtype: torch.dtype) -> Tensor:
    """As `device_topology.stable_order`."""
    order = torch.empty(ids.numel(), dtype=dtype, device="cpu")
    topology.stable_order(ids.numpy(), ptr.numpy(), order.numpy())
    return order


def sort_by_target(
    source: Tensor, target: Tensor, ptr: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As `device_topology.sort_by_target`."""
    order = torch.empty(source.numel(), dtype=dtype, device="cpu")
    sorted_source = torch.empty_like(order)
    source_ptr = topology.row_pointers(source.numpy(), ptr.numel() - 1)
    topology.sort_by_target(
        source.numpy(), target.numpy(), source_ptr, ptr.numpy(), order.numpy(),
        sorted_source.numpy(),
    )  # fmt: skip
    return order, sorted_source


def first_duplicate(ptr: Tensor, sorted_source: Tensor, order: Tensor) -> tuple[int, int]:
    """As `device_topology.first_duplicate`."""
    return topology.first_duplicate(ptr.numpy(), sorted_source.numpy(), order.numpy())


def levels(ptr: Tensor, sorted_source: Tensor, is_input: Tensor, ascends: bool) -> Tensor | None:
    """As `device_topology.levels`."""
    rows = ptr.numpy(), sorted_source.numpy(), is_input.numpy()
    if ascends:
        return torch.from_numpy(topology.ascending_levels(*rows))
    level, cycle = topology.levels_or_cycle(*rows)
    return None if cycle.size else torch.from_numpy(level)


def reorder_rows(
    ptr: Tensor, sorted_source: Tensor, order: Tensor, neuron_order: Tensor, position: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `device_topology.reorder_rows`."""
    return _tensors(topology.reorder_rows, ptr, sorted_source, order, neuron_order, position)


def complete_levels(
    level_ptr: Tensor, row_ptr: Tensor, edge_source: Tensor, edge_order: Tensor
) -> tuple[Tensor, Tensor]:
    """As `device_topology.complete_levels`."""
    return _tensors(topology.complete_levels, level_ptr, row_ptr, edge_source, edge_order)


def level_pools(
    level_ptr: Tensor, row_ptr: Tensor, edge_source: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `device_topology.level_pools`."""
    return _tensors(topology.level_pools, level_ptr, row_ptr, edge_source)


def find_edges(
    ptr: Tensor, sorted_source: Tensor, order: Tensor, source: Tensor, target: Tensor
) -> Tensor:
    """As `device_topology.find_edges`."""
    arrays = (own.numpy() for own in (ptr, sorted_source, order, source, target))
    return torch.from_numpy(topology.find_edges(*arrays))


def _tensors(function: Any, *arguments: Tensor) -> Any:
    return tuple(map(torch.from_numpy, function(*(own.numpy() for own in arguments))))
