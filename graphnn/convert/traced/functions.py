"""What torch's functions and tensor methods do to neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphnn.activation import resolve
from graphnn.assembly.blocks import Assembly
from graphnn.assembly.neurons import Neurons
from graphnn.assembly.operations import (
    adaptive_average_pool,
    average_pool,
    convolve,
    reduce,
)
from graphnn.convert.activation_layer import read_activation_layer
from graphnn.convert.traced.reasons import reason
from graphnn.convert.traced.values import Symbolic, Trained, Transformed, replaced, symbols
from graphnn.errors import ConversionError

# Operations that only move elements: they run as they are, on ids.
MOVES = frozenset(
    {
        "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "permute", "transpose",
        "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "getitem", "select",
        "narrow", "chunk", "split", "tensor_split", "unbind", "contiguous", "clone", "expand",
        "expand_as", "repeat", "repeat_interleave", "tile", "flip", "roll", "rot90",
        "index_select", "diagonal", "unfold", "cat", "concat", "concatenate", "stack", "hstack",
        "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "t",
    }
)  # fmt: skip
_SHAPES = frozenset({"size", "dim", "ndimension", "len", "numel", "nelement"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "ndim"})
# Functions whose other arguments are those of a layer.
_ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
}
_PLAIN_ACTIVATIONS = {"sin": "sin", "abs": "abs", "absolute": "abs", "square": "square"}
_DROPOUTS = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
)
_INPUT_NAMES = ("input", "self", "x", "tensor", "tensors")


def name_of(target: Any) -> str | None:
    """The name of a function of torch or Python, or of a method; None for others."""
    if isinstance(target, str):
        return target
    module = getattr(target, "__module__", None) or ""
    known = module.split(".")[0] in ("torch", "_operator", "builtins", "math")
    # Functions that are compiled into torch have no module, or a mangled one.
    return target.__name__ if known or hasattr(torch, target.__name__) else None


class Functions:
    """Performs functions and methods on the neurons of an assembly.

    Args:
        assembly: Gets the neurons.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What a function gives.

        Args:
            name: Of the function or method, without a trailing underscore.
            function: Itself, or the method of torch.Tensor, if there is one.
            args: With at least one symbolic value among them.
            kwargs: Likewise.

        Raises:
            ConversionError: It is none that neurons can do.
        """
        for given in symbols((args, kwargs)):
            if isinstance(given, Transformed):
                raise ConversionError(
                    f"reads the result of a {given.transform}, which depends on all values of a "
                    "level and is no neuron's. A softmax may only be the last step before an output"
                )
        if name in MOVES:
            return _move(name, function, args, kwargs)
        if name in _SHAPES or (name == "getattr" and args[1] in _SHAPE_ATTRIBUTES):
            return replaced_call(function, args, kwargs)
        own = getattr(self, f"_{name}", None)
        if own is not None:
            return own(*args, **kwargs)
        x, args, kwargs = _split(name, args, kwargs)
        if name in _ACTIVATIONS:
            layer = _ACTIVATIONS[name](*args, **kwargs)
            return self.assembly.activation(x, read_activation_layer(layer, type(layer)))
        if name in _PLAIN_ACTIVATIONS and not args and not kwargs:
            return self.assembly.activation(x, _PLAIN_ACTIVATIONS[name])
        if name in _DROPOUTS:
            return _dropout(x, *args, **kwargs)
        raise ConversionError(reason(name))

    def _linear(self, input: Any, weight: Any, bias: Any = None) -> Neurons:
        x, entries = _neurons("linear", input), _entries(weight)
        return self.assembly.linear(x, entries, None if bias is None else _entries(bias))

    def _matmul(self, input: Any, other: Any) -> Neurons:
        if not isinstance(input, Neurons) or not isinstance(other, Trained):
            raise ConversionError(reason("matmul"))
        if other.entries.dim() != 2:
            raise ConversionError(
                f"takes a parameter (i, o) of two dimensions, but it has shape "
                f"{tuple(other.entries.shape)}"
            )
        return self.assembly.linear(input, other.entries.t(), None)

    _mm = _matmul

    def _conv1d(self, input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        own = None if bias is None else _entries(bias)
        x = _neurons("convolution", input)
        return convolve(self.assembly, x, _entries(weight), own, *args, **kwargs)

    _conv2d = _conv3d = _conv1d

    def _avg_pool1d(self, input: Any, *args: Any, **kwargs: Any) -> Neurons:
        return average_pool(self.assembly, _neurons("avg_pool1d", input), 1, *args, **kwargs)

    def _avg_pool2d(self, input: Any, *args: Any, **kwargs: Any) -> Neurons:
        return average_pool(self.assembly, _neurons("avg_pool2d", input), 2, *args, **kwargs)

    def _avg_pool3d(self, input: Any, *args: Any, **kwargs: Any) -> Neurons:
        return average_pool(self.assembly, _neurons("avg_pool3d", input), 3, *args, **kwargs)

    def _adaptive_avg_pool1d(self, input: Any, output_size: Any) -> Neurons:
        return adaptive_average_pool(self.assembly, _neurons("pooling", input), 1, output_size)

    def _adaptive_avg_pool2d(self, input: Any, output_size: Any) -> Neurons:
        return adaptive_average_pool(self.assembly, _neurons("pooling", input), 2, output_size)

    def _adaptive_avg_pool3d(self, input: Any, output_size: Any) -> Neurons:
        return adaptive_average_pool(self.assembly, _neurons("pooling", input), 3, output_size)

    def _mean(self, input: Any, dim: Any = None, keepdim: bool = False) -> Neurons:
        return reduce(self.assembly, _neurons("mean", input), dim, keepdim, averages=True)

    def _sum(self, input: Any, dim: Any = None, keepdim: bool = False) -> Neurons:
        return reduce(self.assembly, _neurons("sum", input), dim, keepdim, averages=False)

    def _softmax(self, input: Any, dim: Any = None, **kwargs: Any) -> Transformed:
        return _transformed(_neurons("softmax", input), "softmax", dim, kwargs)

    def _log_softmax(self, input: Any, dim: Any = None, **kwargs: Any) -> Transformed:
        return _transformed(_neurons("log_softmax", input), "log_softmax", dim, kwargs)

    def _clamp(self, input: Any, min: Any = None, max: Any = None) -> Neurons:
        x = _neurons("clamp", input)
        if min == 0 and max is None:
            return self.assembly.activation(x, "relu")
        if not isinstance(min, int | float) or not isinstance(max, int | float):
            raise ConversionError("must have two numbers as its bounds, or 0 as its lower one only")
        return self.assembly.activation(x, resolve(f"clamp({min!r}, {max!r})").name)

    _clip = _clamp

    def _pow(self, input: Any, exponent: Any) -> Neurons:
        if not isinstance(input, Neurons) or isinstance(exponent, Symbolic) or exponent != 2:
            raise ConversionError(
                "is known for the exponent 2 only, the activation 'square'. Add another one with "
                "graphnn.register_activation, and apply it as a graphnn.NeuronActivation"
            )
        return self.assembly.activation(input, "square")

    def _neg(self, input: Any) -> Neurons:
        return self.assembly.scale(_neurons("neg", input), -1.0)

    _negative = _neg

    def _add(self, input: Any, other: Any, *, alpha: float = 1) -> Neurons:
        if not isinstance(input, Neurons):
            input, other, alpha = self._times(other, alpha), input, 1
        if isinstance(other, Neurons):
            return self.assembly.add(input, other, alpha)
        if not isinstance(other, Trained):
            return self.assembly.shift(input, other * alpha)
        if alpha != 1:
            raise ConversionError(
                "adds a multiple of a parameter. Multiply the parameter itself, before training"
            )
        return self.assembly.trained_shift(input, other.entries)

    _iadd = _add

    def _sub(self, input: Any, other: Any, *, alpha: float = 1) -> Neurons:
        return self._add(input, other, alpha=-alpha)

    _subtract = _isub = _sub

    def _rsub(self, input: Any, other: Any, *, alpha: float = 1) -> Neurons:
        return self._add(other, input, alpha=-alpha)

    def _mul(self, input: Any, other: Any) -> Neurons:
        if not isinstance(input, Neurons):
            input, other = other, input
        if not isinstance(input, Neurons) or isinstance(other, Neurons):
            raise ConversionError(reason("mul"))
        if isinstance(other, Trained):
            return self.assembly.trained_scale(input, other.entries)
        return self.assembly.scale(input, other)

    _multiply = _imul = _mul

    def _div(self, input: Any, other: Any) -> Neurons:
        if not isinstance(input, Neurons) or isinstance(other, Symbolic):
            raise ConversionError(reason("div"))
        return self.assembly.scale(input, 1 / other)

    _truediv = _divide = _true_divide = _itruediv = _div

    def _times(self, value: Any, factor: float) -> Neurons:
        if not isinstance(value, Neurons):
            raise ConversionError("computes with parameters alone; a parameter is used as it is")
        return value if factor == 1 else self.assembly.scale(value, factor)


def replaced_call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Calls a function on the ids that stand behind symbolic values."""
    args, kwargs = replaced((args, kwargs), _ids)
    return function(*args, **kwargs)


