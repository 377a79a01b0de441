"""exp, log and their relatives out of operations that LLVM turns into vector instructions.

A call of the C library would leave a loop scalar. All are functions of one number, float32 or
float64, and make it by the same operations in a vector and alone, so that a result does not depend
on its place in an array. The polynomials interpolate at Chebyshev nodes. Imports numba: import it
where it is used.
"""

# numba hands an intrinsic its typing context itself, which pyright cannot know.
# pyright: reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# Small functions must disappear into the loops that call them, or the loops are not vectorised;
# Python's check for a division by zero would have the same effect.
INLINE: Any = {"error_model": "numpy", "forceinline": True}

_LOG2_E = 1.4426950408889634
# A number's fraction bits, and the 1.5 * 2^bits that leaves x rounded to whole in x + 1.5 * 2^bits.
_FRACTION = {types.float32: 23, types.float64: 52}
_ROUNDER = {kind: 1.5 * 2.0**bits for kind, bits in _FRACTION.items()}
# Below and above these exp is 0 and infinite.
_EXP_RANGE = {types.float32: (-104.0, 90.0), types.float64: (-746.0, 710.0)}
_LOG_OF_LARGEST = {types.float32: 88.722839, types.float64: 709.782712893384}
# ln 2 in two parts; whole numbers of that size times the first are exact.
_LN2 = {
    types.float32: (0.6923828125, 0.0007643680599453094),
    types.float64: (0.6931471803691238, 1.9082149292705877e-10),
}
# (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2, the highest power first, as in all that follow.
_EXP = {
    types.float32: (
        0.000198909908, 0.001393365, 0.00833331093, 0.0416664649, 0.166666667, 0.500000001,
    ),
    types.float64: (
        2.510038549551032e-08, 2.7620088445409746e-07, 2.7557268459997064e-06,
        2.4801521295954376e-05, 0.00019841269863053618, 0.0013888888917213717,
        0.0083333333333300615, 0.041666666666624129, 0.16666666666666669, 0.50000000000000011,
    ),
}  # fmt: skip
# (2 atanh(s) / s - 2) / s^2 in powers of s^2, for s <= 1 / 3.
_LOG = {
    types.float32: (0.26851498, 0.282366198, 0.400075606, 0.666666403),
    types.float64: (
        0.1687070066109721, 0.10322669270499082, 0.13502342471757101, 0.15373274876358003,
        0.18182261108419745, 0.22222212557929713, 0.28571428676660993, 0.39999999999560126,
        0.66666666666666974,
    ),
}  # fmt: skip
# (sin(r) / r - 1) / r^2 in powers of r^2, for |r| <= pi / 2. float32's sines are made in float64.
_SIN = {
    types.float32: (
        -2.4080095087122078e-08, 2.7536459443646091e-06, -0.00019841086507000569,
        0.0083333327685293588, -0.16666666663879851,
    ),
    types.float64: (
        2.7314368769379893e-15, -7.6439696639880739e-13, 1.6058977292642743e-10,
        -2.505210761669045e-08, 2.7557319219160833e-06, -0.00019841269841254966,
        0.0083333333333333159, -0.16666666666666666,
    ),
}  # fmt: skip
# pi in three parts; multiples of 1 / 2 up to 2^19 times the first or the second are exact.
_PI_1, _PI_2, _PI_3 = 3.1415926534682512, 1.2154201012607932e-10, 4.044532497591901e-21
# The largest size of x for which those parts suffice; the C library takes what is larger.
SIN_RANGE = 1e6
# With w = (x - k) / (x + k): exp(x^2 / 2) times the normal distribution's tail above x, divided by
# 1 - w, in powers of w.
_TAIL_K = {types.float32: 4.0, types.float64: 5.0}
_TAIL = {
    types.float32: (
        -1.53728946e-05, 2.43502314e-05, 0.000196164206, -0.000440446757, -0.000940901614,
        0.00755080872, -0.0233153757, 0.048392085, -0.0759870758, 0.0944106423,
    ),
    types.float64: (
        2.3520824056657956e-10, -7.389204600141193e-10, -5.12176335203692e-09,
        4.5359556863040612e-09, 4.1519397551322708e-08, -3.4403258009418844e-08,
        -2.7570290832295638e-07, 3.9871651229775401e-07, 1.6676129498416068e-06,
        -4.9765650418747763e-06, -5.9374406177556961e-06, 5.4489981082270897e-05,
        -7.9786961132085444e-05, -0.00029933768836133332, 0.0020795066820094334,
        -0.0069118638697123003, 0.016502036616937343, -0.031353315667164101, 0.0495305615969997,
        -0.066538250289005313, 0.076919304975006292,
    ),
}  # fmt: skip


