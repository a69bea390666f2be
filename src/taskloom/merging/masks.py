"""Which of 64 numbers that follow each other meet a condition, as the bits of one number.

A loop whose every trip may or may not store something is no vector code. Here 64 numbers are compared
at once, on any processor (LLVM makes vector code of what it has), and those that were found are visited
bit by bit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BIT, _INT, _WORD, _FLOAT = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _splat(builder: Any, number: Any) -> Any:
    """Return a vector of 64 times a number."""
    nothing = ir.Constant(ir.VectorType(number.type, 64), ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_INT, 64), [0] * 64))


def _loaded(context: Any, builder: Any, kind: Any, array: Any, at: Any, number: Any) -> Any:
    """Return 64 numbers of a contiguous array, from an index on."""
    data = context.make_array(kind)(context, builder, array).data
    first = builder.bitcast(builder.gep(data, [at]), ir.VectorType(number, 64).as_pointer())
    return builder.load(first, align=4)


def _word(builder: Any, found: Any) -> Any:
    return builder.bitcast(found, _WORD)


@intrinsic
def inside(context: Any, keys: Any, at: Any, mask: Any, least: Any, width: Any) -> Any:
    """Say which of 64 keys, from an index on, lie in ``least`` .. ``least + width - 1`` under a mask."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = _loaded(context, builder, signature.args[0], args[0], args[1], _INT)
        off = builder.sub(builder.and_(given, _splat(builder, args[2])), _splat(builder, args[3]))
        return _word(builder, builder.icmp_unsigned("<", off, _splat(builder, args[4])))

    return types.uint64(keys, types.intp, types.uint32, types.uint32, types.uint32), generate


@intrinsic
def ranked(
    context: Any, keys: Any, at: Any, mask: Any, first: Any, last: Any, least: Any, width: Any
) -> Any:
    """Say which of 64 keys are below a number, equal it, equal another one, and lie `inside`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = _loaded(context, builder, signature.args[0], args[0], args[1], _INT)
        kept = builder.and_(given, _splat(builder, args[2]))
        low, off = _splat(builder, args[3]), builder.sub(kept, _splat(builder, args[5]))
        words = [
            _word(builder, builder.icmp_unsigned("<", kept, low)),
            _word(builder, builder.icmp_unsigned("==", kept, low)),
            _word(builder, builder.icmp_unsigned("==", kept, _splat(builder, args[4]))),
            _word(builder, builder.icmp_unsigned("<", off, _splat(builder, args[6]))),
        ]
        return cgutils.pack_array(builder, words)

    four, number = types.UniTuple(types.uint64, 4), types.uint32
    return four(keys, types.intp, number, number, number, number, number), generate


@intrinsic
def reached(context: Any, values: Any, at: Any, limit: Any) -> Any:
    """Say which of 64 float32 numbers, from an index on, are not below a limit; NaN is not."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = _loaded(context, builder, signature.args[0], args[0], args[1], _FLOAT)
        return _word(builder, builder.fcmp_unordered(">=", given, _splat(builder, args[2])))

    return types.uint64(values, types.intp, types.float32), generate


@intrinsic
def ones(context: Any, word: Any) -> Any:
    """Count the bits that are set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@intrinsic
def lowest(context: Any, word: Any) -> Any:
    """Return the index of the lowest bit of a number that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(_BIT, 1))

    return types.uint64(types.uint64), generate
