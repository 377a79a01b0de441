"""The levels that a stack of layers becomes, and the wiring and constants of their network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from graphnn.convert.layer import Layer
from graphnn.graph import NeuronGraph
from graphnn.network import Network
from graphnn.parametrize import Frozen


@dataclass
class Stage:
    """One level: edges with their parameters, then an activation.

    Args:
        layer: The layer that the level comes from.
        weight: (out, in), or (n,) for one-to-one edges.
        bias: (out,) or None.
        activation: One name, or one per neuron; None while it is still to come.
        constant: Which entries of weight and bias are held values: a mask, or one bool for all;
            False where left out.
        fixed: Which of weight and bias require no gradient in the model.
    """

    layer: Layer
    weight: Tensor
    bias: Tensor | None
    activation: str | tuple[str, ...] | None = None
    constant: dict[str, Tensor | bool] = field(default_factory=dict)
    fixed: dict[str, bool] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """The number of neurons."""
        return self.weight.shape[0]

    @property
    def num_sources(self) -> int:
        """The number of neurons that they read."""
        return self.weight.shape[-1]


@dataclass
class Affine:
    """A BatchNorm1d in eval mode: ``scale * x + shift``, (n,) float64 each."""

    layer: Layer
    scale: Tensor
    shift: Tensor
    is_trained: bool

    def after(self, other: Affine) -> Affine:
        """This one of the other's result, as one."""
        return Affine(
            self.layer,
            self.scale * other.scale,
            self.scale * other.shift + self.shift,
            self.is_trained or other.is_trained,
        )


def fold_after(affine: Affine, stage: Stage) -> None:
    """Makes the level's preactivations ``scale * preactivation + shift``."""
    stage.weight = stage.weight.double() * affine.scale[:, None]
    own = 0.0 if stage.bias is None else stage.bias.double()
    _set_folded_bias(stage, own * affine.scale + affine.shift, affine)


def fold_before(affine: Affine, stage: Stage) -> None:
    """Makes the level read ``scale * value + shift`` where it read a value."""
    weight = stage.weight.double()
    own = 0.0 if stage.bias is None else stage.bias.double()
    _set_folded_bias(stage, weight @ affine.shift + own, affine)
    stage.weight = weight * affine.scale


def _set_folded_bias(stage: Stage, bias: Tensor, affine: Affine) -> None:
    if stage.bias is None:
        stage.constant["bias"] = not affine.is_trained
    stage.bias = bias


def stage_of(affine: Affine) -> Stage:
    """One-to-one edges that do what a BatchNorm1d does."""
    is_constant = not affine.is_trained
    held: dict[str, Tensor | bool] = {"weight": is_constant, "bias": is_constant}
    return Stage(affine.layer, affine.scale, affine.shift, constant=held)


def graph_of(stages: Sequence[Stage]) -> NeuronGraph:
    """The wiring of levels on top of one another, neurons numbered level by level."""
    sizes = [stages[0].num_sources, *(stage.width for stage in stages)]
    total = sum(sizes)
    biased = torch.zeros(total, dtype=torch.bool, device="cpu")
    activation = ["identity"] * sizes[0]
    for stage in stages:
        own = stage.activation
        assert own is not None
        biased[len(activation) : len(activation) + stage.width] = stage.bias is not None
        activation.extend([own] * stage.width if isinstance(own, str) else own)
    return NeuronGraph(
        _edge_index(stages),
        num_neurons=total,
        inputs=torch.arange(sizes[0], device="cpu"),
        outputs=torch.arange(total - sizes[-1], total, device="cpu"),
        activation=activation,
        bias=biased,
    )


def joined(parameters: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(total,) the levels' parameters, one after the other, row-major each."""
    # The empty piece stands for a model without any bias.
    first = torch.empty(0, dtype=dtype, device=device)
    return torch.cat([first, *(p.reshape(-1).to(device, dtype) for p in parameters)])


def _edge_index(stages: Sequence[Stage]) -> Tensor:
    edge_index = torch.empty(
        2, sum(stage.weight.numel() for stage in stages), dtype=torch.int64, device="cpu"
    )
    first_source, place = 0, 0
    for stage in stages:
        first_target = first_source + stage.num_sources
        sources = torch.arange(first_source, first_target, device="cpu")
        targets = torch.arange(first_target, first_target + stage.width, device="cpu")
        own = edge_index[:, place : place + stage.weight.numel()]
        if stage.weight.dim() == 1:
            own[0], own[1] = sources, targets
        else:
            grid = own.view(2, stage.width, stage.num_sources)
            grid[0], grid[1] = sources, targets[:, None]
        first_source, place = first_target, place + stage.weight.numel()
    return edge_index


def hold(net: Network, name: str, stages: Sequence[Stage]) -> None:
    """Keeps out of training what is constant in the model, or requires no gradient there."""
    sizes = [getattr(stage, name).numel() for stage in stages]
    constants = [stage.constant.get(name, False) for stage in stages]
    fixed = [stage.fixed.get(name, False) for stage in stages]
    # Nearly every model: nothing to hold, and no mask of E entries to build.
    if not any(fixed) and all(constant is False for constant in constants):
        return
    parameter = getattr(net, name)
    constant = torch.cat([_mask(c, n) for c, n in zip(constants, sizes, strict=True)])
    held = constant | torch.cat([_mask(f, n) for f, n in zip(fixed, sizes, strict=True)])
    trains = not bool(held.all())
    mask = (held if trains else constant).to(parameter.device)
    parameter.requires_grad_(trains)
    if mask.any():
        parametrize.register_parametrization(net, name, Frozen(mask, parameter.detach()))


def _mask(value: Tensor | bool, size: int) -> Tensor:
    if isinstance(value, bool):
        return torch.full((size,), value, device="cpu")
    return value.reshape(-1).cpu()
