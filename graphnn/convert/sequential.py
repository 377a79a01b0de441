"""From an nn.Sequential of torch layers to a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphnn.convert.activation_layer import ACTIVATION_LAYERS, read_activation_layer
from graphnn.convert.layer import DROPPED_LAYERS, Layer, Parameter, iterate_layers
from graphnn.convert.stages import (
    Affine,
    Stage,
    fold_after,
    fold_before,
    graph_of,
    hold,
    joined,
    stage_of,
)
from graphnn.errors import ConversionError, GraphError
from graphnn.network import Network

_TRANSFORMS = {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax"}


def from_sequential(
    model: nn.Sequential,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """Converts an nn.Sequential into a network that computes the same as ``model.eval()``.

    Neurons are numbered layer by layer, from the inputs; edges run row-major over each
    nn.Linear.weight, zeros kept. The parameters are copied and the model is left as it is.

    - Dropout and Identity are dropped. A Flatten before the first layer means that x comes
      flattened; later ones must leave (B, n) as it is.
    - BatchNorm1d folds, in float64, into the Linear right before it, else into the Linear after
      it; between two activations, or last after one, it becomes one-to-one edges.
    - An activation before the first Linear, or after another activation, becomes one-to-one edges
      of weight 1. They are constants: a `Frozen` on ``net.weight`` holds them.
    - A trailing Softmax or LogSoftmax over the features becomes ``output_transform``.
    - Pruned and parametrized layers give the tensors that they use. Entries that a `Frozen` holds
      stay held. What requires no gradient in the model is not trained in the network: the
      parameter requires none where that is so for all of it, else a `Frozen` holds the part.

    Args:
        model: Linear (with or without bias), the activations that torch has a module for,
            `NeuronActivation`, BatchNorm1d, Dropout, Identity, Flatten, a trailing Softmax or
            LogSoftmax, and nested Sequentials of these. Backward hooks are not looked at.
        backend: Of the network.
        dtype: Of the parameters; default: the model's.
        device: Of the parameters; default: the model's.

    Returns:
        The network, with inputs "input" and outputs "output". It agrees with the model for x of
        shape (B, n).

    Raises:
        ConversionError: A layer is not a neuron graph; it is named by its path.
        GraphError: `dtype` is none that a network can have.
        BackendError: There is no such backend.

    Example:
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> net = graphnn.from_sequential(model)
        >>> net.graph
        NeuronGraph(6 neurons, 8 edges, 3 levels; input: 3, output: 1)
        >>> x = torch.ones(4, 3)
        >>> torch.allclose(net(x), model(x))
        True
    """
    stack = _Stack()
    for layer, kind in iterate_layers(model):
        stack.add(layer, kind)
    stages = stack.finish()
    own_dtype, own_device = stack.placement
    weight = joined([stage.weight for stage in stages], dtype or own_dtype, own_device)
    biases = [stage.bias for stage in stages if stage.bias is not None]
    bias = joined(biases, dtype or own_dtype, own_device)
    graph = graph_of(stages)
    net = Network(graph, weight, bias, backend, stack.transform, weight.dtype, device)
    for name in ("weight", "bias"):
        hold(net, name, [stage for stage in stages if getattr(stage, name) is not None])
    return net


class _Stack:
    """Takes a model's layers in order and makes levels of them."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.transform: str | None = None
        # "dtype" and "device": the first one that occurs, and the layer that has it.
        self._placement: dict[str, tuple[Any, Layer]] = {}
        self._transform_by: Layer | None = None
        self._waiting: Affine | None = None
        # Activations ahead of the layer that tells how many neurons they have.
        self._early: list[tuple[Layer, str | tuple[str, ...]]] = []
        self._width: int | None = None
        self._width_by: Layer | None = None

    @property
    def _open_stage(self) -> Stage | None:
        """The last level, while its activation is still to come."""
        is_open = self.stages and self.stages[-1].activation is None
        return self.stages[-1] if is_open else None

    def add(self, layer: Layer, kind: type[nn.Module]) -> None:
        if kind in DROPPED_LAYERS:
            return
        if kind is nn.Flatten:
            return _check_flatten(layer)
        if self._transform_by is not None:
            self._transform_by.refuse(
                f"must be the last layer, but {layer} follows: a value that depends on its "
                "neighbours of the same level is no neuron's."
            )
        if kind is nn.Linear:
            self._add_linear(layer)
        elif kind is nn.BatchNorm1d:
            self._add_batch_norm(layer)
        elif kind in ACTIVATION_LAYERS:
            self._add_activation(layer, kind)
        else:
            self._add_transform(layer, kind)

    def _add_linear(self, layer: Layer) -> None:
        weight, bias = layer.parameter("weight"), layer.parameter("bias")
        assert weight is not None
        self._check_placement(layer, [p.value for p in (weight, bias) if p is not None])
        if 0 in weight.value.shape:
            layer.refuse(
                f"must have at least one input and one output (got in_features="
                f"{weight.value.shape[1]}, out_features={weight.value.shape[0]})."
            )
        self._take_width(layer, weight.value.shape[1])
        if self._open_stage is not None:
            self._open_stage.activation = "identity"
        stage = Stage(
            layer,
            weight.value,
            None if bias is None else bias.value,
            constant={"weight": _constant(weight), "bias": _constant(bias)},
            fixed={"weight": not weight.trains, "bias": bias is not None and not bias.trains},
        )
        if self._waiting is not None:
            fold_before(self._waiting, stage)
            self._waiting = None
        self.stages.append(stage)
        self._width, self._width_by = stage.width, layer

    def _add_batch_norm(self, layer: Layer) -> None:
        weight, bias = layer.parameter("weight"), layer.parameter("bias")
        mean, variance = _running_statistics(layer)
        own = [p.value for p in (weight, bias) if p is not None]
        self._check_placement(layer, own, (mean, variance))
        scale = (variance.double() + layer.module.eps).rsqrt()
        if weight is not None:
            scale = scale * weight.value.double()
        shift = -mean.double() * scale
        if bias is not None:
            shift = shift + bias.value.double()
        is_trained = any(p is not None and p.trains for p in (weight, bias))
        affine = Affine(layer, scale, shift, is_trained)
        self._take_width(layer, affine.scale.numel())
        if self._open_stage is not None:
            fold_after(affine, self._open_stage)
        else:
            self._waiting = affine if self._waiting is None else affine.after(self._waiting)

    def _add_activation(self, layer: Layer, kind: type[nn.Module]) -> None:
        try:
            activation = read_activation_layer(layer.module, kind)
        except (GraphError, KeyError) as error:
            layer.refuse(f"has parameters that no activation has: {error}")
        if not isinstance(activation, str) and self._width is not None:
            self._take_width(layer, len(activation))
        if self._waiting is not None:
            self.stages.append(stage_of(self._waiting))
            self._waiting = None
        if self._open_stage is not None:
            self._open_stage.activation = activation
        elif self._width is None:
            self._early.append((layer, activation))
        else:
            self._add_constants(layer, activation, self._width)

    def _add_constants(self, layer: Layer, activation: str | tuple[str, ...], width: int) -> None:
        ones = torch.ones(width, device="cpu")
        self.stages.append(Stage(layer, ones, None, activation, constant={"weight": True}))

    def _add_transform(self, layer: Layer, kind: type[nn.Module]) -> None:
        dim: Any = layer.module.dim
        if dim not in (None, -1, 1):
            layer.refuse(f"must be over the features, dim -1 or 1 of (B, n) (got dim={dim}).")
        self.transform = _TRANSFORMS[kind]
        self._transform_by = layer

    def _check_placement(
        self, layer: Layer, parameters: Sequence[Tensor], buffers: Sequence[Tensor] = ()
    ) -> None:
        # Half-precision models keep their running statistics in float32.
        dtypes = [("dtype", value.dtype) for value in parameters]
        devices = [("device", value.device) for value in (*parameters, *buffers)]
        for what, own in (*dtypes, *devices):
            first, by = self._placement.setdefault(what, (own, layer))
            if own != first:
                layer.refuse(
                    f"must have the {what} of all layers: it has {own}, but {by} has {first}. "
                    "Convert the model with .to()."
                )

    @property
    def placement(self) -> tuple[torch.dtype, torch.device]:
        """The dtype and device of the model's parameters."""
        return self._placement["dtype"][0], self._placement["device"][0]

    def _take_width(self, layer: Layer, width: int) -> None:
        """Checks that `layer` takes as many values as come, or learns how many inputs there are."""
        if self._width is None:
            self._width, self._width_by = width, layer
            for early, activation in self._early:
                if not isinstance(activation, str) and len(activation) != width:
                    early.refuse(f"gives {len(activation)} values, but {layer} takes {width}.")
                self._add_constants(early, activation, width)
        elif self._width != width:
            layer.refuse(
                f"takes {width} values, but {self._width} come from {self._width_by} before it."
            )

    def finish(self) -> list[Stage]:
        """The levels, once all layers have been added."""
        if not any(stage.weight.dim() == 2 for stage in self.stages):
            raise ConversionError(
                "model must have at least one nn.Linear: without one it has no edges to train and "
                "nothing says how many neurons there are."
            )
        if self._waiting is not None:
            self.stages.append(stage_of(self._waiting))
        if self._open_stage is not None:
            self._open_stage.activation = "identity"
        return self.stages


def _constant(parameter: Parameter | None) -> Tensor | bool:
    return False if parameter is None or parameter.held is None else parameter.held


def _check_flatten(layer: Layer) -> None:
    start, end = layer.module.start_dim, layer.module.end_dim
    if start != 1 or end != -1:
        layer.refuse(
            f"must flatten all but the batch, start_dim=1 and end_dim=-1 (got "
            f"start_dim={start}, end_dim={end})."
        )


def _running_statistics(layer: Layer) -> tuple[Tensor, Tensor]:
    mean, variance = layer.module.running_mean, layer.module.running_var
    if mean is None or variance is None:
        layer.refuse(
            "must have running statistics: without them it normalises by its batch in eval mode "
            "too, so that samples depend on each other. Build it with track_running_stats=True."
        )
    return mean, variance
