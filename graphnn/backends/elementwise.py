"""The contract's activations and their derivatives over a row of samples, for compiled backends.

float32 has an exponential and a hyperbolic tangent of its own here, out of operations that LLVM
turns into vector instructions (polynomials after Cephes, S. L. Moshier, netlib.org/cephes); float64
calls the C library. Imports numba: import it where it is used.
"""

# numba replaces the bodies of the overloaded functions below, which pyright cannot know.
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

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

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_f = np.float32
# Small functions must disappear into the loops that call them, or the loops are not vectorised;
# Python's check for a division by zero would have the same effect.
_INLINE = {"error_model": "numpy", "forceinline": True}
# torch rounds 1 / 6 in hardsigmoid's gradient, and alpha in celu's 1 / alpha, to float32.
_SIXTH = float(np.float32(1 / 6))


@intrinsic
def _float_of_bits(_context, bits):
    def generate(context, builder, _signature, args):
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


def _like(x, number):
    """`number` in the type of `x`; a plain literal would turn float32 work into float64."""


@overload(_like, jit_options=_INLINE)
def _like_(x, number):
    if x == types.float32:
        return lambda x, number: _f(number)
    return lambda x, number: np.float64(number)


@njit(**_INLINE)
def _reduce_f32(x):
    """(n, r, p) with x = n ln 2 + r and exp(r) = 1 + r + p."""
    n = np.floor(x * _f(1.44269504088896341) + _f(0.5))
    r = x - n * _f(0.693359375) + n * _f(2.12194440e-4)
    p = _f(1.9875691500e-4)
    p = p * r + _f(1.3981999507e-3)
    p = p * r + _f(8.3334519073e-3)
    p = p * r + _f(4.1665795894e-2)
    p = p * r + _f(1.6666665459e-1)
    p = p * r + _f(5.0000001201e-1)
    return n, r, p * r * r


@njit(**_INLINE)
def _exp_f32(x):
    x = _f(-104.0) if x < _f(-104.0) else (_f(90.0) if x > _f(90.0) else x)
    n, r, p = _reduce_f32(x)
    # Two factors, because 2^n itself may overflow or vanish where exp(x) does not.
    half = np.int32(n) >> np.int32(1)
    rest = np.int32(n) - half
    low = _float_of_bits(np.int32((half + np.int32(127)) << np.int32(23)))
    high = _float_of_bits(np.int32((rest + np.int32(127)) << np.int32(23)))
    return (_f(1.0) + r + p) * low * high


@njit(**_INLINE)
def _expm1_f32(x):
    n, r, p = _reduce_f32(x)
    return r + p if n == _f(0.0) else _exp_f32(x) - _f(1.0)


@njit(**_INLINE)
def _tanh_f32(x):
    z = x * x
    p = _f(-5.70498872745e-3)
    p = p * z + _f(2.06390887954e-2)
    p = p * z + _f(-5.37397155531e-2)
    p = p * z + _f(1.33314422036e-1)
    p = p * z + _f(-3.33332819422e-1)
    near = p * z * x + x
    size = abs(x)
    far = _f(1.0) - _f(2.0) / (_exp_f32(size + size) + _f(1.0))
    return near if size < _f(0.625) else (far if x > _f(0.0) else -far)


def _exp(x):
    """exp(x) in the type of x."""


@overload(_exp, jit_options=_INLINE)
def _exp_(x):
    return (lambda x: _exp_f32(x)) if x == types.float32 else (lambda x: math.exp(x))


def _expm1(x):
    """exp(x) - 1 in the type of x."""


@overload(_expm1, jit_options=_INLINE)
def _expm1_(x):
    return (lambda x: _expm1_f32(x)) if x == types.float32 else (lambda x: math.expm1(x))


def _tanh(x):
    """tanh(x) in the type of x."""


@overload(_tanh, jit_options=_INLINE)
def _tanh_(x):
    return (lambda x: _tanh_f32(x)) if x == types.float32 else (lambda x: math.tanh(x))


