"""Activations as ONNX operations, in both directions.

Written out of basic operations, since onnxruntime has most of ONNX's own activations in float32
only. Just gelu needs Erf, which it lacks in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from graphnn.activation import Activation
from graphnn.errors import ConversionError

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


class Operations(Protocol):
    """What adds operations to an ONNX graph."""

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation and gives the name of its result."""
        ...

    def number(self, value: float) -> str:
        """The name of a constant of the network's dtype."""
        ...


def write_activation(to: Operations, activation: Activation, x: str) -> str:
    """Adds an activation.

    Args:
        to: Gets the operations.
        activation: Any that is built in.
        x: The name of what it is applied to.

    Returns:
        The name of the result.

    Raises:
        ConversionError: The activation was added by graphnn.register_activation.
    """
    if activation.function not in _WRITERS:
        raise ConversionError(
            f"activation {activation.name!r} must be built in to be written to ONNX, whose files "
            "hold no Python."
        )
    return _WRITERS[activation.function](to, x, *activation.parameters)


def _relu(to: Operations, x: str) -> str:
    return to.add("Relu", x)


def _clamp(to: Operations, x: str, low: float, high: float) -> str:
    return to.add("Min", to.add("Max", x, to.number(low)), to.number(high))


def _leaky_relu(to: Operations, x: str, slope: float) -> str:
    zero = to.number(0.0)
    below = to.add("Mul", to.add("Min", x, zero), to.number(slope))
    return to.add("Add", to.add("Max", x, zero), below)


def _exponential(to: Operations, x: str, alpha: float) -> str:
    """``alpha * (exp(x) - 1)``."""
    return to.add("Mul", to.add("Sub", to.add("Exp", x), to.number(1.0)), to.number(alpha))


def _elu(to: Operations, x: str, alpha: float) -> str:
    is_above = to.add("Greater", x, to.number(0.0))
    return to.add("Where", is_above, x, _exponential(to, x, alpha))


def _selu(to: Operations, x: str) -> str:
    return to.add("Mul", _elu(to, x, _SELU_ALPHA), to.number(_SELU_SCALE))


def _celu(to: Operations, x: str, alpha: float) -> str:
    zero = to.number(0.0)
    below = _exponential(to, to.add("Div", x, to.number(alpha)), alpha)
    return to.add("Add", to.add("Max", x, zero), to.add("Min", below, zero))


def _gelu(to: Operations, x: str) -> str:
    erf = to.add("Erf", to.add("Div", x, to.number(math.sqrt(2))))
    return _half_of_one_plus(to, x, erf)


def _gelu_tanh(to: Operations, x: str) -> str:
    cube = to.add("Mul", to.add("Mul", x, x), x)
    inner = to.add("Add", x, to.add("Mul", cube, to.number(0.044715)))
    tanh = to.add("Tanh", to.add("Mul", inner, to.number(math.sqrt(2 / math.pi))))
    return _half_of_one_plus(to, x, tanh)


def _half_of_one_plus(to: Operations, x: str, value: str) -> str:
    half = to.add("Mul", x, to.number(0.5))
    return to.add("Mul", half, to.add("Add", value, to.number(1.0)))


def _silu(to: Operations, x: str) -> str:
    return to.add("Mul", x, to.add("Sigmoid", x))


def _softplus(to: Operations, x: str, beta: float, threshold: float) -> str:
    scaled = to.add("Mul", x, to.number(beta))
    decay = to.add("Exp", to.add("Neg", to.add("Abs", scaled)))
    tail = to.add("Log", to.add("Add", decay, to.number(1.0)))
    full = to.add("Add", to.add("Relu", scaled), tail)
    is_above = to.add("Greater", scaled, to.number(threshold))
    return to.add("Where", is_above, x, to.add("Div", full, to.number(beta)))


def _mish(to: Operations, x: str) -> str:
    return to.add("Mul", x, to.add("Tanh", _softplus(to, x, 1.0, 20.0)))


def _softsign(to: Operations, x: str) -> str:
    return to.add("Div", x, to.add("Add", to.add("Abs", x), to.number(1.0)))


def _hardsigmoid(to: Operations, x: str) -> str:
    shifted = to.add("Add", x, to.number(3.0))
    return to.add("Div", _clamp(to, shifted, 0.0, 6.0), to.number(6.0))


def _hardswish(to: Operations, x: str) -> str:
    return to.add("Mul", x, _hardsigmoid(to, x))


def _square(to: Operations, x: str) -> str:
    return to.add("Mul", x, x)


def _gauss(to: Operations, x: str) -> str:
    return to.add("Exp", to.add("Neg", _square(to, x)))


_WRITERS: dict[str, Callable[..., str]] = {
    "identity": lambda to, x: x,
    "relu": _relu,
    "relu6": lambda to, x: _clamp(to, x, 0.0, 6.0),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "mish": _mish,
    "softplus": _softplus,
    "softsign": _softsign,
    "sigmoid": lambda to, x: to.add("Sigmoid", x),
    "tanh": lambda to, x: to.add("Tanh", x),
    "clamp": _clamp,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "sin": lambda to, x: to.add("Sin", x),
    "gauss": _gauss,
    "abs": lambda to, x: to.add("Abs", x),
    "square": _square,
}

_PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Sin": "sin",
    "Abs": "abs",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Mish": "mish",
    "HardSwish": "hardswish",
}
# Operation -> activation, with the attribute that is its parameter and ONNX's default.
_WITH_ALPHA = {
    "LeakyRelu": ("leaky_relu", 0.01),
    "Elu": ("elu", 1.0),
    "Celu": ("celu", 1.0),
}


def read_activation(operation: str, attributes: Mapping[str, Any]) -> str | None:
    """The activation that an ONNX operation of one input is.

    Args:
        operation: Its type.
        attributes: By name.

    Returns:
        A name, or None where it is none.

    Raises:
        ConversionError: It is one, with parameters that no activation has.
    """
    if operation in _PLAIN:
        return _PLAIN[operation]
    if operation in _WITH_ALPHA:
        name, alpha = _WITH_ALPHA[operation]
        return f"{name}({attributes.get('alpha', alpha)!r})"
    if operation == "Gelu":
        return "gelu_tanh" if attributes.get("approximate") in (b"tanh", "tanh") else "gelu"
    expected = {
        "Selu": ("selu", {"alpha": _SELU_ALPHA, "gamma": _SELU_SCALE}),
        "HardSigmoid": ("hardsigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    }
    if operation not in expected:
        return None
    name, values = expected[operation]
    defaults = {"alpha": 0.2, "beta": 0.5} if operation == "HardSigmoid" else values
    for key, value in values.items():
        given = attributes.get(key, defaults[key])
        if not math.isclose(given, value, rel_tol=1e-5):
            raise ConversionError(f"must have {key} = {value:.6g} (got {given:.6g})")
    return name