def _ids(value: Symbolic) -> Tensor:
    assert not isinstance(value, Transformed)
    return value.ids if isinstance(value, Neurons) else value.entries


def _move(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    given = symbols((args, kwargs))
    kinds = {type(value) for value in given}
    items = args[0] if args and isinstance(args[0], list | tuple) else ()
    if len(kinds) > 1 or any(not isinstance(item, Symbolic) for item in items):
        raise ConversionError(
            "joins neurons with a constant or a parameter, which is no neuron. Join neurons only"
        )
    result = replaced_call(function, args, kwargs)
    first = given[0]
    copies = len(given) > 1 or name in ("clone", "repeat", "tile", "flip", "roll")

    def wrapped(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(wrapped(item) for item in value)
        if isinstance(first, Trained):
            return Trained(value)
        assert isinstance(first, Neurons)
        moved = first.moved(value)
        return Neurons(moved.ids) if copies else moved

    return wrapped(result)


def _split(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Neurons, tuple[Any, ...], dict[str, Any]]:
    """The tensor that a function works on, and its other arguments."""
    kwargs = dict(kwargs)
    if args:
        x, args = args[0], args[1:]
    else:
        key = next((key for key in _INPUT_NAMES if key in kwargs), None)
        x = kwargs.pop(key) if key else None
    if symbols((args, kwargs)):
        raise ConversionError(reason(name))
    return _neurons(name, x), args, kwargs


def _neurons(name: str, value: Any) -> Neurons:
    if isinstance(value, Neurons):
        return value
    if isinstance(value, Trained):
        raise ConversionError(
            "computes with parameters alone, but every edge's weight is a parameter as it is. "
            "Apply it to neurons, or put its result into the parameter"
        )
    raise ConversionError(reason(name))


def _entries(value: Any) -> Tensor:
    if isinstance(value, Trained):
        return value.entries
    if isinstance(value, Neurons):
        raise ConversionError(reason("matmul"))
    raise ConversionError(
        "takes a weight that is no nn.Parameter of the module, or one that is computed. Make it a "
        "parameter, with requires_grad=False where it is not to be trained"
    )


def _dropout(x: Neurons, p: float = 0.5, training: bool = True, inplace: bool = False) -> Neurons:
    if training and p > 0:
        raise ConversionError(
            "draws random numbers in eval mode too. Call it with training=self.training"
        )
    return x


def _transformed(x: Neurons, transform: str, dim: Any, rest: dict[str, Any]) -> Transformed:
    if x.ids.dim() != 2 or dim not in (None, 1, -1) or any(v is not None for v in rest.values()):
        raise ConversionError(
            f"must be over the features of (B, n), dim -1 or 1 (got dim={dim} and a sample of "
            f"shape {tuple(x.sample.shape)}): a network's output transform is over a whole group"
        )
    return Transformed(x, transform)
