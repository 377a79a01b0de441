"""The contract's activations and their derivatives over a row of samples, for compiled backends.

LLVM turns every loop here into vector instructions, which the C library's functions would prevent:
those in use are in `transcendental`. Imports numba: import it where it is used.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from graphnn.backends.compiling import kernel
from graphnn.backends.transcendental import (
    INLINE,
    SIN_RANGE,
    cos,
    exp,
    expm1,
    like,
    log_1_plus_exp,
    normal_below,
    sin,
    tanh,
)

CODES = {
    name: code
    for code, name in enumerate(
        [
            "identity", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "gelu_tanh",
            "silu", "mish", "softplus", "softsign", "sigmoid", "tanh", "clamp", "hardsigmoid",
            "hardswish", "sin", "gauss", "abs", "square",
        ]
    )
}  # fmt: skip


def slope_needs_preactivation(name: str, parameters: tuple[float, ...]) -> bool:
    """Whether `multiply_by_slope` needs more than the value: that may overwrite what it came from.

    Args:
        name: A key of `CODES`.
        parameters: The activation's.
    """
    if name in ("identity", "relu", "relu6", "selu", "sigmoid", "tanh"):
        return False
    if name in ("leaky_relu", "elu"):
        return not parameters[0] > 0
    return name != "clamp" or not parameters[0] <= parameters[1]


_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
# torch rounds 1 / 6 in hardsigmoid's gradient, and alpha in celu's 1 / alpha, to float32.
_SIXTH = float(np.float32(1 / 6))


@njit(**INLINE)
def _sigmoid(x):
    return like(x, 1) / (like(x, 1) + exp(-x))


@njit(**INLINE)
def _clamp(x, low, high):
    return low if x < low else (high if x > high else x)


@njit(**INLINE)
def _elu(x, scale, alpha):
    return scale * alpha * expm1(x) if x < like(x, 0) else scale * x


@njit(**INLINE)
def _gelu_inner(x):
    return like(x, 0.7978845608028654) * (x + like(x, 0.044715) * x * x * x)


@njit(**INLINE)
def _mish_parts(x):
    """(tanh(softplus(x)), sigmoid(x)), the second as good as where the first is not yet 1."""
    e = exp(like(x, 20) if x > like(x, 20) else x)
    n = e * (e + like(x, 2))
    return n / (n + like(x, 2)), e / (like(x, 1) + e)


@njit(**INLINE)
def _any_sin(x):
    return sin(x) if abs(x) <= like(x, SIN_RANGE) else math.sin(x)


@njit(**INLINE)
def _any_cos(x):
    return cos(x) if abs(x) <= like(x, SIN_RANGE) else math.cos(x)


@njit(**INLINE)
def _is_within(x, size):
    """Whether no number is larger than `size`, or NaN."""
    outside = 0
    for i in range(x.size):
        outside += 0 if abs(x[i]) <= size else 1
    return outside == 0


@kernel
def activate(code, a, b, state, pre_start, start, size):
    """state[start + i] = activation(state[pre_start + i]) for i in 0 ... size - 1.

    Args:
        code: A value of `CODES`.
        a: First parameter, in the type of `state`.
        b: Second parameter, likewise.
        state: One-dimensional.
        pre_start: The first preactivation.
        start: The first value: the same place, or one so far away that nothing overlaps.
        size: Number of places.
    """
    if start != pre_start:
        for i in range(size):
            state[start + i] = state[pre_start + i]
    _apply(code, a, b, state[start : start + size])


@njit(nogil=True, error_model="numpy")
def _apply(code, a, b, x):
    """x[i] = activation(x[i]). In place, because a loop over two arrays might not be vectorised."""
    zero, one, half = like(a, 0), like(a, 1), like(a, 0.5)
    if code == 1:
        for i in range(x.size):
            x[i] = zero if x[i] < zero else x[i]
    elif code == 2:
        for i in range(x.size):
            x[i] = _clamp(x[i], zero, like(a, 6))
    elif code == 3:
        for i in range(x.size):
            x[i] = x[i] if x[i] > zero else x[i] * a
    elif code == 4:
        for i in range(x.size):
            x[i] = _elu(x[i], one, a)
    elif code == 5:
        for i in range(x.size):
            x[i] = _elu(x[i], like(a, _SELU_SCALE), like(a, _SELU_ALPHA))
    elif code == 6:
        inverse = one / a
        for i in range(x.size):
            v = x[i]
            x[i] = a * expm1(v * inverse) if v < zero else v
    elif code == 7:
        for i in range(x.size):
            x[i] *= normal_below(x[i])[0]
    elif code == 8:
        for i in range(x.size):
            v = x[i]
            x[i] = half * v * (one + tanh(_gelu_inner(v)))
    elif code == 9:
        for i in range(x.size):
            x[i] = x[i] * _sigmoid(x[i])
    elif code == 10:
        for i in range(x.size):
            x[i] = x[i] * _mish_parts(x[i])[0]
    elif code == 11:
        for i in range(x.size):
            v = x[i] * a
            x[i] = x[i] if v > b else log_1_plus_exp(v) / a
    elif code == 12:
        for i in range(x.size):
            x[i] = x[i] / (one + abs(x[i]))
    elif code == 13:
        for i in range(x.size):
            x[i] = _sigmoid(x[i])
    elif code == 14:
        for i in range(x.size):
            x[i] = tanh(x[i])
    elif code == 15:
        for i in range(x.size):
            x[i] = _clamp(x[i], a, b)
    elif code == 16:
        for i in range(x.size):
            x[i] = _clamp(x[i] + like(a, 3), zero, like(a, 6)) / like(a, 6)
    elif code == 17:
        for i in range(x.size):
            v = x[i]
            x[i] = v * _clamp(v + like(a, 3), zero, like(a, 6)) / like(a, 6)
    elif code == 18:
        if _is_within(x, like(a, SIN_RANGE)):
            for i in range(x.size):
                x[i] = sin(x[i])
        else:
            for i in range(x.size):
                x[i] = _any_sin(x[i])
    elif code == 19:
        for i in range(x.size):
            x[i] = exp(-x[i] * x[i])
    elif code == 20:
        for i in range(x.size):
            x[i] = abs(x[i])
    elif code == 21:
        for i in range(x.size):
            x[i] = x[i] * x[i]


@kernel
def multiply_by_slope(code, a, b, state, pre_start, start, gradient, first, size):
    """gradient[first + i] *= activation'(state[pre_start + i]), state[start + i] being the value.

    Arguments as in `activate`. At a kink, and at NaN, the slope is the one that torch takes.
    """
    _multiply(
        code, a, b, state[pre_start : pre_start + size], state[start : start + size],
        gradient[first : first + size],
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _multiply(code, a, b, pre, value, gradient):
    """gradient[i] *= activation'(pre[i])."""
    zero, one, half = like(a, 0), like(a, 1), like(a, 0.5)
    if code == 1:
        for i in range(gradient.size):
            g = gradient[i]
            gradient[i] = zero if pre[i] <= zero else g
    elif code == 2:
        for i in range(gradient.size):
            x, g = pre[i], gradient[i]
            gradient[i] = zero if (x <= zero) | (x >= like(a, 6)) else g
    elif code == 3:
        for i in range(gradient.size):
            gradient[i] *= one if pre[i] > zero else a
    elif code == 4:
        for i in range(gradient.size):
            below = value[i] + a
            gradient[i] *= below if pre[i] <= zero else one
    elif code == 5:
        scale, alpha = like(a, _SELU_SCALE), like(a, _SELU_ALPHA)
        for i in range(gradient.size):
            below = value[i] + scale * alpha
            gradient[i] *= below if pre[i] <= zero else scale
    elif code == 6:
        inverse = like(a, 1.0 / np.float64(np.float32(a)))
        for i in range(gradient.size):
            x = pre[i]
            below = inverse * a * exp(x * inverse)
            gradient[i] *= below if x <= zero else one
    elif code == 7:
        for i in range(gradient.size):
            below, e = normal_below(pre[i])
            gradient[i] *= below + pre[i] * (like(a, 0.3989422804014327) * e)
    elif code == 8:
        for i in range(gradient.size):
            x = pre[i]
            t = tanh(_gelu_inner(x))
            inner = like(a, 0.7978845608028654) * (one + like(a, 0.134145) * x * x)
            gradient[i] *= half * (one + t) + half * x * (one - t * t) * inner
    elif code == 9:
        for i in range(gradient.size):
            s = _sigmoid(pre[i])
            gradient[i] *= s * (one + pre[i] * (one - s))
    elif code == 10:
        for i in range(gradient.size):
            t, s = _mish_parts(pre[i])
            gradient[i] *= t + pre[i] * (one - t * t) * s
    elif code == 11:
        for i in range(gradient.size):
            x = pre[i] * a
            below = _sigmoid(x)
            gradient[i] *= one if x > b else below
    elif code == 12:
        for i in range(gradient.size):
            size = one + abs(pre[i])
            # The difference is 0, or NaN at infinity, as torch's slope is.
            gradient[i] /= size * size + (value[i] - value[i])
    elif code == 13:
        for i in range(gradient.size):
            gradient[i] *= value[i] * (one - value[i])
    elif code == 14:
        for i in range(gradient.size):
            gradient[i] *= one - value[i] * value[i]
    elif code == 15:
        for i in range(gradient.size):
            x, g = pre[i], gradient[i]
            gradient[i] = zero if (x <= a) | (x >= b) else g
    elif code == 16:
        for i in range(gradient.size):
            x, g = pre[i], gradient[i] * like(a, _SIXTH)
            gradient[i] = g if (x > like(a, -3)) & (x < like(a, 3)) else zero
    elif code == 17:
        for i in range(gradient.size):
            x = pre[i]
            middle = x / like(a, 3) + half
            gradient[i] *= zero if x <= like(a, -3) else (middle if x < like(a, 3) else one)
    elif code == 18:
        if _is_within(pre, like(a, SIN_RANGE)):
            for i in range(gradient.size):
                gradient[i] *= cos(pre[i])
        else:
            for i in range(gradient.size):
                gradient[i] *= _any_cos(pre[i])
    elif code == 19:
        for i in range(gradient.size):
            gradient[i] *= like(a, -2) * (pre[i] * value[i])
    elif code == 20:
        for i in range(gradient.size):
            x, g = pre[i], gradient[i]
            gradient[i] = g if x > zero else (-g if x < zero else zero)
    elif code == 21:
        for i in range(gradient.size):
            gradient[i] *= pre[i] + pre[i]
