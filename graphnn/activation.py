"""Activation functions by name, with parameters written as a call.

A name such as ``"leaky_relu(0.2)"`` is parsed once into an `Activation`, a value that can be
compared, printed and called on a tensor.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from graphnn.errors import GraphError


@dataclass(frozen=True)
class Rule:
    """What stands behind one activation name.

    Args:
        function: Maps a tensor and the parameters to a tensor of the same shape.
        defaults: The parameters' values when none are written.
        always_written: Whether the canonical name shows the parameters even at their defaults.
    """

    function: Callable[..., Tensor]
    defaults: tuple[float, ...] = ()
    always_written: bool = False


def _identity(x: Tensor) -> Tensor:
    return x


def _gauss(x: Tensor) -> Tensor:
    return torch.exp(-x * x)


_RULES: dict[str, Rule] = {
    "identity": Rule(_identity),
    "relu": Rule(torch.relu),
    "relu6": Rule(F.relu6),
    "leaky_relu": Rule(F.leaky_relu, (0.01,)),
    "elu": Rule(F.elu, (1.0,)),
    "selu": Rule(F.selu),
    "celu": Rule(F.celu, (1.0,)),
    "gelu": Rule(F.gelu),
    "gelu_tanh": Rule(lambda x: F.gelu(x, approximate="tanh")),
    "silu": Rule(F.silu),
    "mish": Rule(F.mish),
    "softplus": Rule(F.softplus, (1.0, 20.0)),
    "softsign": Rule(F.softsign),
    "sigmoid": Rule(torch.sigmoid),
    "tanh": Rule(torch.tanh),
    "clamp": Rule(F.hardtanh, (-1.0, 1.0), always_written=True),
    "hardsigmoid": Rule(F.hardsigmoid),
    "hardswish": Rule(F.hardswish),
    "sin": Rule(torch.sin),
    "gauss": Rule(_gauss),
    "abs": Rule(torch.abs),
    "square": Rule(torch.square),
}

# On the CPU torch computes most elements of these in vector code and the last ones in scalar code
# that rounds differently, so an element's bits depend on its place in the tensor.
ROUNDED_BY_PLACE = frozenset(
    {
        "elu", "selu", "celu", "gelu", "gelu_tanh", "silu", "mish", "softplus", "sigmoid", "tanh",
        "hardsigmoid", "hardswish", "sin", "gauss",
    }
)  # fmt: skip
_BUILT_IN = frozenset(_RULES)
_CALL = re.compile(r"\s*([^\W\d]\w*)\s*(?:\(([^()]*)\))?\s*")


@dataclass(frozen=True)
class Activation:
    """One activation function with its parameters.

    Args:
        name: The canonical name, such as ``"relu"`` or ``"leaky_relu(0.2)"``. Parameters that
            all equal torch's defaults are left out (``clamp`` always shows its two bounds).
        function: The function's bare name, such as ``"leaky_relu"``.
        parameters: The parameters' values, defaults filled in.

    Example:
        >>> activation = graphnn.activation.resolve("leaky_relu(0.2)")
        >>> activation(torch.tensor([-1.0, 2.0]))
        tensor([-0.2000,  2.0000])
    """

    name: str
    function: str
    parameters: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Applies the function to every element of `x` and returns a tensor of its shape."""
        return apply(self.function, self.parameters, x)


