"""The choice among the backends, and its report."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphnn.backends.base import Backend, Call, PlainRun
from graphnn.backends.fused_cpu import FusedCpu
from graphnn.backends.fused_gpu import FusedGpu
from graphnn.backends.reference import Reference
from graphnn.backends.scatter import Scatter
from graphnn.errors import BackendError
from graphnn.plan import ExecutionPlan

# "auto" takes the first that can run the call and is not discouraged from it.
_FIRST = FusedCpu()
_BACKENDS: tuple[Backend, ...] = (_FIRST, FusedGpu(), Scatter(), Reference())


def backends() -> tuple[str, ...]:
    """The names of all backends, in the order in which "auto" tries them.

    Example:
        >>> graphnn.backends()
        ('fused_cpu', 'fused_gpu', 'scatter', 'reference')
    """
    return tuple(backend.name for backend in _BACKENDS)


def check_name(name: str) -> str:
    """`name`, if it is "auto" or a backend's."""
    if name != "auto" and name not in backends():
        raise BackendError(
            f"backend must be 'auto' or one of {', '.join(map(repr, backends()))} (got {name!r})."
        )
    return name


def select(name: str, call: Call) -> Backend:
    """The backend that runs the call.

    Args:
        name: "auto" for the first that can; a backend's name for that one and no other.
        call: What is to be run.

    Raises:
        BackendError: The named backend, or every backend, cannot run the call; all reasons are
            in the message.
    """
    refused, possible = [], []
    for backend in _BACKENDS:
        if name not in ("auto", backend.name):
            continue
        reasons = backend.unsupported(call)
        if reasons:
            refused.append(f"backend {backend.name!r} cannot run this call: {'; '.join(reasons)}")
        elif name == backend.name or not backend.discouraged(call):
            return backend
        else:
            possible.append(backend)
    if possible:
        return possible[0]
    raise BackendError(". ".join(refused) + ". Set net.backend = 'auto' to let graphnn choose.")


def plain_run(name: str, plan: ExecutionPlan, dtype: torch.dtype) -> PlainRun | None:
    """What `select` leads to for plain tensors on the plan's device, found once a plan and dtype.

    Outside of forward-mode differentiation, whose dual tensors look plain. None where only the call
    can tell.
    """
    key = ("plain run", name, dtype)
    if key not in plan.derived:
        chosen = name in ("auto", _FIRST.name)
        plan.derived[key] = _FIRST.plain_run(plan, dtype) if chosen else None
    return plan.derived[key]


@dataclass(frozen=True)
class BackendReport:
    """Which backend runs a call, part by part, and why the others do not.

    Args:
        backend: The name of the backend that runs.
        levels: For levels 1 ... L - 1: (level, neurons, edges, how), `how` being "matrix product"
            or "message passing". A sample's results on a level that is no matrix product do not
            depend on the other samples of its batch.
        reasons: Each other backend's name -> why it does not run.
    """

    backend: str
    levels: tuple[tuple[int, int, int, str], ...]
    reasons: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [f"backend {self.backend}"]
        start = 0
        for i, (level, neurons, edges, how) in enumerate(self.levels):
            following = self.levels[i + 1][1:] if i + 1 < len(self.levels) else None
            if following == (neurons, edges, how):
                continue
            first = self.levels[start][0]
            span = f"level {level}" if first == level else f"levels {first} to {level}, each"
            lines.append(f"  {span}: {how}, {neurons} neurons, {edges} edges")
            start = i + 1
        lines += [f"not {name}: {'; '.join(reasons)}" for name, reasons in self.reasons.items()]
        return "\n".join(lines)


def report(name: str, call: Call) -> BackendReport:
    """What `select` decides, written out."""
    chosen = select(name, call)
    reasons = {}
    for backend in _BACKENDS:
        if backend is chosen:
            continue
        why = backend.unsupported(call) or backend.discouraged(call)
        if not why and name != "auto":
            why = [f"net.backend is {name!r}"]
        reasons[backend.name] = why or [f"{chosen.name} comes first in the order of choice"]
    plan = call.plan
    level_ptr, row_ptr = plan.level_ptr.tolist(), plan.row_ptr
    edge_ptr = row_ptr[plan.level_ptr].tolist()
    levels = tuple(
        (
            level,
            level_ptr[level + 1] - level_ptr[level],
            edge_ptr[level + 1] - edge_ptr[level],
            chosen.describe_level(plan, level),
        )
        for level in range(1, plan.num_levels)
    )
    return BackendReport(chosen.name, levels, reasons)
