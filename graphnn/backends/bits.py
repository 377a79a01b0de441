"""Rows of a sparse matrix as one bit a cell and their edges' numbers, inside numba code.

A *word* is 64 cells of a row, as the bits of an int64, the first cell the lowest. Sixteen cells are
read or written at a time; where the processor can expand and compress vectors, that is one
instruction.

numba is imported here and in the files that are built on this one; all are imported where used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# Bytes of the vectors that are expanded and compressed.
_VECTOR = 64


def _vectors(context, builder, array_type, array, start, bits):
    """Yields (place, cells' bits) of each of the vectors that sixteen cells take."""
    element = context.get_value_type(array_type.dtype)
    lanes = min(16, 8 * _VECTOR // array_type.dtype.bitwidth)
    data = context.make_array(array_type)(context, builder, array).data
    kind, at = ir.IntType(lanes), start
    for first in range(0, 16, lanes):
        own = builder.trunc(builder.lshr(bits, ir.Constant(bits.type, first)), kind)
        mask = builder.bitcast(own, ir.VectorType(ir.IntType(1), lanes))
        yield first, ir.VectorType(element, lanes), builder.gep(data, [at], inbounds=True), mask
        at = builder.add(at, builder.zext(builder.ctpop(own), at.type))


def _call(builder, name, result, args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _place(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index], inbounds=True), vector.as_pointer())


def _name(operation, vector):
    size = 32 if isinstance(vector.element, ir.FloatType) else 64
    return f"llvm.masked.{operation}.v{vector.count}f{size}"


@intrinsic
def expand(_context, numbers, start, bits, out, index):
    """out[index ... index + 15] = the next of numbers[start ...] where a bit is set, else 0."""

    def generate(context, builder, signature, args):
        kind = signature.args
        for first, vector, source, mask in _vectors(
            context, builder, kind[0], args[0], args[1], args[2]
        ):
            zeros = ir.Constant(vector, None)
            cells = _call(builder, _name("expandload", vector), vector, [source, mask, zeros])
            at = builder.add(args[4], ir.Constant(args[4].type, first))
            place = _place(context, builder, kind[3], args[3], at, vector)
            builder.store(cells, place, align=numbers.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(numbers, types.intp, types.int64, out, types.intp), generate


@intrinsic
def compress(_context, cells, index, bits, out, start):
    """out[start ...] = those of cells[index ... index + 15] whose bit is set."""

    def generate(context, builder, signature, args):
        kind = signature.args
        for first, vector, target, mask in _vectors(
            context, builder, kind[3], args[3], args[4], args[2]
        ):
            at = builder.add(args[1], ir.Constant(args[1].type, first))
            place = _place(context, builder, kind[0], args[0], at, vector)
            numbers = builder.load(place, align=cells.dtype.bitwidth // 8)
            name = _name("compressstore", vector)
            _call(builder, name, ir.VoidType(), [numbers, target, mask])
        return context.get_dummy_value()

    return types.void(cells, types.intp, types.int64, out, types.intp), generate


@intrinsic
def count_16(_context, bits):
    """How many of the lowest sixteen bits are set."""

    def generate(_context, builder, _signature, args):
        return builder.zext(builder.ctpop(builder.trunc(args[0], ir.IntType(16))), ir.IntType(64))

    return types.intp(types.int64), generate


@intrinsic
def lowest(_context, bits):
    """The place of the lowest bit that is set; there must be one."""

    def generate(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.int64), generate
