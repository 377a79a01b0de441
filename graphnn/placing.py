"""Where tensors are made: on which device, and out of whose reach."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from graphnn.errors import GraphError

_T = TypeVar("_T")


def exact_device(device: torch.device | str) -> torch.device:
    """`device` as its tensors name it: theirs is "cuda:0" where "cuda" was asked for.

    Raises:
        GraphError: It is no device, or none that this torch can use here.
    """
    try:
        return torch.empty(0, device=device).device
    # torch refuses a device that it was not built for with an AssertionError.
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise GraphError(
            "device must be one that torch can use here, by a name such as 'cpu' or 'cuda:0' "
            f"(got {device!r}: {reason}). Choose another, or install a torch that has it."
        ) from error


def untouched(function: Callable[..., _T], *arguments: Any) -> _T:
    """function(*arguments), out of reach of the caller's modes and transforms.

    What is kept beside a graph must serve every later call, but a torch.func transform, a fake
    tensor mode or inference mode around the first one would reach into its making. All of them are
    kept per thread, so it is made on a thread of its own.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()
