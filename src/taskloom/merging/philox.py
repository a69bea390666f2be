"""Philox 4x64-10 (Salmon et al., SC 2011) as numpy counts it, on two kinds of units at once.

A block of the generator is ten rounds of two products of 64-bit numbers. Vector units have none and make
them of four products of halves; the other multiplier makes one in a cycle. Both are busy where blocks in
lanes and blocks by themselves take turns round by round.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

#: lanes of a vector, vectors, and blocks by themselves that are under way together
_LANES, _VECTORS, _ALONE = 8, 2, 4
#: blocks that `draw` makes, of eight 32-bit numbers each
BLOCKS = _LANES * _VECTORS + _ALONE

_WORD, _WIDE, _INT = ir.IntType(64), ir.IntType(128), ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, _LANES)
_FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_HALF, _LOW = 32, 0xFFFFFFFF


def _same(number: int) -> Any:
    return ir.Constant(_VECTOR, [number] * _LANES)


def _shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(order)), order))


def _splat(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
    return _shuffled(builder, one, nothing, [0] * _LANES)


def _product(builder: Any, factor: int, c: Any) -> tuple[Any, Any]:
    """Return the high and the low 64 bits of a product."""
    wide = builder.mul(builder.zext(c, _WIDE), ir.Constant(_WIDE, factor))
    high = builder.trunc(builder.lshr(wide, ir.Constant(_WIDE, 64)), _WORD)
    return high, builder.trunc(wide, _WORD)


def _products(builder: Any, factor: int, c: Any) -> tuple[Any, Any]:
    """Return the same of vectors, from products of halves."""
    half, low = _same(_HALF), _same(_LOW)
    small, large = _same(factor & _LOW), _same(factor >> _HALF)
    x, y = builder.and_(c, low), builder.lshr(c, half)
    p, q = builder.mul(small, x), builder.mul(small, y)
    r = builder.add(builder.lshr(p, half), builder.and_(q, low))
    r = builder.add(r, builder.mul(large, x))
    high = builder.add(builder.mul(large, y), builder.lshr(q, half))
    high = builder.add(high, builder.lshr(r, half))
    return high, builder.or_(builder.shl(r, half), builder.and_(p, low))


def _round(builder: Any, multiply: Any, block: list[Any], keys: list[Any]) -> None:
    a, b, c, d = block
    h0, l0 = multiply(builder, _FACTORS[0], a)
    h1, l1 = multiply(builder, _FACTORS[1], c)
    first, third = builder.xor(builder.xor(h1, b), keys[0]), builder.xor(builder.xor(h0, d), keys[1])
    block[:] = first, l1, third, l0


def _store(builder: Any, data: Any, at: Any, value: Any) -> None:
    to = builder.bitcast(builder.gep(data, [at]), value.type.as_pointer())
    builder.store(value, to, align=4)


def _in_order(builder: Any, block: list[Any]) -> Any:
    """Return four vectors as one: the four words of the first lane, those of the second, and so on."""
    pairs = [j for i in range(_LANES) for j in (i, _LANES + i)]
    a, b, c, d = block
    one, other = _shuffled(builder, a, b, pairs), _shuffled(builder, c, d, pairs)
    fours = [2 * i + j for i in range(_LANES) for j in (0, 1, 2 * _LANES, 2 * _LANES + 1)]
    return _shuffled(builder, one, other, fours)


@intrinsic
def draw(context: Any, key0: Any, key1: Any, block: Any, out: Any, at: Any) -> Any:
    """Write the 32-bit numbers of `BLOCKS` blocks, from one on, to an array, from an index on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        keys, first, at = list(args[:2]), args[2], args[4]
        data = context.make_array(signature.args[3])(context, builder, args[3]).data
        nothing = ir.Constant(_WORD, 0)
        lanes = []
        for vector in range(_VECTORS):
            # numpy advances the counter before it draws
            counters = [1 + _LANES * vector + lane for lane in range(_LANES)]
            own = builder.add(_splat(builder, first), ir.Constant(_VECTOR, counters))
            lanes.append([own, _same(0), _same(0), _same(0)])
        alone = []
        for number in range(_LANES * _VECTORS, BLOCKS):
            own = builder.add(first, ir.Constant(_WORD, 1 + number))
            alone.append([own, nothing, nothing, nothing])
        for _ in range(10):
            wide = [_splat(builder, key) for key in keys]
            for each in lanes:
                _round(builder, _products, each, wide)
            for each in alone:
                _round(builder, _product, each, keys)
            keys = [
                builder.add(key, ir.Constant(_WORD, step))
                for key, step in zip(keys, _STEPS, strict=True)
            ]
        for number, each in enumerate(lanes):
            to = builder.add(at, ir.Constant(_WORD, 8 * _LANES * number))
            _store(builder, data, to, _in_order(builder, each))
        for number, each in enumerate(alone):
            for j, word in enumerate(each):
                to = builder.add(at, ir.Constant(_WORD, 8 * (_LANES * _VECTORS + number) + 2 * j))
                _store(builder, data, to, word)
        return context.get_dummy_value()

    signature = types.none(types.uint64, types.uint64, types.uint64, out, types.intp)
    return signature, generate
