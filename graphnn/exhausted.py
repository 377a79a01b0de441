"""What happens where a device's memory is too small."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from graphnn.errors import BackendError

_Result = TypeVar("_Result")
_Build = TypeVar("_Build", bound=Callable[..., Any])
# Bytes an edge that building takes at most, beside the edges that are given: it sorts them. It
# counts a neuron's in as many.
_BUILDING = 48


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had too little memory; torch, its libraries and Triton each say it so."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in said or "alloc_failed" in said)


def first_words(error: Exception) -> str:
    """What happened, and how much was asked for."""
    return ". ".join(str(error).split(". ")[:2])


def built(build: Callable[[], _Result], device: torch.device, num_edges: int) -> _Result:
    """The result of `build`, or a BackendError that says what would fit on the device.

    Args:
        build: Builds something out of all edges, where they are.
        device: Where they are.
        num_edges: E.
    """
    try:
        return build()
    except RuntimeError as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
        said = first_words(error)
    # Out here nothing holds the frames of what failed, and their tensors.
    text = (
        f"{device} has too little memory to build a network of {num_edges} edges there, which "
        f"takes about {_BUILDING} bytes an edge, and as many a neuron"
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
        text += (
            f": {gigabytes(_BUILDING * num_edges)}, and {gigabytes(free)} are free, enough for "
            f"about {free // _BUILDING} edges"
        )
    raise BackendError(f"{text} ({said}). Build it on the CPU, and move it with .to().")


def built_of_edges(build: _Build) -> _Build:
    """A method whose first argument is a (2, E) `edge_index`, as `built` runs it."""

    @wraps(build)
    def within_memory(*args: Any, **named: Any) -> Any:
        edges = named.get("edge_index", args[1] if len(args) > 1 else None)
        if not isinstance(edges, Tensor):
            # They are on the CPU.
            return build(*args, **named)
        return built(lambda: build(*args, **named), edges.device, edges.numel() // 2)

    return cast("_Build", within_memory)


def gigabytes(count: int) -> str:
    """A number of bytes, as it is shown."""
    return f"{count / 2**30:.2f} GiB"