def apply(function: str, parameters: tuple[float, ...], x: Tensor) -> Tensor:
    """Applies an activation given by its bare name and all its parameters.

    For code that tracers read: they follow plain strings and numbers where they do not follow a
    call on an object.
    """
    return _RULES[function].function(x, *parameters)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _unknown(name: str) -> GraphError:
    bare = name.split("(", maxsplit=1)[0].strip()
    near = difflib.get_close_matches(bare.lower(), _RULES, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return GraphError(
        f"activation must be one of {', '.join(_RULES)} (got {name!r}).{hint} "
        "Use graphnn.register_activation to add one."
    )


def resolve(name: str) -> Activation:
    """Parses an activation's name.

    Args:
        name: A name of the table in docs/design.md, with its parameters as a call where it has
            any: ``"elu"``, ``"elu(0.5)"``, ``"softplus(2, 20)"``, ``"clamp(0, 32)"``.

    Returns:
        The `Activation`, with its canonical name.

    Raises:
        GraphError: The name is unknown, or its parameters are not that function's.

    Example:
        >>> graphnn.activation.resolve("softplus(2)").name
        'softplus(2, 20)'
    """
    if not isinstance(name, str):
        raise GraphError(
            f"activation must be a name, such as 'relu' (got {type(name).__name__}: {name!r})."
        )
    return _resolve(name)


@lru_cache(maxsize=4096)
def _resolve(name: str) -> Activation:
    match = _CALL.fullmatch(name)
    if match is None or match[1] not in _RULES:
        raise _unknown(name)
    function, written = match[1], match[2]
    rule = _RULES[function]
    parameters = rule.defaults
    if written is not None and written.strip():
        parameters = _parse_parameters(name, written, rule.defaults)
        if function == "clamp" and "," not in written:
            raise GraphError(f"clamp must have both bounds, as 'clamp(0, 32)' has (got {name!r}).")
    _check_parameters(name, function, parameters)
    shown = rule.always_written or parameters != rule.defaults
    canonical = f"{function}({', '.join(map(_number, parameters))})" if shown else function
    return Activation(canonical, function, parameters)


def _parse_parameters(name: str, written: str, defaults: tuple[float, ...]) -> tuple[float, ...]:
    try:
        given = tuple(float(part) for part in written.split(","))
    except ValueError:
        raise GraphError(
            f"the parameters of an activation must be numbers, such as 'elu(0.5)' (got {name!r})."
        ) from None
    if len(given) > len(defaults):
        raise GraphError(
            f"activation {name!r} must have at most {len(defaults)} parameters (got {len(given)})."
        )
    return given + defaults[len(given) :]


def _check_parameters(name: str, function: str, parameters: tuple[float, ...]) -> None:
    if not all(math.isfinite(p) for p in parameters):
        raise GraphError(f"the parameters of activation {name!r} must be finite.")
    if function == "clamp" and parameters[0] > parameters[1]:
        raise GraphError(f"clamp(low, high) must have low <= high (got {name!r}).")
    if function == "celu" and parameters[0] == 0:
        raise GraphError(f"celu's alpha must not be 0 (got {name!r}).")
    if function == "softplus" and parameters[0] == 0:
        raise GraphError(f"softplus's beta must not be 0 (got {name!r}).")


def register_activation(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Adds an activation, usable by its name everywhere from then on, in this process.

    Backends without compiled code for it say so in `Network.backend_report`.

    Args:
        name: An identifier that no built-in activation has.
        function: Maps a tensor to a tensor of the same shape and dtype, element by element, out
            of differentiable torch operations.

    Raises:
        GraphError: The name is not an identifier or belongs to a built-in activation, or the
            function is not callable.

    Example:
        >>> graphnn.register_activation("cube", lambda x: x ** 3)
        >>> net = graphnn.from_edges([("a", "b", 2.0)], output_activation="cube", bias=False)
        >>> net(torch.tensor([[1.0]])).item()
        8.0
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise GraphError(f"an activation's name must be an identifier (got {name!r}).")
    if name in _BUILT_IN:
        raise GraphError(f"{name!r} is a built-in activation. Register under another name.")
    if not callable(function):
        raise GraphError(f"function must be callable on a tensor (got {type(function).__name__}).")

    def checked(x: Tensor) -> Tensor:
        value = function(x)
        if not isinstance(value, Tensor) or value.shape != x.shape or value.dtype != x.dtype:
            raise GraphError(
                f"activation {name!r} must keep shape and dtype: it was given {tuple(x.shape)}, "
                f"{x.dtype} (got {_described(value)} back). Register another function."
            )
        return value

    _RULES[name] = Rule(checked)
    _resolve.cache_clear()


def _described(value: object) -> str:
    is_tensor = isinstance(value, Tensor)
    return f"{tuple(value.shape)}, {value.dtype}" if is_tensor else type(value).__name__


def built_in() -> frozenset[str]:
    """The bare names of the contract's activations, for which every backend has code."""
    return _BUILT_IN