def like(x, number) -> Any:
    """`number` in the type of `x`; a plain literal would turn float32 work into float64."""


@overload(like, jit_options=INLINE)
def _like(x, number):
    if x == types.float32:
        return lambda x, number: np.float32(number)
    return lambda x, number: np.float64(number)


def _muladd(builder, a, b, c):
    """A * b + c, rounded once where the processor has such an instruction."""
    name = f"llvm.fmuladd.{'f32' if isinstance(a.type, ir.FloatType) else 'f64'}"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), (a, b, c))


@intrinsic
def _fused(_context, a, b, c):
    """A * b + c."""

    def generate(_context, builder, _signature, args):
        return _muladd(builder, *args)

    return a(a, a, a), generate


@intrinsic
def _polynomial(_context, x, coefficients):
    """The polynomial's value at x."""

    def generate(context, builder, signature, args):
        kind, given = signature.args[0], signature.args[1].dtype
        terms = [
            context.cast(builder, term, given, kind)
            for term in cgutils.unpack_tuple(builder, args[1])
        ]
        total = terms[0]
        for term in terms[1:]:
            total = _muladd(builder, total, args[0], term)
        return total

    return x(x, coefficients), generate


def _integer(kind):
    """LLVM's integer of a numba type's size."""
    return ir.IntType(kind.bitwidth)


@intrinsic
def _scaled(_context, x, rounded):
    """X * 2^n, of n + the type's rounder."""

    def generate(context, builder, signature, args):
        kind = signature.args[0]
        integer, bits = _integer(kind), _FRACTION[kind]
        bias = ir.Constant(integer, (1 << (kind.bitwidth - bits - 2)) - 1)
        rounder = builder.bitcast(context.get_constant(kind, _ROUNDER[kind]), integer)
        n = builder.sub(builder.bitcast(args[1], integer), rounder)
        # Two factors, because 2^n itself may overflow or vanish where x * 2^n does not.
        half = builder.ashr(n, ir.Constant(integer, 1))
        result = args[0]
        for part in (half, builder.sub(n, half)):
            factor = builder.shl(builder.add(part, bias), ir.Constant(integer, bits))
            result = builder.fmul(result, builder.bitcast(factor, result.type))
        return result

    return x(x, x), generate


@intrinsic
def _negated_if_odd(_context, x, rounded):
    """X, or -x if the n of n + the type's rounder is odd."""

    def generate(_context, builder, signature, args):
        integer = _integer(signature.args[0])
        top = ir.Constant(integer, integer.width - 1)
        sign = builder.shl(builder.bitcast(args[1], integer), top)
        bits = builder.xor(builder.bitcast(args[0], integer), sign)
        return builder.bitcast(bits, args[0].type)

    return x(x, x), generate


def _reduced(x) -> Any:
    """(n + rounder, n, q) with exp(x) = 2^n (1 + q)."""


