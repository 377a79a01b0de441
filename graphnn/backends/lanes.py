"""Vectors of samples as register values inside numba code.

numba keeps a loop's accumulator in memory because another array might alias it; a vector value
stays in registers. How many samples a vector holds is decided by the *type* of a tag argument,
because types are what numba compiles and caches a function for: see `TAGS`.

numba is imported here and in the files that are built on this one; all are imported where used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

# Samples in a vector -> the tag that stands for it in a call.
TAGS = {1: np.uint8(0), 16: np.uint16(0), 32: np.uint32(0), 64: np.uint64(0)}
_WIDTHS = {types.uint8: 1, types.uint16: 16, types.uint32: 32, types.uint64: 64}
_ELEMENTS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


class Lanes(types.Type):
    """The numba type of a vector of `width` numbers."""

    def __init__(self, dtype, width):
        self.dtype = dtype
        self.width = width
        super().__init__(name=f"Lanes({dtype}, {width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, ir.VectorType(_ELEMENTS[lanes.dtype], lanes.width))


def _address(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index], inbounds=True), vector.as_pointer())


def _suffix(vector):
    return f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"


@intrinsic
def width_of(_context, tag):
    """The number of samples that a tag stands for, as a compile-time constant."""

    def generate(context, _builder, signature, _args):
        return context.get_constant(types.intp, _WIDTHS[signature.args[0]])

    return types.intp(tag), generate


@intrinsic
def load(_context, tag, array, index):
    """The vector that starts at array[index]; the array is one-dimensional and contiguous."""
    lanes = Lanes(array.dtype, _WIDTHS[tag])

    def generate(context, builder, signature, args):
        vector = context.get_value_type(lanes)
        place = _address(context, builder, signature.args[1], args[1], args[2], vector)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return lanes(tag, array, types.intp), generate


@intrinsic
def store(_context, array, index, value):
    """Writes a vector to array[index] and what follows."""

    def generate(context, builder, signature, args):
        vector = context.get_value_type(signature.args[2])
        place = _address(context, builder, signature.args[0], args[0], args[1], vector)
        builder.store(args[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def splat(_context, tag, number):
    """A vector that holds `number` everywhere."""
    lanes = Lanes(number, _WIDTHS[tag])

    def generate(context, builder, _signature, args):
        vector = context.get_value_type(lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(undefined, args[1], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.width), [0] * lanes.width)
        return builder.shuffle_vector(first, undefined, zeros)

    return lanes(tag, number), generate


@intrinsic
def fma(_context, a, b, c):
    """A * b + c, rounded once."""

    def generate(context, builder, signature, args):
        vector = context.get_value_type(signature.return_type)
        kind = ir.FunctionType(vector, [vector] * 3)
        name = f"llvm.fma.{_suffix(vector)}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return a(a, b, c), generate


@intrinsic
def times(_context, a, b):
    """A * b."""

    def generate(_context, builder, _signature, args):
        return builder.fmul(*args)

    return a(a, b), generate


@intrinsic
def total(_context, a):
    """The sum over a vector, in a fixed order of pairs."""

    def generate(context, builder, signature, args):
        vector = context.get_value_type(signature.args[0])
        kind = ir.FunctionType(vector.element, [vector.element, vector])
        name = f"llvm.vector.reduce.fadd.{_suffix(vector)}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        zero = ir.Constant(vector.element, 0.0)
        return builder.call(function, [zero, args[0]], fastmath=("reassoc",))

    return a.dtype(a), generate
