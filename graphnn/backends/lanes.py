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
from llvmlite import binding, ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

# Samples in a vector -> the tag that stands for it in a call.
TAGS = {1: np.uint8(0), 16: np.uint16(0), 32: np.uint32(0), 64: np.uint64(0)}
_WIDTHS = {types.uint8: 1, types.uint16: 16, types.uint32: 32, types.uint64: 64}
# Bytes of a row that six sums fit the registers with.
BLOCK = 256 if binding.get_host_cpu_features().get("avx512f") else 64
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
def block_of(_context, tag, array):
    """The tag of the part of a row that a few sums fit the registers with."""
    most = max(16, BLOCK * 8 // array.dtype.bitwidth)
    fitting = max((k for k, width in _WIDTHS.items() if width <= most), key=_WIDTHS.__getitem__)
    own = min(tag, fitting, key=_WIDTHS.__getitem__)

    def generate(context, _builder, _signature, _args):
        return context.get_constant(own, 0)

    return own(tag, array), generate


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


def _splat(builder, number, width):
    undefined = ir.Constant(ir.VectorType(number.type, width), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(first, undefined, zeros)


@intrinsic
def prefetch(_context, array, index):
    """Asks for array[index], so that it is near when it is read. Any index will do."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To be read, to be kept in all caches, data.
        builder.call(function, [place, *(ir.Constant(number, flag) for flag in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def splat(_context, tag, number):
    """A vector that holds `number` everywhere."""
    lanes = Lanes(number, _WIDTHS[tag])

    def generate(_context, builder, _signature, args):
        return _splat(builder, args[1], lanes.width)

    return lanes(tag, number), generate


@intrinsic
def at(_context, array, index):
    """array[index], where the index is not negative: no code asks whether it is."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]], inbounds=True))

    return array.dtype(array, types.intp), generate


@intrinsic
def splat_at(_context, tag, array, index):
    """`splat` of `at`."""
    lanes = Lanes(array.dtype, _WIDTHS[tag])

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[1])(context, builder, args[1]).data
        number = builder.load(builder.gep(data, [args[2]], inbounds=True))
        return _splat(builder, number, lanes.width)

    return lanes(tag, array, types.intp), generate


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
def plus(_context, a, b):
    """A + b."""

    def generate(_context, builder, _signature, args):
        return builder.fadd(*args)

    return a(a, b), generate


@intrinsic
def times(_context, a, b):
    """A * b."""

    def generate(_context, builder, _signature, args):
        return builder.fmul(*args)

    return a(a, b), generate


@intrinsic
def ramp(_context, a):
    """0 where a is below 0, else a."""

    def generate(context, builder, signature, args):
        zeros = ir.Constant(context.get_value_type(signature.args[0]), None)
        return builder.select(builder.fcmp_ordered("<", args[0], zeros), zeros, args[0])

    return a(a), generate


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


def _picked(builder, a, b, lanes):
    """The vector of the given lanes of a and b, b's numbered after a's."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(a, b, mask)


@intrinsic
def _folded(_context, a, array, index):
    """The products of a and the vector at array[index], summed over lanes equal modulo 16."""

    def generate(context, builder, signature, args):
        lanes = Lanes(array.dtype, 16)
        vector = context.get_value_type(lanes)
        kind = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.{_suffix(vector)}")
        sums = None
        for first in range(0, args[0].type.count, 16):
            own = _picked(builder, args[0], args[0], list(range(first, first + 16)))
            start = builder.add(args[2], ir.Constant(args[2].type, first))
            place = _address(context, builder, signature.args[1], args[1], start, vector)
            other = builder.load(place, align=array.dtype.bitwidth // 8)
            if sums is None:
                sums = builder.fmul(own, other)
            else:
                sums = builder.call(fma, [own, other, sums])
        return sums

    return Lanes(array.dtype, 16)(a, array, types.intp), generate


@intrinsic
def _store_first(_context, array, index, value, count):
    """Writes the first `count` numbers of a vector to array[index] and what follows."""

    def generate(context, builder, signature, args):
        vector = context.get_value_type(signature.args[2])
        place = _address(context, builder, signature.args[0], args[0], args[1], vector)
        number, lanes = args[3].type, vector.count
        own = ir.Constant(ir.VectorType(number, lanes), list(range(lanes)))
        mask = builder.icmp_signed("<", own, _splat(builder, args[3], lanes))
        align = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [vector, place.type, align, mask.type])
        name = f"llvm.masked.store.{_suffix(vector)}.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        size = ir.Constant(align, array.dtype.bitwidth // 8)
        builder.call(function, [args[2], place, size, mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), generate


def _adder_of_neighbours(step):
    """An intrinsic that adds groups of `step` lanes to their neighbours, in a and b at once.

    Its result has a's sums in the even groups and b's in the odd ones.
    """

    @intrinsic
    def add(_context, a, b):
        def generate(_context, builder, _signature, args):
            even, odd = [], []
            for group in range(0, 16, 2 * step):
                own = list(range(group, group + step))
                even += own + [16 + lane for lane in own]
                odd += [lane + step for lane in own] + [16 + lane + step for lane in own]
            left = _picked(builder, args[0], args[1], even)
            right = _picked(builder, args[0], args[1], odd)
            return builder.fadd(left, right)

        return a(a, b), generate

    return add


_add_8, _add_4, _add_2, _add_1 = (_adder_of_neighbours(step) for step in (8, 4, 2, 1))
_SIXTEEN = TAGS[16]
# So many edges or fewer are multiplied one by one.
_FEW = 4


@njit(forceinline=True)
def _two(tag, arriving, state, source, edge):
    """The folded products of edges `edge` and `edge` + 8."""
    width = width_of(tag)
    low = _folded(arriving, state, at(source, edge) * width)
    high = _folded(arriving, state, at(source, edge + 8) * width)
    return _add_8(low, high)


@njit(forceinline=True)
def _four(tag, arriving, state, source, edge):
    low = _two(tag, arriving, state, source, edge)
    return _add_4(low, _two(tag, arriving, state, source, edge + 4))


@njit(forceinline=True)
def _eight(tag, arriving, state, source, edge):
    low = _four(tag, arriving, state, source, edge)
    return _add_2(low, _four(tag, arriving, state, source, edge + 2))


def add_products(tag, arriving, state, source, start, stop, sums, is_fresh):
    """sums[edge] += the sum over lanes of arriving * state at source[edge], for start ... stop - 1.

    Sixteen edges at a time, the sixteen sums over lanes are one tree of vector additions. The last
    of a neuron's edges are taken together with the next neuron's, whose sums are not stored. Where
    `is_fresh`, the sums are written, whatever was there.
    """


@overload(add_products, jit_options={"forceinline": True})
def _add_products(tag, arriving, state, source, start, stop, sums, is_fresh):
    def one_by_one(tag, arriving, state, source, start, stop, sums, is_fresh):
        width = width_of(tag)
        for edge in range(start, stop):
            product = total(times(arriving, load(tag, state, at(source, edge) * width)))
            sums[edge] = product if is_fresh else sums[edge] + product

    def by_sixteen(tag, arriving, state, source, start, stop, sums, is_fresh):
        width = width_of(tag)
        edge = start
        while edge + _FEW <= stop and edge + 16 <= source.size:
            products = _add_1(
                _eight(tag, arriving, state, source, edge),
                _eight(tag, arriving, state, source, edge + 1),
            )
            if not is_fresh:
                products = plus(load(_SIXTEEN, sums, edge), products)
            if edge + 16 <= stop:
                store(sums, edge, products)
            else:
                _store_first(sums, edge, products, stop - edge)
            edge += 16
        while edge < stop:
            product = total(times(arriving, load(tag, state, at(source, edge) * width)))
            sums[edge] = product if is_fresh else sums[edge] + product
            edge += 1

    return one_by_one if _WIDTHS[tag] < 16 else by_sixteen


@intrinsic
def transpose_16(_context, source, start, stride, out, out_start, out_stride):
    """out[out_start + i * out_stride + j] = source[start + j * stride + i] for i, j in 0 ... 15."""

    def generate(context, builder, signature, args):
        kind, out_kind = signature.args[0], signature.args[3]
        vector = context.get_value_type(Lanes(kind.dtype, 16))
        align = kind.dtype.bitwidth // 8

        def place(array_type, array, first, step, row):
            index = builder.add(first, builder.mul(step, ir.Constant(step.type, row)))
            return _address(context, builder, array_type, array, index, vector)

        rows = [
            builder.load(place(kind, args[0], args[1], args[2], row), align=align)
            for row in range(16)
        ]
        # Swaps the off-diagonal quarters of squares of 2, 4, 8 and 16 rows.
        for step in (1, 2, 4, 8):
            own = [lane for lane in range(16) if not lane & step]
            low, high = [0] * 16, [0] * 16
            for lane in own:
                low[lane], low[lane + step] = lane, 16 + lane
                high[lane], high[lane + step] = lane + step, 16 + lane + step
            for row in own:
                a, b = rows[row], rows[row + step]
                rows[row] = _picked(builder, a, b, low)
                rows[row + step] = _picked(builder, a, b, high)
        for row in range(16):
            at = place(out_kind, args[3], args[4], args[5], row)
            builder.store(rows[row], at, align=align)
        return context.get_dummy_value()

    signature = types.void(source, types.intp, types.intp, out, types.intp, types.intp)
    return signature, generate
