"""One forward and one backward of a network, seen from all of its neurons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphnn import edited
from graphnn.attribution.target import Score
from graphnn.backends import selection
from graphnn.backends.base import Call, Keep
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network, output_tuple
from graphnn.picking import pick
from graphnn.plan import ExecutionPlan, build_plan


@dataclass(frozen=True, eq=False)
class Frozen:
    """A network's numbers as they are in eval mode, out of autograd's sight.

    Not the network itself, because a backend that owns its gradient would compute those of trained
    parameters too, which nobody asks for here.

    Args:
        graph: The wiring, on the CPU.
        plan: Its schedule, on the device of the weights.
        weight: (E,) without gradient.
        bias: (K,) without gradient.
        backend: A backend's name, or "auto".
    """

    graph: NeuronGraph
    plan: ExecutionPlan
    weight: Tensor
    bias: Tensor
    backend: str

    @classmethod
    def of(cls, net: Network) -> Frozen:
        """The numbers of a network, which is left in the mode that it is in."""
        edited.check_network(net)
        with torch.no_grad(), _evaluating(net):
            weight, bias = net.weight.detach(), net.bias.detach()
        plan = build_plan(net.graph, weight.device)
        return cls(net.graph.to("cpu"), plan, weight, bias, net.backend)

    def run(self, inputs: Tensor, offset: Tensor, keep: Keep) -> Any:
        """Runs the plan; see `Backend.run`."""
        call = Call(self.plan, self.weight, self.bias, inputs, offset, keep)
        chosen = selection.select(self.backend, call)
        return chosen.run(self.plan, self.weight, self.bias, inputs, offset, keep)

    def in_full(self) -> torch.autocast:
        """The precision of the weights, whatever autocast is on outside."""
        return torch.autocast(self.weight.device.type, enabled=False)

    def split_outputs(self, joined: Tensor) -> Any:
        """What a target is called on: the output groups, before the output transform."""
        groups = self.graph.outputs
        if len(groups) == 1:
            return joined
        parts = joined.split([ids.numel() for ids in groups.values()], dim=-1)
        return output_tuple(tuple(groups))(*parts)


@contextmanager
def _evaluating(net: Network) -> Iterator[None]:
    # Parametrizations may behave differently in training, or change themselves.
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True, eq=False)
class Derivatives:
    """What one backward found; all tensors without gradient.

    Args:
        scores: (B,) what was differentiated.
        by_output: (B, n_out) derivative by the output values, as the score reads them.
        by_preactivation: (B, N) derivative by every preactivation.
    """

    scores: Tensor
    by_output: Tensor
    by_preactivation: Tensor


@dataclass(frozen=True, eq=False)
class States:
    """Every neuron's numbers in the same run, without gradient.

    Args:
        values: (B, N).
        preactivations: (B, N); an input's is its value.
    """

    values: Tensor
    preactivations: Tensor


def check_wrt(wrt: str, allowed: tuple[str, ...]) -> None:
    """Refuses what there is no derivative by."""
    if wrt not in allowed:
        raise GraphError(f"wrt must be one of {', '.join(map(repr, allowed))} (got {wrt!r}).")


def differentiate(
    net: Frozen, inputs: Tensor, score: Score, offset: Tensor | None = None
) -> Derivatives:
    """One forward and one backward, without keeping the neurons' numbers.

    Args:
        net: The network's numbers.
        inputs: (B, n_in) samples.
        score: What is differentiated.
        offset: (B, N) added to the preactivations, or None.
    """
    with torch.enable_grad(), net.in_full():
        leaf = _leaf(net, inputs, offset)
        return _backward(net, net.run(inputs, leaf, "outputs"), score, leaf)


def differentiate_all(net: Frozen, inputs: Tensor, score: Score) -> tuple[Derivatives, States]:
    """One forward and one backward, and every neuron's numbers.

    Args:
        net: As in `differentiate`.
        inputs: As in `differentiate`.
        score: As in `differentiate`.
    """
    with torch.enable_grad(), net.in_full():
        leaf = _leaf(net, inputs, None)
        values, preactivations = net.run(inputs, leaf, "all")
        outputs = pick(values, 1, net.graph.output_ids.to(values.device))
        found = _backward(net, outputs, score, leaf)
    return found, States(values.detach(), preactivations.detach())


def _leaf(net: Frozen, inputs: Tensor, offset: Tensor | None) -> Tensor:
    if offset is None:
        offset = inputs.new_zeros(inputs.shape[0], net.graph.num_neurons)
    return offset.requires_grad_()


def _backward(net: Frozen, outputs: Tensor, score: Score, leaf: Tensor) -> Derivatives:
    # Cut at the outputs, where the score's own derivative is wanted too.
    seed = outputs.detach().requires_grad_()
    scores = score(net.split_outputs(seed))
    (by_output,) = torch.autograd.grad(scores.sum(), seed, allow_unused=True)
    if by_output is None:
        raise GraphError(
            "target must compute its scores out of the outputs (got a tensor with a gradient that "
            "does not come from them)."
        )
    (by_preactivation,) = torch.autograd.grad(outputs, leaf, by_output)
    return Derivatives(scores.detach(), by_output, by_preactivation)