@njit(**_INLINE)
def _sigmoid(x):
    return _like(x, 1) / (_like(x, 1) + _exp(-x))


@njit(**_INLINE)
def _clamp(x, low, high):
    return low if x < low else (high if x > high else x)


@njit(**_INLINE)
def _elu(x, scale, alpha):
    return scale * alpha * _expm1(x) if x < _like(x, 0) else scale * x


@njit(**_INLINE)
def _gelu_inner(x):
    return _like(x, 0.7978845608028654) * (x + _like(x, 0.044715) * x * x * x)


@njit(**_INLINE)
def _tanh_of_softplus(x):
    e = _exp(_like(x, 20) if x > _like(x, 20) else x)
    n = e * (e + _like(x, 2))
    return n / (n + _like(x, 2))


@njit(nogil=True, error_model="numpy")
def activate(code, a, b, pre, out, start, size):
    """out[i] = activation(pre[i]) for i in start ... start + size - 1.

    Args:
        code: A value of `CODES`.
        a: First parameter, in the type of `pre`.
        b: Second parameter, likewise.
        pre: One-dimensional preactivations; may be `out`.
        out: Written.
        start: First place.
        size: Number of places.
    """
    stop = start + size
    zero, one, half = _like(a, 0), _like(a, 1), _like(a, 0.5)
    if code == 0:
        for i in range(start, stop):
            out[i] = pre[i]
    elif code == 1:
        for i in range(start, stop):
            out[i] = zero if pre[i] < zero else pre[i]
    elif code == 2:
        for i in range(start, stop):
            out[i] = _clamp(pre[i], zero, _like(a, 6))
    elif code == 3:
        for i in range(start, stop):
            out[i] = pre[i] if pre[i] > zero else pre[i] * a
    elif code == 4:
        for i in range(start, stop):
            out[i] = _elu(pre[i], one, a)
    elif code == 5:
        for i in range(start, stop):
            out[i] = _elu(pre[i], _like(a, _SELU_SCALE), _like(a, _SELU_ALPHA))
    elif code == 6:
        for i in range(start, stop):
            x = pre[i]
            out[i] = a * _expm1(x / a) if x < zero else x
    elif code == 7:
        for i in range(start, stop):
            x = pre[i]
            out[i] = half * x * (one + math.erf(x * _like(a, 0.7071067811865476)))
    elif code == 8:
        for i in range(start, stop):
            x = pre[i]
            out[i] = half * x * (one + _tanh(_gelu_inner(x)))
    elif code == 9:
        for i in range(start, stop):
            out[i] = pre[i] * _sigmoid(pre[i])
    elif code == 10:
        for i in range(start, stop):
            out[i] = pre[i] * _tanh_of_softplus(pre[i])
    elif code == 11:
        for i in range(start, stop):
            x = pre[i] * a
            out[i] = pre[i] if x > b else math.log1p(_exp(x)) / a
    elif code == 12:
        for i in range(start, stop):
            out[i] = pre[i] / (one + abs(pre[i]))
    elif code == 13:
        for i in range(start, stop):
            out[i] = _sigmoid(pre[i])
    elif code == 14:
        for i in range(start, stop):
            out[i] = _tanh(pre[i])
    elif code == 15:
        for i in range(start, stop):
            out[i] = _clamp(pre[i], a, b)
    elif code == 16:
        for i in range(start, stop):
            out[i] = _clamp(pre[i] / _like(a, 6) + half, zero, one)
    elif code == 17:
        for i in range(start, stop):
            x = pre[i]
            out[i] = x * _clamp(x / _like(a, 6) + half, zero, one)
    elif code == 18:
        for i in range(start, stop):
            out[i] = math.sin(pre[i])
    elif code == 19:
        for i in range(start, stop):
            out[i] = _exp(-pre[i] * pre[i])
    elif code == 20:
        for i in range(start, stop):
            out[i] = abs(pre[i])
    elif code == 21:
        for i in range(start, stop):
            out[i] = pre[i] * pre[i]


