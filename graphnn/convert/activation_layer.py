"""Activations as torch modules, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphnn.activation import Activation, apply, resolve
from graphnn.errors import GraphError


class NeuronActivation(nn.Module):
    """Applies graphnn's activations by name: those that torch has no module for, and mixed ones.

    Args:
        activation: One name for every feature, or one name per feature.

    Raises:
        GraphError: A name is unknown, or there is none.

    Example:
        >>> layer = graphnn.NeuronActivation(["relu", "square"])
        >>> layer(torch.tensor([[-2.0, -2.0]]))
        tensor([[0., 4.]])
    """

    order: Tensor

    def __init__(self, activation: str | Sequence[str]) -> None:
        super().__init__()
        self._features = None if isinstance(activation, str) else len(activation)
        if self._features == 0:
            raise GraphError("activation must be one name, or one per feature (got an empty list).")
        names = (activation,) if isinstance(activation, str) else activation
        resolved = [resolve(name) for name in names]
        self._distinct = tuple(dict.fromkeys(resolved))
        place = {entry: i for i, entry in enumerate(self._distinct)}
        codes = torch.tensor([place[entry] for entry in resolved], device="cpu")
        places = [(codes == code).nonzero().squeeze(1) for code in range(len(self._distinct))]
        for code, features in enumerate(places):
            # Follows from the names, so a state does not hold it.
            self.register_buffer(f"features_{code}", features, persistent=False)
        self.register_buffer("order", torch.cat(places).argsort(), persistent=False)

    @property
    def activation(self) -> str | tuple[str, ...]:
        """One canonical name for every feature, or one per feature."""
        if self._features is None:
            return self._distinct[0].name
        names = [""] * self._features
        for code, entry in enumerate(self._distinct):
            for feature in self.get_buffer(f"features_{code}").tolist():
                names[feature] = entry.name
        return tuple(names)

    def forward(self, x: Tensor) -> Tensor:
        """Maps preactivations to values.

        Args:
            x: (*, n) preactivations; n is the number of names where there is one per feature.

        Returns:
            (*, n) values.

        Raises:
            GraphError: There is one name per feature, and `x` has another number of features.
        """
        if self._features is not None and x.shape[-1] != self._features:
            raise GraphError(
                f"x must have shape (*, {self._features}), one column a feature "
                f"(got {tuple(x.shape)})."
            )
        if len(self._distinct) == 1:
            entry = self._distinct[0]
            return apply(entry.function, entry.parameters, x)
        parts = []
        for code, entry in enumerate(self._distinct):
            own = x.index_select(-1, getattr(self, f"features_{code}"))
            parts.append(apply(entry.function, entry.parameters, own))
        return torch.cat(parts, -1).index_select(-1, self.order)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        features = "" if self._features is None else f", features={self._features}"
        return ", ".join(entry.name for entry in self._distinct) + features


def _call(name: str, *parameters: float) -> str:
    return f"{name}({', '.join(repr(float(p)) for p in parameters)})"


_NAME_OF_GELU = {"none": "gelu", "tanh": "gelu_tanh"}

_READERS: dict[type[nn.Module], Callable[[Any], str | tuple[str, ...]]] = {
    nn.ReLU: lambda _: "relu",
    nn.ReLU6: lambda _: "relu6",
    nn.LeakyReLU: lambda layer: _call("leaky_relu", layer.negative_slope),
    nn.ELU: lambda layer: _call("elu", layer.alpha),
    nn.SELU: lambda _: "selu",
    nn.CELU: lambda layer: _call("celu", layer.alpha),
    nn.GELU: lambda layer: _NAME_OF_GELU[layer.approximate],
    nn.SiLU: lambda _: "silu",
    nn.Mish: lambda _: "mish",
    nn.Softplus: lambda layer: _call("softplus", layer.beta, layer.threshold),
    nn.Softsign: lambda _: "softsign",
    nn.Sigmoid: lambda _: "sigmoid",
    nn.Tanh: lambda _: "tanh",
    nn.Hardtanh: lambda layer: _call("clamp", layer.min_val, layer.max_val),
    nn.Hardsigmoid: lambda _: "hardsigmoid",
    nn.Hardswish: lambda _: "hardswish",
    NeuronActivation: lambda layer: layer.activation,
}

_WRITERS: dict[str, Callable[..., nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "clamp": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
}

ACTIVATION_LAYERS: tuple[type[nn.Module], ...] = tuple(_READERS)


def read_activation_layer(layer: nn.Module, kind: type[nn.Module]) -> str | tuple[str, ...]:
    """The activation that a module applies.

    Args:
        layer: The module.
        kind: The class in `ACTIVATION_LAYERS` whose forward it runs.

    Returns:
        One canonical name, or one per feature.

    Raises:
        GraphError: No activation has the module's parameters.
    """
    name = _READERS[kind](layer)
    return resolve(name).name if isinstance(name, str) else name


def write_activation_layer(activations: Sequence[Activation]) -> nn.Module:
    """A module that applies one activation per feature.

    Args:
        activations: One per feature, at least one.

    Returns:
        torch's own module where all features have the same activation and torch has it, else a
        `NeuronActivation`.
    """
    first = activations[0]
    if any(activation != first for activation in activations):
        return NeuronActivation([activation.name for activation in activations])
    # nn.Hardtanh refuses an empty range, which clamp allows.
    is_constant = first.function == "clamp" and first.parameters[0] == first.parameters[1]
    if first.function not in _WRITERS or is_constant:
        return NeuronActivation(first.name)
    return _WRITERS[first.function](*first.parameters)
