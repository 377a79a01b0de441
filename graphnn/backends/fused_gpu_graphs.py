"""Captured CUDA graphs: many launches of one plan that are replayed as one.

A capture owns what it reads and writes. Each call copies its tensors in and the results out, so
that neither an address nor a later call can change what an earlier one gave.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from threading import Lock, RLock
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor

from graphnn.plan import ExecutionPlan

Tensors = tuple[Tensor | None, ...]
Compute = Callable[..., Tensors]
_Key = tuple[torch.device, int, Hashable, Hashable]
# A call that has come often enough is captured: one that comes once would only pay for it.
_CAPTURED_AT = 3
# Calls that a plan's memory has room for, captured ones and those that are still counted.
_MOST = 8
# A process captures one graph at a time, and no thread may wait for a device that captures.
_CAPTURING = Lock()


@dataclass(frozen=True, eq=False)
class Captured:
    """A capture.

    Args:
        replay: Starts it again.
        given: What it reads.
        results: What it writes.
    """

    replay: Callable[[], None]
    given: Tensors
    results: Tensors

    def __call__(self, tensors: Tensors) -> Tensors:
        """The results for other tensors of the same shapes."""
        for own, tensor in zip(self.given, tensors, strict=True):
            if own is not None and tensor is not None:
                own.copy_(tensor)
        self.replay()
        return tuple(None if result is None else result.clone() for result in self.results)


def capture(compute: Compute, tensors: Tensors) -> Captured:
    """Captures what `compute` launches for tensors of these shapes."""
    # What is kept must be no inference tensor, which later calls could not write to.
    with torch.inference_mode(False), torch.no_grad():
        given = tuple(None if t is None else torch.empty_like(t).copy_(t) for t in tensors)
        # Compiles and derives whatever is still missing, which no capture may do.
        compute(*given)
        first = next(t for t in given if t is not None)
        with torch.cuda.device_of(first), _CAPTURING, _recording(first.device) as graph:
            results = compute(*given)
    return Captured(graph.replay, given, results)


@contextmanager
def _recording(device: torch.device) -> Iterator[Any]:
    """A graph that takes up what is launched on the device, which is the current one."""
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    where: dict[str, Any] = {"pool": pool, "stream": _stream_of_captures(device)}
    try:
        # What other threads do meanwhile, such as copying the next batch, is no part of it. A
        # capture that fails leaves its stream the current one: the outer context does not.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, capture_error_mode="thread_local", **where),
        ):
            yield graph
    except BaseException:
        # One that ended in disorder is still under way for the allocator, which would never again
        # give cached memory back. Of one that ended in order it says that it knows no such pool.
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(device.index, pool)
            torch._C._cuda_releasePool(device.index, pool)
        raise


@cache
def _stream_of_captures(device: torch.device) -> Any:
    """One a device: torch hands out few streams in turn, and one is soon somebody else's.

    A matrix product's workspace, which torch keeps for each stream, is made once too.
    """
    return torch.cuda.Stream(device)


class Graphs:
    """The captures of one plan, the last used at the end."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._kept: OrderedDict[_Key, Captured | int | Literal["never"]] = OrderedDict()
        _EVERY.add(self)

    def run(self, key: Hashable, compute: Compute, tensors: Tensors) -> Tensors:
        """What `compute` returns for the tensors, by a capture where there is one.

        Args:
            key: What else the launches depend on: beside the shapes, dtypes, device and stream.
            compute: Makes new tensors of its arguments, on the current stream.
            tensors: Its arguments.
        """
        device = next(t.device for t in tensors if t is not None)
        shapes = tuple(None if t is None else (t.shape, t.dtype) for t in tensors)
        whole = (device, _stream(device), key, shapes)
        # One at a time: two threads may hold one stream, and backward has a thread of its own.
        with self._lock:
            found = self._kept.pop(whole, 0)
            if isinstance(found, int):
                found = found + 1 if found + 1 < _CAPTURED_AT else _try(compute, tensors)
            self._kept[whole] = found
            while len(self._kept) > _MOST:
                self._forget(next(iter(self._kept)))
            if isinstance(found, Captured):
                return found(tensors)
        return compute(*tensors)

    def _forget(self, key: _Key) -> None:
        if isinstance(self._kept[key], Captured):
            # It may still be running.
            with _CAPTURING:
                torch.cuda.synchronize(key[0])
        del self._kept[key]

    def release(self) -> None:
        """Gives all memory back."""
        with self._lock:
            for key in list(self._kept):
                self._forget(key)


_EVERY: WeakSet[Graphs] = WeakSet()


def _try(compute: Compute, tensors: Tensors) -> Captured | Literal["never"]:
    try:
        return capture(compute, tensors)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        said = str(error).splitlines()[0]
    warnings.warn(
        f"backend 'fused_gpu' could not capture a CUDA graph ({said}) and goes on with a launch a "
        "level: the results are the same, but it is slower.",
        stacklevel=2,
    )
    return "never"


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def is_capturing(device: torch.device) -> bool:
    """Whether the user captures a graph now, of which what is launched becomes a part."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def can_capture(device: torch.device) -> bool:
    """Whether graphs can be captured on the device now."""
    return device.type == "cuda" and not is_capturing(device)


def graphs(plan: ExecutionPlan) -> Graphs:
    """A plan's captures, kept beside it."""
    if "fused_gpu graphs" not in plan.derived:
        plan.derived.setdefault("fused_gpu graphs", Graphs())
    return plan.derived["fused_gpu graphs"]


def release_all() -> None:
    """Gives the memory of every capture back."""
    for one in list(_EVERY):
        one.release()
