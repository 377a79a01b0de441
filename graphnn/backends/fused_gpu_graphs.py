"""Captured CUDA graphs: many launches of one plan that are replayed as one.

A capture owns what it reads and writes. Each call copies its tensors in and the results out, so
that neither an address nor a later call can change what an earlier one gave.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from threading import Lock, RLock
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor

from graphnn.backends.fused_gpu_schedule import schedule
from graphnn.exhausted import is_out_of_memory
from graphnn.plan import ExecutionPlan

Tensors = tuple[Tensor | None, ...]
Compute = Callable[..., Tensors]
_Key = tuple[torch.device, int, Hashable, Hashable]
# A call that has come often enough is captured: one that comes once would only pay for it. So many
# kinds of calls are counted.
_CAPTURED_AT, _COUNTED = 3, 1024
# Captures that a plan keeps, and bytes that they read and write: so many, or an eighth of the
# device's, and whatever they take the last two, a step's forward and backward pass.
_MOST, _MOST_BYTES, _LEAST = 32, 1 << 30, 2
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

    @cached_property
    def num_bytes(self) -> int:
        """Of what it reads and writes."""
        return sum(t.nbytes for t in (*self.given, *self.results) if t is not None)

    def __call__(self, tensors: Tensors) -> Tensors:
        """The results for other tensors of the same shapes."""
        for own, tensor in zip(self.given, tensors, strict=True):
            if own is not None and tensor is not None:
                own.copy_(tensor)
        self.replay()
        return tuple(None if result is None else result.clone() for result in self.results)


def capture(compute: Compute, tensors: Tensors, multiplies: bool) -> Captured:
    """Captures what `compute` launches for tensors of these shapes.

    Args:
        compute: As for `Graphs.run`.
        tensors: Its arguments.
        multiplies: Whether it multiplies matrices.
    """
    # What is kept must be no inference tensor, which later calls could not write to.
    with torch.inference_mode(False), torch.no_grad():
        given = tuple(None if t is None else torch.empty_like(t).copy_(t) for t in tensors)
        # Compiles and derives whatever is still missing, which no capture may do.
        compute(*given)
        first = next(t for t in given if t is not None)
        workspace = _own_workspace() if multiplies else nullcontext()
        with (
            torch.cuda.device_of(first),
            _CAPTURING,
            workspace,
            _recording(first.device) as graph,
        ):
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


@contextmanager
def _own_workspace() -> Iterator[None]:
    """Has matrix products get their workspaces anew.

    torch keeps one for each stream. Captures that share a stream would share it, and the first that
    is let go would take it from the others; one made in a capture would serve calls outside it.
    All streams' are let go, as torch can do no less.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@cache
def _stream_of_captures(device: torch.device) -> Any:
    """One a device: torch hands out few streams in turn, and one is soon somebody else's."""
    return torch.cuda.Stream(device)


class Graphs:
    """The captures of one plan, the last used at the end.

    Args:
        multiplies: Whether its calls multiply matrices.
    """

    def __init__(self, multiplies: bool) -> None:
        self._multiplies = multiplies
        self._lock = RLock()
        self._kept: OrderedDict[_Key, Captured | Literal["never"]] = OrderedDict()
        # How often others have come.
        self._counts: OrderedDict[_Key, int] = OrderedDict()
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
        whole = (device, _stream(device), (key, _precisions()), shapes)
        # One at a time: two threads may hold one stream, and backward has a thread of its own.
        with self._lock:
            found = self._kept.get(whole)
            if found is not None:
                self._kept.move_to_end(whole)
            elif self._has_come_often(whole):
                self._kept[whole] = found = _try(compute, tensors, self._multiplies)
                self._make_room(_most_bytes(device))
            if isinstance(found, Captured):
                return found(tensors)
        return compute(*tensors)

    def _has_come_often(self, key: _Key) -> bool:
        """Counts a call; at the last count it is forgotten, whatever becomes of its capture."""
        count = self._counts.pop(key, 0) + 1
        if count >= _CAPTURED_AT:
            return True
        self._counts[key] = count
        if len(self._counts) > _COUNTED:
            self._counts.popitem(last=False)
        return False

    def _make_room(self, most_bytes: int) -> None:
        """Lets go of those that were not used for longest."""
        while len(self._kept) > _MOST:
            self._forget(next(iter(self._kept)))
        sizes = {k: own.num_bytes for k, own in self._kept.items() if isinstance(own, Captured)}
        total = sum(sizes.values())
        for oldest in list(sizes)[:-_LEAST]:
            if total <= most_bytes:
                break
            total -= sizes[oldest]
            self._forget(oldest)

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


def _most_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return _MOST_BYTES
    return max(_MOST_BYTES, torch.cuda.get_device_properties(device).total_memory // 8)


def _try(compute: Compute, tensors: Tensors, multiplies: bool) -> Captured | Literal["never"]:
    try:
        return capture(compute, tensors, multiplies)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        said = str(error).splitlines()[0]
    warnings.warn(
        f"backend 'fused_gpu' could not capture a CUDA graph ({said}) and goes on with a launch a "
        "level: the results are the same, but it is slower.",
        stacklevel=2,
    )
    return "never"


def _precisions() -> tuple[Any, ...]:
    """What matrix products depend on beside their arguments."""
    # By way of torch._C, which tells all of what the attributes tell in part.
    own = torch._C
    return (
        torch.backends.cuda.matmul.fp32_precision,
        own._get_cublas_allow_fp16_reduced_precision_reduction(),
        own._get_cublas_allow_bf16_reduced_precision_reduction(),
        own._get_cublas_allow_fp16_accumulation(),
        own._get_blas_preferred_backend(),
        torch.are_deterministic_algorithms_enabled(),
    )


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
        plan.derived.setdefault("fused_gpu graphs", Graphs(bool(schedule(plan).products)))
    return plan.derived["fused_gpu graphs"]


def release_all() -> None:
    """Gives the memory of every capture back."""
    for one in list(_EVERY):
        one.release()