@njit(nogil=True, error_model="numpy")
def multiply_by_slope(code, a, b, pre, value, gradient, start, size):
    """gradient[i] *= activation'(pre[i]); arguments as in `activate`, `value` being its result.

    At a kink, and at NaN, the slope is the one that torch takes.
    """
    stop = start + size
    zero, one, half = _like(a, 0), _like(a, 1), _like(a, 0.5)
    if code == 1:
        for i in range(start, stop):
            g = gradient[i]
            gradient[i] = zero if pre[i] <= zero else g
    elif code == 2:
        for i in range(start, stop):
            x, g = pre[i], gradient[i]
            gradient[i] = zero if (x <= zero) | (x >= _like(a, 6)) else g
    elif code == 3:
        for i in range(start, stop):
            gradient[i] *= one if pre[i] > zero else a
    elif code == 4:
        for i in range(start, stop):
            below = value[i] + a
            gradient[i] *= below if pre[i] <= zero else one
    elif code == 5:
        scale, alpha = _like(a, _SELU_SCALE), _like(a, _SELU_ALPHA)
        for i in range(start, stop):
            below = value[i] + scale * alpha
            gradient[i] *= below if pre[i] <= zero else scale
    elif code == 6:
        inverse = _like(a, 1.0 / np.float64(_f(a)))
        for i in range(start, stop):
            x = pre[i]
            below = inverse * a * _exp(x * inverse)
            gradient[i] *= below if x <= zero else one
    elif code == 7:
        for i in range(start, stop):
            x = pre[i]
            below = half * (one + math.erf(x * _like(a, 0.7071067811865476)))
            at = _like(a, 0.3989422804014327) * _exp(-half * x * x)
            gradient[i] *= below + x * at
    elif code == 8:
        for i in range(start, stop):
            x = pre[i]
            t = _tanh(_gelu_inner(x))
            inner = _like(a, 0.7978845608028654) * (one + _like(a, 0.134145) * x * x)
            gradient[i] *= half * (one + t) + half * x * (one - t * t) * inner
    elif code == 9:
        for i in range(start, stop):
            s = _sigmoid(pre[i])
            gradient[i] *= s * (one + pre[i] * (one - s))
    elif code == 10:
        for i in range(start, stop):
            t = _tanh_of_softplus(pre[i])
            gradient[i] *= t + pre[i] * (one - t * t) * _sigmoid(pre[i])
    elif code == 11:
        for i in range(start, stop):
            x = pre[i] * a
            below = _sigmoid(x)
            gradient[i] *= one if x > b else below
    elif code == 12:
        for i in range(start, stop):
            size_ = one + abs(pre[i])
            gradient[i] /= size_ * size_
    elif code == 13:
        for i in range(start, stop):
            gradient[i] *= value[i] * (one - value[i])
    elif code == 14:
        for i in range(start, stop):
            gradient[i] *= one - value[i] * value[i]
    elif code == 15:
        for i in range(start, stop):
            x, g = pre[i], gradient[i]
            gradient[i] = zero if (x <= a) | (x >= b) else g
    elif code == 16:
        for i in range(start, stop):
            x, g = pre[i], gradient[i] * _like(a, _SIXTH)
            gradient[i] = g if (x > _like(a, -3)) & (x < _like(a, 3)) else zero
    elif code == 17:
        for i in range(start, stop):
            x = pre[i]
            middle = x / _like(a, 3) + half
            gradient[i] *= zero if x <= _like(a, -3) else (middle if x < _like(a, 3) else one)
    elif code == 18:
        for i in range(start, stop):
            gradient[i] *= math.cos(pre[i])
    elif code == 19:
        for i in range(start, stop):
            gradient[i] *= _like(a, -2) * pre[i] * value[i]
    elif code == 20:
        for i in range(start, stop):
            x, g = pre[i], gradient[i]
            gradient[i] = g if x > zero else (-g if x < zero else zero)
    elif code == 21:
        for i in range(start, stop):
            gradient[i] *= pre[i] + pre[i]
