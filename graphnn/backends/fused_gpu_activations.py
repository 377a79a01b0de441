"""The contract's activations and their slopes as Triton functions over a tile.

Exponentials are Triton's own; what is made of them is written so that nothing cancels: float64
keeps 1e-12 of the value, near 0 too. Imports triton: import it where it is used.
"""

# Triton compiles the functions below, whose arguments are tensors and constants of its own kind.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

NAMES = (
    "identity", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "gelu_tanh", "silu",
    "mish", "softplus", "softsign", "sigmoid", "tanh", "clamp", "hardsigmoid", "hardswish", "sin",
    "gauss", "abs", "square",
)  # fmt: skip

_SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
_SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
_ROOT_HALF = tl.constexpr(0.7071067811865476)
_GELU_INNER = tl.constexpr(0.7978845608028654)
_GELU_CUBE = tl.constexpr(0.044715)
_NORMAL_AT_0 = tl.constexpr(0.3989422804014327)
# A constant stands on the right of an operator: the interpreter takes it for a number only there.
# torch rounds 1 / 6 in hardsigmoid's gradient to float32.
_SIXTH = tl.constexpr(0.1666666716337204)


@triton.jit
def _expm1(x):
    """exp(x) - 1, by Taylor's series where exp(x) is near 1."""
    p = x * 0 + 1 / 6227020800
    p = p * x + 1 / 479001600
    p = p * x + 1 / 39916800
    p = p * x + 1 / 3628800
    p = p * x + 1 / 362880
    p = p * x + 1 / 40320
    p = p * x + 1 / 5040
    p = p * x + 1 / 720
    p = p * x + 1 / 120
    p = p * x + 1 / 24
    p = p * x + 1 / 6
    p = p * x + 0.5
    p = p * x + 1
    return tl.where(tl.abs(x) < 0.4, p * x, tl.exp(x) - 1)


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0, by the series of 2 artanh(x / (2 + x)) where x is small."""
    z = x / (2 + x)
    s = z * z
    p = s * 0 + 1 / 23
    p = p * s + 1 / 21
    p = p * s + 1 / 19
    p = p * s + 1 / 17
    p = p * s + 1 / 15
    p = p * s + 1 / 13
    p = p * s + 1 / 11
    p = p * s + 1 / 9
    p = p * s + 1 / 7
    p = p * s + 1 / 5
    p = p * s + 1 / 3
    p = p * s + 1
    return tl.where(x < 0.4, 2 * z * p, tl.log(1 + x))


@triton.jit
def _tanh(x):
    e = _expm1(-2 * tl.abs(x))
    t = -e / (2 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _clamp(x, low, high):
    # Comparisons, which keep NaN.
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def _normal_below(x):
    return 0.5 * (1 + tl.erf(x * _ROOT_HALF))


@triton.jit
def _gelu_tanh_inner(x):
    return _tanh((x + x * x * x * _GELU_CUBE) * _GELU_INNER)


@triton.jit
def _tanh_of_softplus(x):
    e = tl.exp(tl.where(x > 20, 20.0, x))
    n = e * (e + 2)
    return n / (n + 2)


@triton.jit
def activate(x, code, a, b, USED: tl.constexpr):
    """The values of a tile of preactivations.

    Args:
        x: (rows, columns) preactivations, float32 or float64.
        code: (rows, 1) places in `NAMES`.
        a: (rows, 1) first parameters, in the type of x.
        b: (rows, 1) second parameters.
        USED: The set of codes that occur, as bits: code for no others is made.
    """
    y = x
    if (USED >> 1) & 1:
        y = tl.where(code == 1, tl.where(x < 0, 0.0, x), y)
    if (USED >> 2) & 1:
        y = tl.where(code == 2, _clamp(x, 0.0, 6.0), y)
    if (USED >> 3) & 1:
        y = tl.where(code == 3, tl.where(x > 0, x, x * a), y)
    if (USED >> 4) & 1:
        y = tl.where(code == 4, tl.where(x < 0, a * _expm1(x), x), y)
    if (USED >> 5) & 1:
        below = _expm1(x) * _SELU_ALPHA * _SELU_SCALE
        y = tl.where(code == 5, tl.where(x < 0, below, x * _SELU_SCALE), y)
    if (USED >> 6) & 1:
        y = tl.where(code == 6, tl.where(x < 0, a * _expm1(x / a), x), y)
    if (USED >> 7) & 1:
        y = tl.where(code == 7, x * _normal_below(x), y)
    if (USED >> 8) & 1:
        y = tl.where(code == 8, 0.5 * x * (1 + _gelu_tanh_inner(x)), y)
    if (USED >> 9) & 1:
        y = tl.where(code == 9, x * _sigmoid(x), y)
    if (USED >> 10) & 1:
        y = tl.where(code == 10, x * _tanh_of_softplus(x), y)
    if (USED >> 11) & 1:
        # Where the threshold is passed the exponential may overflow, and is not used.
        y = tl.where(code == 11, tl.where(x * a > b, x, _log1p(tl.exp(x * a)) / a), y)
    if (USED >> 12) & 1:
        y = tl.where(code == 12, x / (1 + tl.abs(x)), y)
    if (USED >> 13) & 1:
        y = tl.where(code == 13, _sigmoid(x), y)
    if (USED >> 14) & 1:
        y = tl.where(code == 14, _tanh(x), y)
    if (USED >> 15) & 1:
        y = tl.where(code == 15, _clamp(x, a, b), y)
    if (USED >> 16) & 1:
        y = tl.where(code == 16, _clamp(x / 6 + 0.5, 0.0, 1.0), y)
    if (USED >> 17) & 1:
        y = tl.where(code == 17, x * _clamp(x / 6 + 0.5, 0.0, 1.0), y)
    if (USED >> 18) & 1:
        y = tl.where(code == 18, tl.sin(x), y)
    if (USED >> 19) & 1:
        y = tl.where(code == 19, tl.exp(-x * x), y)
    if (USED >> 20) & 1:
        y = tl.where(code == 20, tl.abs(x), y)
    if (USED >> 21) & 1:
        y = tl.where(code == 21, x * x, y)
    return y


@triton.jit
def times_slope(g, x, y, code, a, b, USED: tl.constexpr):
    """G * activation'(x), with torch's slopes at kinks and at NaN.

    Args:
        g: (rows, columns) gradients by value.
        x: (rows, columns) preactivations; never read for an activation whose slope is known from
            its value.
        y: (rows, columns) values.
        code: As in `activate`.
        a: As in `activate`.
        b: As in `activate`.
        USED: As in `activate`.
    """
    d = g
    if (USED >> 1) & 1:
        d = tl.where(code == 1, tl.where(y <= 0, 0.0, g), d)
    if (USED >> 2) & 1:
        d = tl.where(code == 2, tl.where((y <= 0) | (y >= 6), 0.0, g), d)
    if (USED >> 3) & 1:
        d = tl.where(code == 3, tl.where(x > 0, g, g * a), d)
    if (USED >> 4) & 1:
        d = tl.where(code == 4, tl.where(x <= 0, g * (y + a), g), d)
    if (USED >> 5) & 1:
        below = g * (y + _SELU_SCALE * _SELU_ALPHA)
        d = tl.where(code == 5, tl.where(y <= 0, below, g * _SELU_SCALE), d)
    if (USED >> 6) & 1:
        # torch rounds alpha in 1 / alpha to float32.
        inverse = 1 / a.to(tl.float32).to(a.dtype)
        d = tl.where(code == 6, tl.where(x <= 0, g * inverse * a * tl.exp(x * inverse), g), d)
    if (USED >> 7) & 1:
        at = tl.exp(-0.5 * x * x) * _NORMAL_AT_0
        d = tl.where(code == 7, g * (_normal_below(x) + x * at), d)
    if (USED >> 8) & 1:
        t = _gelu_tanh_inner(x)
        inner = (1 + x * x * _GELU_CUBE * 3) * _GELU_INNER
        d = tl.where(code == 8, g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner), d)
    if (USED >> 9) & 1:
        s = _sigmoid(x)
        d = tl.where(code == 9, g * (s * (1 + x * (1 - s))), d)
    if (USED >> 10) & 1:
        t = _tanh_of_softplus(x)
        d = tl.where(code == 10, g * (t + x * (1 - t * t) * _sigmoid(x)), d)
    if (USED >> 11) & 1:
        d = tl.where(code == 11, tl.where(x * a > b, g, g * _sigmoid(x * a)), d)
    if (USED >> 12) & 1:
        size = 1 + tl.abs(x)
        d = tl.where(code == 12, g / (size * size), d)
    if (USED >> 13) & 1:
        # y * (1 - y) would cancel where the value is near 1, and 1 - y * y below likewise.
        e = tl.exp(-tl.abs(x))
        d = tl.where(code == 13, g * (e / ((1 + e) * (1 + e))), d)
    if (USED >> 14) & 1:
        e = tl.exp(-2 * tl.abs(x))
        d = tl.where(code == 14, g * (4 * e / ((1 + e) * (1 + e))), d)
    if (USED >> 15) & 1:
        d = tl.where(code == 15, tl.where((y <= a) | (y >= b), 0.0, g), d)
    if (USED >> 16) & 1:
        d = tl.where(code == 16, tl.where((x > -3) & (x < 3), g * _SIXTH, 0.0), d)
    if (USED >> 17) & 1:
        above = tl.where(x < 3, g * (x / 3 + 0.5), g)
        d = tl.where(code == 17, tl.where(x <= -3, 0.0, above), d)
    if (USED >> 18) & 1:
        d = tl.where(code == 18, g * tl.cos(x), d)
    if (USED >> 19) & 1:
        d = tl.where(code == 19, g * (-2 * x * y), d)
    if (USED >> 20) & 1:
        d = tl.where(code == 20, tl.where(x > 0, g, tl.where(x < 0, -g, 0.0)), d)
    if (USED >> 21) & 1:
        d = tl.where(code == 21, g * (x + x), d)
    return d
