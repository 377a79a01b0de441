"""The contenders of the ladder, moved to a GPU, in several precisions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders.own import Auto
from benchmarks.problem import Problem

# What a check reads on the CPU, and what moves with its module.
_STAYS = {"places", "problem", "levels", "bias_slots", "parameters"}


class Fused(Auto):
    """graphnn's own, by name: where there is no GPU, "auto" would take another."""

    backend = "fused_gpu"


class CompiledReference(Auto):
    """torch.compile of the network with the backend "reference"."""

    backend = "reference"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        # Of one function no more than eight variants are compiled; the networks before used some.
        torch.compiler.reset()
        self.compiled = torch.compile(self.net, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the compiled network."""
        return self.compiled(x)

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """By `weight` and `bias`."""
        return torch.autograd.grad(self.forward(x), [self.net.weight, self.net.bias], seed)

    def describe(self, x: Tensor) -> str:
        """Nothing that its name does not say."""
        return ""


@dataclass(frozen=True)
class Kind:
    """A contender and a precision.

    Args:
        name: As it is shown.
        contender: Its class, as in `contenders`.
        tolerance: The largest error that is not wrong, as a part of the largest number.
        dtype: Of its numbers.
        tf32: Whether matrix products may round float32 to TF32.
    """

    name: str
    contender: Any
    tolerance: float = 1e-4
    dtype: torch.dtype = torch.float32
    tf32: bool = False

    def make(self, problem: Problem, device: torch.device) -> Contender:
        """The contender of a problem, on a device."""
        own = self.contender(problem)
        _move(own, device, self.dtype)
        return Contender(self, own)


class Contender:
    """One that is ready to run."""

    def __init__(self, kind: Kind, own: Any) -> None:
        self.kind, self.own = kind, own

    def arranged(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and gradients by outputs, as it likes them, for free."""
        return tuple(self.own.arranged(part.to(self.kind.dtype)) for part in (x, seed))  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor, _seed: Tensor) -> Tensor:
        """Inference."""
        with torch.inference_mode(), _matrix_products(self.kind.tf32):
            return self.own.forward(x)

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """Forward and backward."""
        with _matrix_products(self.kind.tf32):
            return self.own.gradients(x, seed)

    def outputs(self, x: Tensor) -> Tensor:
        """(B, n_out), for the check."""
        found = self.forward(*self.arranged(x, x[:, :1])).float().cpu()
        return torch.from_numpy(self.own.outputs(found))

    def by_weight(self, x: Tensor, seed: Tensor) -> Tensor:
        """(E,), for the check."""
        found = [part.float().cpu() for part in self.gradients(*self.arranged(x, seed))]
        return torch.from_numpy(self.own.in_graph_order(found)[0])

    def note(self, x: Tensor) -> str:
        """Which backend runs."""
        describe = getattr(self.own, "describe", lambda _x: "")
        return describe(self.arranged(x, x[:, :1])[0])


@contextmanager
def _matrix_products(tf32: bool) -> Any:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _move(own: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Moves what a contender holds, one attribute after the other."""
    for name, value in vars(own).items():
        if name not in _STAYS:
            setattr(own, name, _moved(value, device, dtype))
    if isinstance(getattr(own, "model", None), nn.Module):
        linears = [module for module in own.model if isinstance(module, nn.Linear)]
        own.weights = [linear.weight for linear in linears]
        own.biases = [linear.bias for linear in linears]


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, nn.Module):
        return value.to(device, dtype)
    if isinstance(value, Tensor):
        to = dtype if value.is_floating_point() else value.dtype
        return value.detach().to(device, to).requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, device, dtype) for part in value)
    if type(value).__module__.startswith("benchmarks.contenders"):
        _move(value, device, dtype)
    return value
