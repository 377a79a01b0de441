"""What torch's layers do to neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from graphnn.assembly.neurons import Neurons
from graphnn.assembly.operations import convolve
from graphnn.convert.activation_layer import ACTIVATION_LAYERS, read_activation_layer
from graphnn.convert.layer import DROPPED_LAYERS, Layer, Parameter
from graphnn.convert.traced.functions import Functions
from graphnn.convert.traced.reasons import reason
from graphnn.errors import ConversionError, GraphError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MOVES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
# The attributes that are the arguments of the function of the same work.
_POOLS: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.AvgPool1d: (
        "avg_pool1d", ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
    ),
    nn.AvgPool2d: (
        "avg_pool2d",
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AvgPool3d: (
        "avg_pool3d",
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AdaptiveAvgPool1d: ("adaptive_avg_pool1d", ("output_size",)),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", ("output_size",)),
    nn.AdaptiveAvgPool3d: ("adaptive_avg_pool3d", ("output_size",)),
    nn.Softmax: ("softmax", ("dim",)),
    nn.LogSoftmax: ("log_softmax", ("dim",)),
}  # fmt: skip
TRACED_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear, *_CONVOLUTIONS, *_NORMS, *_MOVES, *_POOLS, *DROPPED_LAYERS, *ACTIVATION_LAYERS
)  # fmt: skip


class Layers:
    """Performs torch's layers on the neurons of an assembly.

    Args:
        functions: What layers have in common with functions.
        register: Notes a layer's parameter and gives its entries.
    """

    def __init__(
        self, functions: Functions, register: Callable[[Layer, str, Parameter], Tensor]
    ) -> None:
        self._functions = functions
        self._assembly = functions.assembly
        self._register = register

    def call(self, layer: Layer, x: Any) -> Any:
        """What a layer gives.

        Args:
            layer: A leaf of the model.
            x: Its one input.

        Raises:
            ConversionError: It is none that neurons can do.
        """
        kind = layer.kind(TRACED_LAYERS)
        if kind is None:
            raise ConversionError(reason(type(layer.module).__name__))
        if not isinstance(x, Neurons):
            name, _ = _POOLS.get(kind, (kind.__name__.lower(), ()))
            return self._functions.call(name, layer.module, (x,), {})
        if kind in DROPPED_LAYERS:
            return x
        if kind in ACTIVATION_LAYERS:
            return self._assembly.activation(x, _activation(layer, kind))
        if kind in _MOVES:
            return x.moved(layer.module(x.ids))
        if kind in _POOLS:
            name, attributes = _POOLS[kind]
            given = {attribute: getattr(layer.module, attribute) for attribute in attributes}
            return self._functions.call(name, layer.module, (x,), given)
        if kind in _NORMS:
            return self._norm(layer, x)
        return self._weighted(layer, kind, x)

    def _entries(self, layer: Layer, name: str) -> Tensor | None:
        parameter = layer.parameter(name)
        return None if parameter is None else self._register(layer, name, parameter)

    def _weighted(self, layer: Layer, kind: type[nn.Module], x: Neurons) -> Neurons:
        weight, bias = self._entries(layer, "weight"), self._entries(layer, "bias")
        assert weight is not None
        if kind is nn.Linear:
            return self._assembly.linear(x, weight, bias)
        own = layer.module
        return convolve(
            self._assembly, x, weight, bias, own.stride, own.padding, own.dilation, own.groups,
            own.padding_mode,
        )  # fmt: skip

    def _norm(self, layer: Layer, x: Neurons) -> Neurons:
        num_dims = x.ids.dim()
        expected = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
        kind = layer.kind(_NORMS)
        assert kind is not None
        if num_dims not in expected[kind]:
            raise ConversionError(
                f"takes (B, C, ...) of {' or '.join(map(str, expected[kind]))} dimensions, but a "
                f"sample has shape {tuple(x.sample.shape)}"
            )
        scale, shift, trains = norm_coefficients(layer)
        entries = self._assembly.entries
        parts = []
        for name, value in (("scale", scale), ("shift", shift)):
            key, label = (id(layer.module), name), f"{layer.path}.{name}"
            parts.append(entries.add(key, label, value, not trains, layer.module))
        return self._assembly.norm(x, *parts)


def norm_coefficients(layer: Layer) -> tuple[Tensor, Tensor, bool]:
    """What a batch norm does in eval mode: ``scale * x + shift``.

    Returns:
        (scale (C,) float64, shift (C,) float64, whether the layer has parameters that train).

    Raises:
        ConversionError: The layer has no running statistics.
    """
    mean, variance = layer.module.running_mean, layer.module.running_var
    if mean is None or variance is None:
        raise ConversionError(
            "must have running statistics: without them it normalises by its batch in eval mode "
            "too, so that samples depend on each other. Build it with track_running_stats=True"
        )
    weight, bias = layer.parameter("weight"), layer.parameter("bias")
    scale = (variance.detach().double() + layer.module.eps).rsqrt()
    if weight is not None:
        scale = scale * weight.value.double()
    shift = -mean.detach().double() * scale
    if bias is not None:
        shift = shift + bias.value.double()
    return scale, shift, any(p is not None and p.trains for p in (weight, bias))


def _activation(layer: Layer, kind: type[nn.Module]) -> str | tuple[str, ...]:
    try:
        return read_activation_layer(layer.module, kind)
    except (GraphError, KeyError) as error:
        raise ConversionError(f"has parameters that no activation has: {error}") from None