@overload(_reduced, jit_options=INLINE)
def _reduced_(x):
    rounder, coefficients = _ROUNDER[x], _EXP[x]
    (low, high), (ln2, rest) = _EXP_RANGE[x], _LN2[x]

    def reduce(x):
        x = like(x, low) if x < like(x, low) else (like(x, high) if x > like(x, high) else x)
        rounded = _fused(x, like(x, _LOG2_E), like(x, rounder))
        n = rounded - like(x, rounder)
        r = _fused(n, like(x, -rest), _fused(n, like(x, -ln2), x))
        return rounded, n, _fused(_polynomial(r, coefficients), r * r, r)

    return reduce


@njit(**INLINE)
def exp(x) -> Any:
    """The exponential."""
    rounded, _, q = _reduced(x)
    return _scaled(like(x, 1) + q, rounded)


@njit(**INLINE)
def expm1(x) -> Any:
    """exp(x) - 1, precise near 0 too."""
    rounded, n, q = _reduced(x)
    return q if n == like(x, 0) else _scaled(like(x, 1) + q, rounded) - like(x, 1)


@njit(**INLINE)
def tanh(x) -> Any:
    """The hyperbolic tangent, precise near 0 and 1, where a slope cancels."""
    one = like(x, 1)
    rounded, n, q = _reduced(like(x, -2) * abs(x))
    e = _scaled(one + q, rounded)
    less_one = q if n == like(x, 0) else e - one
    is_near = abs(x) < like(x, 0.5)
    ratio = (-less_one if is_near else e + e) / (one + e)
    return math.copysign(ratio if is_near else one - ratio, x)


def log_1_plus_exp(x) -> Any:
    """log(1 + exp(x)); infinite where exp(x) is."""


@overload(log_1_plus_exp, jit_options=INLINE)
def _log_1_plus_exp(x):
    coefficients, limit = _LOG[x], _LOG_OF_LARGEST[x]

    def logarithm(x):
        e = exp(-abs(x))
        s = e / (e + like(x, 2))
        result = s * _fused(_polynomial(s * s, coefficients), s * s, like(x, 2))
        result = result + (x if x > like(x, 0) else like(x, 0))
        return like(x, math.inf) if x > like(x, limit) else result

    return logarithm


def normal_below(x) -> Any:
    """(the normal distribution's share below x, exp(-x^2 / 2))."""


@overload(normal_below, jit_options=INLINE)
def _normal_below(x):
    k, coefficients = _TAIL_K[x], _TAIL[x]

    def below(x):
        e = exp(like(x, -0.5) * x * x)
        v = like(x, 2 * k) / (abs(x) + like(x, k))
        tail = e * v * _polynomial(like(x, 1) - v, coefficients)
        return (tail if x < like(x, 0) else like(x, 1) - tail), e

    return below


@njit(**INLINE)
def _sine_less(x, n, coefficients):
    """sin(x - n pi), where that is at most pi / 2 in size; of float64."""
    r = _fused(n, -_PI_3, _fused(n, -_PI_2, _fused(n, -_PI_1, x)))
    return r * _fused(_polynomial(r * r, coefficients), r * r, 1.0)


def sin(x) -> Any:
    """The sine of x up to SIN_RANGE in size."""


@overload(sin, jit_options=INLINE)
def _sin(x):
    coefficients, rounder = _SIN[x], _ROUNDER[types.float64]

    def sine(x):
        wide = np.float64(x)
        rounded = _fused(wide, 1 / math.pi, rounder)
        n = rounded - rounder
        return like(x, _negated_if_odd(_sine_less(wide, n, coefficients), rounded))

    return sine


def cos(x) -> Any:
    """The cosine of x up to SIN_RANGE in size."""


@overload(cos, jit_options=INLINE)
def _cos(x):
    coefficients, rounder = _SIN[x], _ROUNDER[types.float64]

    def cosine(x):
        # The nearest multiple of pi and a half; there the sign is the opposite of sin's.
        wide = np.float64(x)
        rounded = (wide * (1 / math.pi) - 0.5) + rounder
        n = (rounded - rounder) + 0.5
        return like(x, -_negated_if_odd(_sine_less(wide, n, coefficients), rounded))

    return cosine
