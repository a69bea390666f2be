"""Fused kernels: many steps over one slice in one pass through the cache, compiled by numba.

A slice is decoded to float32 in blocks that stay in the first two cache levels, every step of the
chain runs on the block, and the result is encoded; no step sees main memory. All arithmetic is that
of `taskloom.merging.plain`, operation by operation in the same order, without contraction, so that
both give the same bits.

Nothing here knows of chains or files; `taskloom.merging.fused` translates.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskloom.merging.masks import inside, lowest, ones, ranked, reached
from taskloom.merging.philox import BLOCKS, draw

# kinds of numbers
F32, BF16, F16, TABLE = 0, 1, 2, 3
# steps
WEIGH, TOTAL, MEAN, KEPT, SCALE, DROP, ELECT, KEEP, TENSOR, ROW, STOCK, RANK = range(12)
VARY, ERASE, BAND, NOTHING, TALL, CONSENSUS, TAKE, LARGEST, BEYOND, EXCLUSIVE, COMPETE = range(12, 23)

BLOCK = 4096

_jit = nb.njit(nogil=True, cache=True, error_model="numpy", fastmath=False)


@intrinsic
def _mulhi(context: Any, a: Any, b: Any) -> Any:
    """High 64 bits of a product of two 64-bit numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


def _cast(source: types.Type, target: types.Type, kind: ir.Type) -> Any:
    """Return the function from a number of one type to that of another type with the same bits."""

    @intrinsic
    def cast(context: Any, a: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], kind)

        return target(source), generate

    return cast


_number = _cast(types.uint32, types.float32, ir.FloatType())
_bits = _cast(types.float32, types.uint32, ir.IntType(32))
_wide_number = _cast(types.uint64, types.float64, ir.DoubleType())


@_jit
def _decode(raw8, raw16, raw32, k, kind, table, at, m, value, bits):
    """Numbers ``at`` .. ``at + m`` of source k as float32; return whether one is not finite.

    Slices are taken first: with an index that may be negative no loop becomes vector code.
    """
    if kind == 1:
        half = raw16[k, at : at + m]
        for i in range(m):
            bits[i] = np.uint32(half[i]) << np.uint32(16)
    elif kind == 0:
        full = raw32[k, at : at + m]
        for i in range(m):
            bits[i] = full[i]
    elif kind == 2:
        half = raw16[k, at : at + m]
        for i in range(m):
            bits[i] = (np.uint32(half[i]) & np.uint32(0x7FFF)) << np.uint32(13)
        for i in range(m):
            value[i] = value[i] * np.float32(2.0**112)
        for i in range(m):
            u = np.uint32(half[i])
            special = np.uint32(0x7F800000) | ((u & np.uint32(0x3FF)) << np.uint32(13))
            odd = (u & np.uint32(0x7C00)) == np.uint32(0x7C00)
            bits[i] = (special if odd else bits[i]) | ((u & np.uint32(0x8000)) << np.uint32(16))
    else:
        byte = raw8[k, at : at + m]
        for i in range(m):
            bits[i] = table[byte[i]]
    largest = np.uint32(0)
    for i in range(m):
        largest = max(largest, np.uint32(bits[i] & np.uint32(0x7F800000)))
    return np.int64(largest == np.uint32(0x7F800000))


@_jit
def _encode(value, bits, kind, at, m, out16, out32):
    """Round to nearest, ties to even; return whether one is not finite in the output's dtype."""
    if kind == 0:
        full = out32[at : at + m]
        largest = np.uint32(0)
        for i in range(m):
            u = bits[i]
            nan = (u & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            full[i] = np.uint32(0x7FC00000) if nan else u
        for i in range(m):
            largest = max(largest, np.uint32(full[i] & np.uint32(0x7F800000)))
        return np.int64(largest == np.uint32(0x7F800000))
    half = out16[at : at + m]
    top = np.uint16(0x7F80) if kind == 1 else np.uint16(0x7C00)
    if kind == 1:
        for i in range(m):
            u = bits[i]
            nan = (u & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            r = np.uint32(
                (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )
            half[i] = np.uint16(np.uint32(0x7FC0) if nan else r)
    else:
        for i in range(m):
            u = bits[i]
            half[i] = np.uint16((u >> np.uint32(16)) & np.uint32(0x8000))
            bits[i] = u & np.uint32(0x7FFFFFFF)
        for i in range(m):
            u = bits[i]
            # below the smallest normal number the addition does the rounding
            value[i] = value[i] + np.float32(0.5)
            low = np.uint32(bits[i] - np.uint32(0x3F000000))
            normal = np.uint32(
                (u - np.uint32(0x38000000) + np.uint32(0xFFF) + ((u >> np.uint32(13)) & np.uint32(1)))
                >> np.uint32(13)
            )
            r = low if u < np.uint32(0x38800000) else normal
            r = np.uint32(0x7C00) if u >= np.uint32(0x47800000) else r
            r = np.uint32(0x7E00) if u > np.uint32(0x7F800000) else r | np.uint32(half[i])
            half[i] = np.uint16(r)
    most = np.uint16(0)
    for i in range(m):
        most = max(most, np.uint16(half[i] & top))
    return np.int64(most == top)


@_jit
def _philox(key0, key1, first, m, out):
    """32-bit numbers ``first`` .. ``first + m`` of Philox 4x64-10, as numpy counts them."""
    block = first >> 3
    skip = first - (block << 3)
    at = 0
    while at < m:
        if skip == 0 and at + 8 * BLOCKS <= m:
            draw(key0, key1, np.uint64(block), out, at)
            at += 8 * BLOCKS
            block += BLOCKS
            continue
        # numpy advances the counter before it draws
        c0, c1, c2, c3 = np.uint64(block + 1), np.uint64(0), np.uint64(0), np.uint64(0)
        k0, k1 = key0, key1
        for _ in range(10):
            h0 = _mulhi(np.uint64(0xD2E7470EE14C6C93), c0)
            l0 = np.uint64(0xD2E7470EE14C6C93) * c0
            h1 = _mulhi(np.uint64(0xCA5A826395121157), c2)
            l1 = np.uint64(0xCA5A826395121157) * c2
            c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
            k0 = k0 + np.uint64(0x9E3779B97F4A7C15)
            k1 = k1 + np.uint64(0xBB67AE8584CAA73B)
        if skip == 0 and at + 8 <= m:
            out[at] = np.uint32(c0)
            out[at + 1] = np.uint32(c0 >> np.uint64(32))
            out[at + 2] = np.uint32(c1)
            out[at + 3] = np.uint32(c1 >> np.uint64(32))
            out[at + 4] = np.uint32(c2)
            out[at + 5] = np.uint32(c2 >> np.uint64(32))
            out[at + 6] = np.uint32(c3)
            out[at + 7] = np.uint32(c3 >> np.uint64(32))
            at += 8
        else:
            for j in range(skip, 8):
                if at < m:
                    word = c0 if j < 2 else (c1 if j < 4 else (c2 if j < 6 else c3))
                    half = word >> np.uint64(32) if j & 1 else word
                    out[at] = np.uint32(half)
                    at += 1
            skip = 0
        block += 1


@_jit
def _sizes(bits, n, into):
    """Write magnitudes; return the largest."""
    most = np.uint32(0)
    for i in range(n):
        u = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
        into[i] = u
        most = max(most, u)
    return most


@_jit
def _probe(sizes, n, t):
    """Return how many are at least t, the smallest of these, and the largest of the others."""
    count, above, below = np.uint32(0), np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(n):
        u = np.uint32(sizes[i])
        inside = u >= t
        count = np.uint32(count + np.uint32(inside))
        above = min(above, u if inside else np.uint32(0xFFFFFFFF))
        below = max(below, np.uint32(0) if inside else u)
    return np.int64(count), above, below


@_jit
def _row_limit(sizes, n, most, rank, guess):
    """Find the ``rank``-th largest of a row, and how many equal to it are among the ``rank`` largest.

    Counts what lies above a number and closes in on the wanted one, by straight lines in value or, now
    and then, by halves in bits. Every count is one pass of vector code over a row in the first cache
    level. ``guess`` decides about time only.
    """
    low, low_count = np.uint32(0), np.int64(n)
    high, high_count = most, np.int64(0)
    t, turn = guess, 0
    while low < high:
        t = max(np.uint32(low + np.uint32(1)), min(t, high))
        count, above, below = _probe(sizes, n, t)
        if count == rank:
            return above, np.int64(n)
        if count > rank:
            low, low_count = above, count
        else:
            high, high_count = below, count
        turn += 1
        if turn % 4 == 3:
            t = np.uint32(low + ((high - low) >> np.uint32(1)) + np.uint32(1))
        else:
            share = np.float32(low_count - rank) / np.float32(low_count - high_count)
            a, b = _number(low), _number(high)
            t = _bits(np.float32(a + (b - a) * share))
    return low, np.int64(rank - high_count)


@_jit
def _place(sizes, n, limit, left):
    """Return the index after the ``left``-th entry that equals the limit; n if there are not more."""
    if left <= 0:
        return 0
    for at in range(0, n, 64):
        step = min(64, n - at)
        part = sizes[at : at + step]
        equal = np.uint32(0)
        for i in range(step):
            equal = np.uint32(equal + np.uint32(np.uint32(part[i]) == limit))
        if np.int64(equal) >= left:
            for i in range(step):
                left -= np.int64(np.uint32(part[i]) == limit)
                if left == 0:
                    return at + i + 1
        left -= np.int64(equal)
    return n


@_jit
def _mark(x, sizes, n, limit, place, top, low):
    """Multiply by ``top`` above the limit and, before ``place``, at it; elsewhere by ``low``."""
    y, u = x[:place], sizes[:place]
    for i in range(place):
        y[i] = y[i] * (top if u[i] >= limit else low)
    y, u = x[place:n], sizes[place:n]
    for i in range(n - place):
        y[i] = y[i] * (top if u[i] > limit else low)


@_jit
def _equal(x, n, limit):
    """Count the magnitudes that equal a limit, by their bits."""
    some = np.uint32(0)
    for i in range(n):
        some = np.uint32(some + np.uint32(np.uint32(_bits(x[i]) & np.uint32(0x7FFFFFFF)) == limit))
    return np.int64(some)


@_jit
def _after(x, n, limit, left):
    """Return the index after the ``left``-th magnitude that equals a limit; n if there are fewer."""
    for i in range(n):
        left -= np.int64(np.uint32(_bits(x[i]) & np.uint32(0x7FFFFFFF)) == limit)
        if left == 0:
            return i + 1
    return n


@_jit
def _above(x, n, least, top, low):
    """Multiply by ``top`` what is not below a limit, by ``low`` the rest.

    The bits come from the number itself: a loop that reads memory under two types is no vector code.
    """
    for i in range(n):
        x[i] = x[i] * (top if np.uint32(_bits(x[i]) & np.uint32(0x7FFFFFFF)) >= least else low)


@_jit
def _limited(x, n, limit, left, cuts):
    """Keep (or cut) what is above the limit and the first ``left`` that equal it.

    Return how many equal it, or 0 where that does not matter any more.
    """
    one, zero = np.float32(1), np.float32(0)
    top, low = (zero, one) if cuts else (one, zero)
    equal = _equal(x, n, limit) if left > 0 else 0
    place = 0 if left <= 0 else (n if left >= equal else _after(x, n, limit, left))
    _above(x, place, limit, top, low)
    _above(x[place:], n - place, np.uint32(limit + np.uint32(1)), top, low)
    return equal


@_jit
def _banded(x, n, high, first, low, second):
    """Cut what is above a limit, and the first that equal it; keep of the rest what is above another.

    As `_limited` twice, for limits of which the second is lower. Return how many equal the one and the
    other.
    """
    one, zero, mask = np.float32(1), np.float32(0), np.uint32(0x7FFFFFFF)
    equal = _equal(x, n, high) if first > 0 else 0
    others = _equal(x, n, low) if second > 0 else 0
    if 0 < first < equal or 0 < second < others:
        _limited(x, n, high, first, True)
        _limited(x, n, low, second, False)
        return equal, others
    least = np.uint32(low + np.uint32(second <= 0))
    width = np.uint32(high + np.uint32(first <= 0) - least)
    for i in range(n):
        u = np.uint32(_bits(x[i]) & mask)
        x[i] = x[i] * (one if np.uint32(u - least) < width else zero)
    return equal, others


@_jit
def _even_ranks(sizes, n, keys, counts, starts, order, ranks):
    """Write the rank of every entry of a row as `_ranks` does; False if that takes more than counting.

    Differences of numbers of few bits are mostly whole multiples of one step, so that counting them
    step by step says their ranks. Those between two steps are counted there, apart from those on the
    step, and put in order by insertion; where they are many, nothing is written.

    Bins lie 32 columns apart, so that adding them up is vector code.
    """
    most = np.uint32(0)
    for i in range(n):
        most = max(most, np.uint32(sizes[i]))
    exponent = np.int64(most >> np.uint32(23))
    # what is scaled keeps all its bits if the factor is not below 1
    if n > 32768 or n < 64 or exponent < 27 or exponent > 135:
        return False
    width = 10
    while (1 << width) < 2 * n and width < 13:
        width += 1
    bins, far = 1 << width, width - 5
    scale = _number(np.uint32(252 + width - exponent) << np.uint32(23))
    inner, shift = np.uint32((1 << far) - 1), np.uint32(far)
    between = np.uint32(0)
    for i in range(n):
        y = _number(np.uint32(sizes[i])) * scale
        whole = np.int32(y)
        part = np.uint32(np.float32(whole) != y)
        between = np.uint32(between + part)
        code = np.uint32((np.uint32(whole) << np.uint32(1)) | part)
        keys[i] = ((code & inner) << np.uint32(5)) | (code >> shift)
    if between > np.uint32(n >> 2):
        return False
    counts[:bins] = 0
    for i in range(n):
        counts[keys[i]] += 1
    starts[:32] = 0
    for j in range(bins):
        starts[j + 32] = starts[j] + counts[j]
    before = np.uint16(0)
    for j in range(32):
        column = starts[bins + j]
        starts[j] = before
        before = np.uint16(before + column)
    for j in range(bins):
        starts[j + 32] = starts[j] + counts[j]
    _give_ranks(keys, n, starts, ranks)
    if between == np.uint32(0):
        return True
    for at in range(0, n, 64):
        word = np.uint64(0)
        if at + 64 <= n:
            word = inside(keys, at, np.uint32(32), np.uint32(32), np.uint32(1))
        else:
            for i in range(at, n):
                word |= np.uint64((keys[i] >> np.uint32(5)) & np.uint32(1)) << np.uint64(i - at)
        while word != np.uint64(0):
            i = np.int64(np.uint64(at) + lowest(word))
            word &= word - np.uint64(1)
            key = keys[i]
            if counts[key] > 1:
                first, to = np.int64(starts[key]) - np.int64(counts[key]), np.int64(ranks[i])
                size = sizes[i]
                while to > first and sizes[order[to - 1]] > size:
                    order[to] = order[to - 1]
                    ranks[order[to]] = np.uint16(to)
                    to -= 1
                order[to] = np.uint32(i)
                ranks[i] = np.uint16(to)
    return True


@_jit
def _give_ranks(keys, n, starts, ranks):
    """Write where each key comes, those of its bin in order; four are stored at once."""
    fours, one = ranks[: n // 4 * 4].view(np.uint64), np.uint16(1)
    for j in range(n // 4):
        i = np.uint64(4 * j)
        key = keys[i]
        a = starts[key]
        starts[key] = np.uint16(a + one)
        key = keys[i + np.uint64(1)]
        b = starts[key]
        starts[key] = np.uint16(b + one)
        key = keys[i + np.uint64(2)]
        c = starts[key]
        starts[key] = np.uint16(c + one)
        key = keys[i + np.uint64(3)]
        d = starts[key]
        starts[key] = np.uint16(d + one)
        pair = np.uint64(a) | (np.uint64(b) << np.uint64(16))
        fours[j] = pair | ((np.uint64(c) | (np.uint64(d) << np.uint64(16))) << np.uint64(32))
    for i in range(n // 4 * 4, n):
        key = keys[i]
        ranks[i] = starts[key]
        starts[key] = np.uint16(starts[key] + one)


@_jit
def _ranks(sizes, n, keys, one, other, counts, ranks):
    """Write the rank of every entry of a row from 0, the smallest first, equal ones by index.

    Radix sort of what of the bits differs: numbers made of 16-bit ones leave many of the lowest bits
    zero, and few exponents. The last pass writes ranks instead of numbers.
    """
    some, most, least = np.uint32(0), np.uint32(0), np.uint32(0xFFFFFFFF)
    for i in range(n):
        u = np.uint32(sizes[i])
        some = np.uint32(some | u)
        most = max(most, u)
        least = min(least, u if u > np.uint32(0) else np.uint32(0xFFFFFFFF))
    if some == np.uint32(0):
        for i in range(n):
            ranks[i] = np.float32(i)
        return
    shift = np.uint32(0)
    while (some >> shift) & np.uint32(1) == np.uint32(0):
        shift = np.uint32(shift + np.uint32(1))
    for i in range(n):
        u = np.uint32(sizes[i])
        key = np.uint32(((u - least) >> shift) + np.uint32(1))
        keys[i] = key if u > np.uint32(0) else np.uint32(0)
    largest, width = np.uint32(((most - least) >> shift) + np.uint32(1)), 0
    while (np.int64(largest) >> width) > 0:
        width += 1
    passes = (width + 10) // 11
    digit = (width + passes - 1) // passes
    size, mask = 1 << digit, np.uint32((1 << digit) - 1)
    d = np.uint32(digit)
    for p in range(passes):
        for b in range(size):
            counts[p, b] = 0
    first = counts[0]
    if passes == 1:
        for i in range(n):
            first[keys[i]] += 1
    elif passes == 2:
        second = counts[1]
        for i in range(n):
            first[keys[i] & mask] += 1
            second[keys[i] >> d] += 1
    else:
        second, third = counts[1], counts[2]
        for i in range(n):
            first[keys[i] & mask] += 1
            second[(keys[i] >> d) & mask] += 1
            third[keys[i] >> np.uint32(d + d)] += 1
    for p in range(passes):
        before, column = np.int32(0), counts[p]
        for b in range(size):
            count = column[b]
            column[b] = before
            before = np.int32(before + count)
    if passes == 1:
        for i in range(n):
            b = keys[i]
            ranks[i] = np.float32(first[b])
            first[b] += 1
        return
    for i in range(n):
        key = keys[i]
        b = key & mask
        one[first[b]] = (np.uint64(key >> d) << np.uint64(32)) | np.uint64(i)
        first[b] += 1
    wide = np.uint64(mask)
    if passes == 3:
        second = counts[1]
        for i in range(n):
            pair = one[i]
            b = np.int64((pair >> np.uint64(32)) & wide)
            rest = pair >> np.uint64(32 + digit)
            other[second[b]] = (rest << np.uint64(32)) | (pair & np.uint64(0xFFFFFFFF))
            second[b] += 1
        one = other
    last = counts[passes - 1]
    for i in range(n):
        pair = one[i]
        b = np.int64(pair >> np.uint64(32))
        ranks[np.int64(pair & np.uint64(0xFFFFFFFF))] = np.float32(last[b])
        last[b] += 1


@_jit
def _drop_by_rank(v, bits, rows, m, row, start, least, slope, rescale, keys, words, spare, chances):
    """Keep every entry with a chance by its rank in its row, and divide it by that; see `Op`."""
    one, zero = np.float32(1), np.float32(0)
    parts, first, second = np.empty(row, np.uint32), np.empty(row, np.uint64), np.empty(row, np.uint64)
    many, some, starts = (
        np.empty((3, 2048), np.int32),
        np.empty(8192, np.uint16),
        np.empty(8224, np.uint16),
    )
    order, ranks = np.empty(row, np.uint32), np.empty(row, np.uint16)
    # chances between these numbers are whole multiples of 2**-31
    whole = least >= np.float32(0.00390625) and least + np.float32(row - 1) * slope < one
    for k in range(rows):
        _philox(keys[k, 0], keys[k, 1], start, m, words)
        for at in range(0, m, row):
            x, w, r = v[k, at : at + row], words[at : at + row], chances[at : at + row]
            _sizes(bits[k, at : at + row], row, spare)
            if _even_ranks(spare, row, parts, some, starts, order, ranks):
                for i in range(row):
                    r[i] = least + np.float32(ranks[i]) * slope
            else:
                _ranks(spare, row, parts, first, second, many, r)
                for i in range(row):
                    r[i] = least + r[i] * slope
            if whole and rescale:
                for i in range(row):
                    half = np.uint32(np.int32(r[i] * np.float32(2147483648.0)))
                    inner = np.uint32(w[i]) < np.uint32(half << np.uint32(1))
                    x[i] = x[i] * (one if inner else zero) / r[i]
                continue
            for i in range(row):
                inner = np.float64(w[i]) < np.float64(r[i]) * 4294967296.0
                x[i] = x[i] * (one if inner else zero)
            if rescale:
                for i in range(row):
                    x[i] = x[i] / r[i]


@_jit
def _spread(v, rows, m, keys):
    """Write what orders entries by their variance over the rows; see `taskloom.algebra.fuse`."""
    chunk = 512
    total, spread = np.empty(chunk, np.float64), np.empty(chunk, np.float64)
    seen = spread.view(np.uint64)
    many = np.float64(rows)
    for at in range(0, m, chunk):
        n = min(chunk, m - at)
        for k in range(rows):
            x = v[k, at : at + n]
            if k == 0:
                for i in range(n):
                    total[i] = np.float64(x[i])
            else:
                for i in range(n):
                    total[i] = total[i] + np.float64(x[i])
        for k in range(rows):
            x = v[k, at : at + n]
            if k == 0:
                for i in range(n):
                    y = np.float64(x[i]) * many - total[i]
                    spread[i] = y * y
            else:
                for i in range(n):
                    y = np.float64(x[i]) * many - total[i]
                    spread[i] = spread[i] + y * y
        into = keys[at : at + n]
        for i in range(n):
            key = np.uint32(np.uint32(seen[i] >> np.uint64(32)) & np.uint32(0x7FFFFFFF))
            into[i] = min(key, np.uint32(0x7FF00000))


@_jit
def _tall_masks(v, merged, rows, m, thresholds):
    """Write 1 where an expert's entry exceeds its threshold times what the others add to it, else 0."""
    one, zero = np.float32(1), np.float32(0)
    for k in range(rows):
        w, x = thresholds[k], v[k]
        for i in range(m):
            x[i] = one if abs(x[i]) > w * abs(merged[i] - x[i]) else zero


@_jit
def _elect_largest(v, shared, rows, m, a):
    """Write the largest entry of the elected sign, and 1 where an expert has that sign, else 0."""
    one, zero = np.float32(1), np.float32(0)
    for k in range(rows):
        x = v[k]
        for i in range(m):
            a[i] = x[i] if k == 0 else a[i] + x[i]
    for i in range(m):
        a[i] = one if a[i] > zero else -one
    for k in range(rows):
        x = v[k]
        for i in range(m):
            y = x[i] * a[i]
            before = zero if k == 0 else shared[i]
            shared[i] = before if y <= before or before != before else y
            x[i] = one if y > zero else zero
    for i in range(m):
        shared[i] = zero if shared[i] == zero else shared[i] * a[i]


@_jit
def _elect(v, rows, m, weights, tied, signs):
    """Write the sign of every weighted sum; ``tied`` where it is 0, 0 where it is NaN."""
    one, zero = np.float32(1), np.float32(0)
    for k in range(rows):
        w, x = weights[k], v[k]
        if k == 0:
            for i in range(m):
                signs[i] = x[i] * w
        else:
            for i in range(m):
                signs[i] = signs[i] + x[i] * w
    for i in range(m):
        s = signs[i]
        signs[i] = one if s > zero else (-one if s < zero else (tied if s == zero else zero))


@_jit
def _kept(v, rows, m, weights, a, b):
    """Write the weighted mean of what is not zero to the first row."""
    one, zero = np.float32(1), np.float32(0)
    for k in range(rows):
        w, x = weights[k], v[k]
        if k == 0:
            for i in range(m):
                b[i] = w * (one if x[i] != zero else zero)
                a[i] = x[i] * w
        else:
            for i in range(m):
                b[i] = b[i] + w * (one if x[i] != zero else zero)
                a[i] = a[i] + x[i] * w
    x = v[0]
    for i in range(m):
        empty = b[i] == zero
        q = a[i] / (one if empty else b[i])
        x[i] = zero if empty else q


@_jit
def _agreeing(v, rows, m, votes, weights, signs, b):
    """Write the weighted mean of what has the elected sign, and is not zero, to the first row."""
    one, zero = np.float32(1), np.float32(0)
    vote, w, a = votes[0], weights[0], v[0]
    for i in range(m):
        y = a[i] * (one if a[i] * vote * signs[i] > zero else zero)
        b[i] = w * (one if y != zero else zero)
        a[i] = y * w
    for k in range(1, rows):
        vote, w, x = votes[k], weights[k], v[k]
        for i in range(m):
            y = x[i] * (one if x[i] * vote * signs[i] > zero else zero)
            b[i] = b[i] + w * (one if y != zero else zero)
            a[i] = a[i] + y * w
    for i in range(m):
        empty = b[i] == zero
        q = a[i] / (one if empty else b[i])
        a[i] = zero if empty else q


@_jit
def _exclusive(v, bits, rows, m, limits, spare, held):
    """Let rows choose their largest entries of every block, each entry once; see `Op`.

    ``limits``: entries of a block, entries chosen of it, and, from the second row on, entries chosen of
    a block that is shorter.
    """
    one, zero = np.float32(1), np.float32(0)
    size, wanted, short = limits[0], limits[1], limits[2]
    for at in range(0, m, size):
        n = min(size, m - at)
        count = wanted if n == size else short
        free = held[at : at + n]
        for i in range(n):
            free[i] = np.uint32(0x7FFFFFFF)
        guess = np.uint32(0)
        for k in range(rows):
            x, u = v[k, at : at + n], bits[k, at : at + n]
            most, some = np.uint32(0), np.uint32(0)
            for i in range(n):
                y = np.uint32(u[i] & free[i])
                spare[i] = y
                most = max(most, y)
                some = np.uint32(some + np.uint32(y > np.uint32(0)))
            if count <= 0 or most == np.uint32(0):
                for i in range(n):
                    x[i] = x[i] * zero
                continue
            if np.int64(some) <= count:
                limit, place = np.uint32(1), n
            else:
                limit, left = _row_limit(spare, n, most, count, guess)
                place = _place(spare, n, limit, left)
                guess = limit
            y = spare[:place]
            for i in range(place):
                mark = y[i] >= limit
                free[i] = np.uint32(0) if mark else free[i]
                x[i] = x[i] * (one if mark else zero)
            for i in range(place, n):
                mark = np.uint32(spare[i]) > limit
                free[i] = np.uint32(0) if mark else free[i]
                x[i] = x[i] * (one if mark else zero)


@_jit
def _exp(z):
    """Exponential function; every operation is that of `taskloom.algebra.scores.exp`."""
    z = min(max(z, -700.0), 700.0)
    k = np.floor(z * 1.4426950408889634 + 0.5)
    r = (z - k * 0.693145751953125) - k * 1.4286068203094173e-06
    p = 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _wide_number(np.uint64(np.int32(k) + 1023) << np.uint64(52))


@_jit
def _tanh(x):
    """Hyperbolic tangent; every operation is that of `taskloom.algebra.scores.tanh`."""
    z = x * x
    if z <= 1.0:
        top = ((z + 378.0) * z + 17325.0) * z + 135135.0
        low = ((28.0 * z + 3150.0) * z + 62370.0) * z + 135135.0
        return x * top / low
    t = _exp(-2.0 * abs(x))
    y = (1.0 - t) / (1.0 + t)
    return -y if x < 0 else y


@_jit
def _rivals(v, rows, m, vision, bounds, wide):
    """Write what every entry is multiplied by in its score, ``wide[0]`` (float64)."""
    total = wide[0]
    for k in range(rows):
        x = v[k]
        if vision:
            low, high = np.float64(bounds[0, k]), np.float64(bounds[1, k])
            width = high - low if high > low else 1.0
            for i in range(m):
                y = np.float64(x[i])
                size = (min(max(abs(y), low), high) - low) / width
                part = size if y > 0 else (-size if y < 0 else 0.0)
                total[i] = part if k == 0 else total[i] + part
        else:
            for i in range(m):
                total[i] = np.float64(x[i]) if k == 0 else total[i] + np.float64(x[i])


@_jit
def _maybe(x, m, low, high, slope, cutoff, narrow, found, places):
    """Write where scores are not below the cutoff for certain; return how many. See `_scores`."""
    bound, more = found.view(np.float32)[:m], np.float32(1.0001)
    for i in range(m):
        y = abs(x[i])
        y = high if y > high else y
        y = y - low
        y = (y if y > np.float32(0) else np.float32(0)) * slope
        power = y * y * more + np.float32(1.0001)
        product = x[i] * narrow[i] * more
        bound[i] = product * _number(np.uint32(np.int32(power * np.float32(8388608.0)) + 1056964608))
    n, full = np.uint64(0), m // 64 * 64
    for at in range(0, full, 64):
        word = reached(bound, at, cutoff)
        while word != np.uint64(0):
            places[n] = np.uint32(np.uint64(at) + lowest(word))
            n += np.uint64(1)
            word &= word - np.uint64(1)
    for i in range(full, m):
        places[n] = np.uint32(i)
        n += np.uint64(not bound[i] < cutoff)
    return n


@_jit
def _unsure(x, m, low, high, slope, cutoff, upper, most, narrow, inputs, places):
    """As `_maybe`, without what is above ``upper`` for certain, and not ``most``; count that, too."""
    sure, more = inputs.view(np.uint32)[:m], np.float32(1.0001)
    some = np.uint32(0)
    for i in range(m):
        y = abs(x[i])
        y = high if y > high else y
        y = y - low
        y = (y if y > np.float32(0) else np.float32(0)) * slope
        power = y * y * more + np.float32(1.0001)
        product = x[i] * narrow[i] * more
        bound = product * _number(np.uint32(np.int32(power * np.float32(8388608.0)) + 1056964608))
        share = np.float32(0.93) - np.float32(0.34) * product * product
        beyond = np.uint32(bound * share > upper) & np.uint32(share > np.float32(0))
        beyond = beyond & np.uint32(bound < most)
        some = np.uint32(some + beyond)
        sure[i] = beyond | np.uint32(bound < cutoff)
    n, full = np.uint64(0), m // 64 * 64
    for at in range(0, full, 64):
        word = inside(sure, at, np.uint32(1), np.uint32(0), np.uint32(1))
        while word != np.uint64(0):
            places[n] = np.uint32(np.uint64(at) + lowest(word))
            n += np.uint64(1)
            word &= word - np.uint64(1)
    for i in range(full, m):
        places[n] = np.uint32(i)
        n += np.uint64(sure[i] == np.uint32(0))
    return n, np.int64(some)


@_jit
def _scores(x, rows, m, low, high, cutoff, upper, most, wide, places):
    """Score the entries of a row; return how many, and how many of the others lie above ``upper``.

    Where they are goes to ``places``, what they are to ``wide[1]``, to be rounded to float32.

    Entries are left out whose score is below the cutoff for certain: ``tanh(x) <= x`` and
    ``exp(z) < 2**k (1 + f)`` for ``z = (k + f) ln 2``. So are those above ``upper`` for certain, and not
    above ``most``: ``tanh(x) >= x (1 - x**2 / 3)``, and the bound of ``exp`` is less than 1.0635 times
    too large.
    """
    rivals, found, inputs = wide[0], wide[1], wide[2]
    many, low64, high64 = np.float64(rows), np.float64(low), np.float64(high)
    width = high64 - low64 if high64 > low64 else 1.0
    n, above = np.uint64(0), 0
    largest, sizes = np.uint32(0), x.view(np.uint32)
    for i in range(m):
        largest = max(largest, np.uint32(sizes[i] & np.uint32(0x7FFFFFFF)))
    # an entry that large times a very small number could be lost in the bound
    if cutoff > np.float32(1e-20) and rows <= 16 and largest < np.uint32(0x58635FA9):  # 1e15
        slope = np.float32(np.sqrt(many * 1.4426950408889634) / width)
        spare = wide[3].view(np.float32)  # loops over numbers of one width are faster
        narrow = spare[len(spare) // 2 : len(spare) // 2 + m]
        for i in range(m):
            narrow[i] = np.float32(rivals[i])
        if upper == np.inf:
            n = _maybe(x, m, low, high, slope, cutoff, narrow, found, places)
        else:
            n, above = _unsure(x, m, low, high, slope, cutoff, upper, most, narrow, inputs, places)
    else:
        for i in range(m):
            places[i] = np.uint32(i)
        n = np.uint64(m)
    for j in range(n):
        i = np.uint64(places[j])
        y = np.float64(x[i])
        found[j] = y
        inputs[j] = y * rivals[i]
    for j in range(n):
        size = (min(max(abs(found[j]), low64), high64) - low64) / width
        found[j] = size * size * many
    far = 0
    for j in range(n):
        y = inputs[j]
        z = y * y
        top = ((z + 378.0) * z + 17325.0) * z + 135135.0
        down = ((28.0 * z + 3150.0) * z + 62370.0) * z + 135135.0
        found[j] = (y * top / down) * _exp(found[j]) if z <= 1.0 else found[j]
        far += np.int64(not z <= 1.0)
    if far > 0:
        for j in range(n):
            if not inputs[j] * inputs[j] <= 1.0:
                found[j] = _tanh(inputs[j]) * _exp(found[j])
    return np.int64(n), above


@_jit
def _compete(v, rows, m, vision, weighted, weights, bounds, wide, places, a, b):
    """Average entries by their scaled scores; see `taskloom.algebra.compete`."""
    one, zero = np.float32(1), np.float32(0)
    shares, far = wide[3].view(np.float32), np.float32(np.inf)
    for k in range(rows):
        x, low, high = v[k], bounds[0, k], bounds[1, k]
        floor, top = np.float64(bounds[2, k]), np.float64(bounds[3, k])
        span = top - floor if top > floor else 1.0
        n, _ = _scores(x, rows, m, low, high, bounds[2, k], far, far, wide, places)
        for i in range(m):
            shares[i] = zero
        for j in range(n):
            score = np.float64(np.float32(wide[1, j])) - floor
            shares[places[j]] = np.float32((score if score > 0 else 0.0) / span)
        w = weights[k]
        for i in range(m):
            size = abs(x[i])
            size = low if size < low else size
            size = high if size > high else size
            part = size if x[i] > zero else (-size if x[i] < zero else zero)
            part = part * shares[i]
            part = part * w if weighted else part
            a[i] = part if k == 0 else a[i] + part
            b[i] = shares[i] if k == 0 else b[i] + shares[i]
    x = v[0]
    for i in range(m):
        empty = b[i] == zero
        q = a[i] / (one if empty else b[i])
        x[i] = zero if empty else q


@_jit
def _steps(
    upto, codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen, bounds,
    experts, all_v, all_bits, start, m, row, counts, spare, wide,
):  # fmt: skip
    """Run the first ``upto`` steps on a block of task vectors; return how many rows are left.

    A step's place says what it works on: 0 the experts' rows, 1 a copy of them that is made beside
    them, 2 that copy. ``tall_masks`` and ``elect_largest`` leave a mark or factor in every expert's
    row and the shared vector in the first one beside them.
    """
    left_rows, beside_rows = experts, 0
    one, zero = np.float32(1), np.float32(0)
    a, b = all_v[experts + 1], all_v[experts + 2]
    words = all_bits[experts + 1]
    for o in range(upto):
        code, flag, place = codes[o], flags[o], places[o]
        lowest = 0
        rows = left_rows
        if place == 1:
            for k in range(left_rows):
                x, y = all_v[k], all_v[experts + 3 + k]
                for i in range(m):
                    y[i] = x[i]
        if place > 0:
            lowest = experts + 3
            rows = left_rows if place == 1 else beside_rows
        v, bits = all_v[lowest:], all_bits[lowest:]
        if code == 0:
            for k in range(rows):
                w, x = weights[o, k], v[k]
                for i in range(m):
                    x[i] = x[i] * w
        elif code == 1 or code == 2:
            if weighted[o]:
                for k in range(rows):
                    w, x = weights[o, k], v[k]
                    for i in range(m):
                        x[i] = x[i] * w
            x = v[0]
            for k in range(1, rows):
                y = v[k]
                for i in range(m):
                    x[i] = x[i] + y[i]
            if code == 2 and flag == 1:
                d = numbers[o]
                for i in range(m):
                    x[i] = x[i] / d
            rows = 1
        elif code == 3:
            _kept(v, rows, m, weights[o], a, b)
            rows = 1
        elif code == 4:
            f = numbers[o]
            for k in range(rows):
                x = v[k]
                for i in range(m):
                    x[i] = x[i] * f
        elif code == 5:
            f = numbers[o]
            limit = np.uint32(min(limits[o, 0], 4294967295))
            everything = limits[o, 0] > 4294967295
            for k in range(rows):
                x = v[k]
                _philox(keys[o, k, 0], keys[o, k, 1], start, m, words)
                for i in range(m):
                    x[i] = x[i] * (zero if np.uint32(words[i]) < limit or everything else f)
        elif code == 6:
            _elect(v, rows, m, weights[o], numbers[o], a)
            for k in range(rows):
                w, x = weights[o, k], v[k]
                for i in range(m):
                    x[i] = x[i] * (one if x[i] * w * a[i] > zero else zero)
        elif code == 15:
            _elect(v, rows, m, weights[o], numbers[o], a)
            _agreeing(v, rows, m, weights[o], weights[o + 1], a, b)
            rows = 1
        elif code == 7:
            for k in range(rows):
                _above(v[k], m, np.uint32(limits[o, k]), one, zero)
        elif code == 8:
            for k in range(rows):
                left = missing[o, k] - seen[o, k]
                seen[o, k] += _limited(v[k], m, np.uint32(limits[o, k]), left, flag == 1)
        elif code == 24:
            for k in range(rows):
                high, low = np.uint32(limits[o, k]), np.uint32(limits[o + 1, k])
                first, second = missing[o, k] - seen[o, k], missing[o + 1, k] - seen[o + 1, k]
                if low < high:
                    equal, others = _banded(v[k], m, high, first, low, second)
                else:
                    equal = _limited(v[k], m, high, first, True)
                    others = _limited(v[k], m, low, second, False)
                seen[o, k] += equal
                seen[o + 1, k] += others
        elif code == 9:
            top = zero if flag == 1 else one
            low = one if flag == 1 else zero
            count = limits[o, 0]
            for k in range(rows):
                for at in range(0, m, row):
                    x = v[k, at : at + row]
                    if count >= row:
                        for i in range(row):
                            x[i] = x[i] * top
                    elif count <= 0:
                        for i in range(row):
                            x[i] = x[i] * low
                    else:
                        most = _sizes(bits[k, at : at + row], row, spare)
                        limit, left = _row_limit(spare, row, most, count, np.uint32(seen[o, k]))
                        seen[o, k] = np.int64(limit)
                        _mark(x, spare, row, limit, _place(spare, row, limit, left), top, low)
        elif code == 10:
            x, d, t = v[0], numbers[o], weights[o, 0]
            for k in range(1, rows):
                y = v[k]
                for i in range(m):
                    x[i] = x[i] + y[i]
            for i in range(m):
                x[i] = x[i] / d * t
            rows = 1
        elif code == 11:
            _drop_by_rank(
                v,
                bits,
                rows,
                m,
                row,
                start,
                numbers[o],
                weights[o, 0],
                flag == 1,
                keys[o],
                words,
                spare,
                b,
            )
        elif code == 12:
            limit, order = np.uint32(limits[o, 0]), words
            _spread(v, rows, m, order)
            equal = np.uint32(0)
            for i in range(m):
                equal = np.uint32(equal + np.uint32(np.uint32(order[i]) == limit))
            left = missing[o, 0] - seen[o, 0]
            seen[o, 0] += np.int64(equal)
            place = m if left >= np.int64(equal) else _place(order, m, limit, left)
            for k in range(rows):
                _mark(v[k], order, m, limit, place, one, zero)
        elif code == 13:
            tiny = numbers[o]
            for k in range(rows):
                x = v[k]
                for i in range(m):
                    a[i] = x[i] if k == 0 else a[i] + x[i]
            for i in range(m):
                a[i] = one if a[i] >= zero else -one
            for k in range(rows):
                w, x = weights[o, k], v[k]
                if k == 0:
                    for i in range(m):
                        share = w * (one if x[i] * a[i] > zero else zero)
                        b[i] = share
                        x[i] = x[i] * share
                else:
                    y = v[0]
                    for i in range(m):
                        share = w * (one if x[i] * a[i] > zero else zero)
                        b[i] = b[i] + share
                        y[i] = y[i] + x[i] * share
            x = v[0]
            if flag == 1:
                for i in range(m):
                    x[i] = x[i] / (tiny if b[i] < tiny else b[i])
            else:
                for i in range(m):
                    empty = b[i] == zero
                    q = x[i] / (one if empty else b[i])
                    x[i] = zero if empty else q
            rows = 1
        elif code == 14:
            first, last = limits[o, 0], limits[o, 0] + limits[o + 1, 0]
            for k in range(rows):
                for at in range(0, m, row):
                    x = v[k, at : at + row]
                    if first >= row or limits[o + 1, 0] <= 0:
                        for i in range(row):
                            x[i] = x[i] * zero
                        continue
                    most = _sizes(bits[k, at : at + row], row, spare)
                    if first > 0:
                        limit, left = _row_limit(spare, row, most, first, np.uint32(seen[o, k]))
                        seen[o, k] = np.int64(limit)
                        _mark(x, spare, row, limit, _place(spare, row, limit, left), zero, one)
                        if most >= np.uint32(0x7F800000):  # what is not finite is not cut
                            most = _sizes(bits[k, at : at + row], row, spare)
                            last = limits[o + 1, 0]
                        else:
                            last = first + limits[o + 1, 0]
                    if last < row:
                        limit, left = _row_limit(spare, row, most, last, np.uint32(seen[o + 1, k]))
                        seen[o + 1, k] = np.int64(limit)
                        _mark(x, spare, row, limit, _place(spare, row, limit, left), one, zero)
        elif code == 16:
            _tall_masks(v, all_v[experts + 3], rows, m, weights[o])
        elif code == 17:
            x, shared, least = v[0], all_v[experts + 3], limits[o, 0]
            count = words.view(np.int32)
            for k in range(rows):
                y = v[k]
                for i in range(m):
                    count[i] = (0 if k == 0 else count[i]) + np.int32(y[i] != zero)
            for i in range(m):
                x[i] = shared[i] * (one if count[i] >= least else zero)
            rows = 1
        elif code == 18:
            x, shared, k = v[0], all_v[experts + 3], limits[o, 0]
            y = v[max(k, 0)]
            if k < 0:
                for i in range(m):
                    x[i] = shared[i]
            else:
                for i in range(m):
                    x[i] = shared[i] * y[i]
            rows = 1
        elif code == 19:
            _elect_largest(v, all_v[experts + 3], rows, m, a)
            if weighted[o]:
                for k in range(rows):
                    w, x = weights[o, k], v[k]
                    for i in range(m):
                        x[i] = x[i] * w
        elif code == 20:
            size = numbers[o]
            for k in range(rows):
                x = v[k]
                for i in range(m):
                    x[i] = x[i] * (one if abs(x[i]) > size else zero)
        elif code == 25:
            size = numbers[o]
            for k in range(rows):
                x = v[k]
                for i in range(m):
                    x[i] = size if x[i] > size else (-size if x[i] < -size else x[i])
        elif code == 21:
            _exclusive(v, bits, rows, m, limits[o], spare, words)
        elif code == 22:
            _rivals(v, rows, m, flag, bounds[o], wide)
            _compete(v, rows, m, flag, weighted[o], weights[o], bounds[o], wide, spare, a, b)
            rows = 1
        if place > 0:
            beside_rows = rows
        else:
            left_rows = rows
    return left_rows, beside_rows


@_jit
def _change(raw16, raw32, k, kind, at, m, value, base):
    """Numbers of source k, bfloat16 or float32, less the base, as `_decode` and a subtraction do."""
    if kind == 1:
        half, top = raw16[k, at : at + m], np.uint16(0)
        for i in range(m):
            u = half[i]
            top = max(top, np.uint16(u & np.uint16(0x7F80)))
            value[i] = _number(np.uint32(u) << np.uint32(16)) - base[i]
        return np.int64(top == np.uint16(0x7F80))
    full, largest = raw32[k, at : at + m], np.uint32(0)
    for i in range(m):
        u = np.uint32(full[i])
        largest = max(largest, np.uint32(u & np.uint32(0x7F800000)))
        value[i] = _number(u) - base[i]
    return np.int64(largest == np.uint32(0x7F800000))


@_jit
def _block(
    raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad,
):  # fmt: skip
    """Decode a block of every source and subtract the base."""
    base = v[experts] if based else v[0]
    if based:
        bad[experts] += _decode(
            raw8, raw16, raw32, experts, kinds[experts], tables[experts], at, m, base, bits[experts]
        )
    for k in range(experts):
        if based and kinds[k] < 2:
            bad[k] += _change(raw16, raw32, k, kinds[k], at, m, v[k], base)
            continue
        bad[k] += _decode(raw8, raw16, raw32, k, kinds[k], tables[k], at, m, v[k], bits[k])
        if based:
            x = v[k]
            for i in range(m):
                x[i] = x[i] - base[i]


@_jit
def merge(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen, bounds,
    v, bits, counts, spare, wide, out_kind, out16, out32, bad,
):  # fmt: skip
    """Merge a slice of n numbers; return how many rows were left (1 if all is well).

    ``bad`` is not 0 where something is not finite: per source, and last of the result.
    """
    rows = 1
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows, _ = _steps(
            len(codes), codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen,
            bounds, experts, v, bits, start + at, m, row, counts, spare, wide,
        )  # fmt: skip
        x = v[0]
        if based:
            base = v[experts]
            for i in range(m):
                x[i] = base[i] + x[i]
        bad[experts + based] += _encode(x, bits[0], out_kind, at, m, out16, out32)
    return rows


@_jit
def count(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen, bounds,
    v, bits, counts, spare, wide, upto, what, prefix, found, bad,
):  # fmt: skip
    """Count what a measure before step ``upto`` asks for, over a slice of n numbers.

    ``what``: 0 high bits of magnitudes, 1 low bits below ``prefix`` (both per expert, in four lanes
    of ``found`` (K, 4, bins)), 2 elected signs (``found[0, 0, 0]``), 3 and 4 as 0 and 1 for what
    orders variances over the experts (in ``found[0]``), 6 and 7 as 0 and 1 for what orders the scores
    of a step ``compete``: what is certainly below ``bounds[2]`` is counted in bin 0, and ``bounds[3]``
    grows to the largest score.
    """
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows, _ = _steps(
            upto, codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen,
            bounds, experts, v, bits, start + at, m, row, counts, spare, wide,
        )  # fmt: skip
        if what >= 6:
            _rivals(v, rows, m, flags[upto], bounds[upto], wide)
            for k in range(rows):
                _count_scores(v[k], k, rows, m, what, bounds[upto], wide, spare, prefix[k], found[k])
            continue
        varied = what == 3 or what == 4
        if varied:
            _spread(v, rows, m, bits[experts + 1])
        wanted = len(found) if what == 1 else (1 if varied else rows)  # of a row perhaps several
        for k in range(0 if what == 2 else wanted):
            u, f = bits[experts + 1] if varied else bits[k % rows], found[k]
            if what == 0 or what == 3:
                for i in range(m):
                    f[i & 3, (u[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1
            else:
                high, inside, some = np.uint32(prefix[k]), 0, np.uint32(0)
                for i in range(m):
                    hit = ((u[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)) == high
                    some = np.uint32(some + np.uint32(hit))
                if some == np.uint32(0):
                    continue
                for i in range(m):
                    y = u[i] & np.uint32(0x7FFFFFFF)
                    spare[inside] = y
                    inside += np.int64((y >> np.uint32(16)) == high)
                for i in range(inside):
                    f[i & 3, spare[i] & np.uint32(0xFFFF)] += 1
        if what == 2:
            a = v[experts + 1]
            for k in range(rows):
                w, x = weights[upto, k], v[k]
                for i in range(m):
                    vote = x[i] * w if weighted[upto] else x[i]
                    a[i] = vote if k == 0 else a[i] + vote
            signs = 0
            for i in range(m):
                signs += np.int64(a[i] > np.float32(0)) - np.int64(a[i] < np.float32(0))
            found[0, 0, 0] += signs


@_jit
def _count_scores(x, k, rows, m, what, bounds, wide, places, prefix, found):
    """Count the scores of one row; see `count`."""
    far = np.float32(np.inf)
    many, _ = _scores(x, rows, m, bounds[0, k], bounds[1, k], bounds[2, k], far, far, wide, places)
    scores, most, wanted = wide[1], bounds[3, k], np.uint32(prefix)
    ones, sign = np.uint32(0xFFFFFFFF), np.uint32(0x80000000)
    for j in range(many):
        score = np.float32(scores[j])
        most = max(most, score)
        u = _bits(score)
        u = np.uint32(u ^ (ones if u >= sign else sign))
        if what == 6:
            found[j & 3, u >> np.uint32(16)] += 1
        elif u >> np.uint32(16) == wanted:
            found[j & 3, u & np.uint32(0xFFFF)] += 1
    bounds[3, k] = most
    if what == 6:
        found[0, 0] += m - many


@_jit
def products(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen, bounds,
    v, bits, counts, spare, wide, upto, found, bad,
):  # fmt: skip
    """Sum the products of all pairs of rows before step ``upto``, block by block, into ``found``.

    The order of the additions is that of `taskloom.algebra.gram.block_sums`.
    """
    lanes = np.zeros(64, np.float64)
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows, _ = _steps(
            upto, codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen,
            bounds, experts, v, bits, start + at, m, row, counts, spare, wide,
        )  # fmt: skip
        for sub in range(0, m, 4096):
            last = min(sub + 4096, m)
            full, pair = sub + (last - sub) // 64 * 64, 0
            for a in range(rows):
                for b in range(a, rows):
                    for j in range(64):
                        lanes[j] = 0.0
                    for i in range(sub, full, 64):
                        x, y = v[a, i : i + 64], v[b, i : i + 64]
                        for j in range(64):
                            lanes[j] += np.float64(x[j]) * np.float64(y[j])
                    x, y = v[a, full:last], v[b, full:last]
                    for j in range(last - full):
                        lanes[j] += np.float64(x[j]) * np.float64(y[j])
                    width = 32
                    while width:
                        for j in range(width):
                            lanes[j] += lanes[j + width]
                        width //= 2
                    found[(at + sub) // 4096, pair] = lanes[0]
                    pair += 1


@_jit
def _cells(numbers, m, lanes, into):
    """Add up float64 numbers that are not negative, exactly, as `taskloom.algebra.exact` does.

    ``into``: sums of the digits in cells of 26 bits, 16 standing for the cell of 1; 1 in the last place
    where a number is not finite.
    """
    largest, wide_bits = np.uint64(0), numbers.view(np.uint64)
    for i in range(m):
        largest = max(largest, wide_bits[i])
    if largest >= np.uint64(0x7FF0000000000000):
        into[-1] = 1
        return
    if largest == np.uint64(0):
        return
    exponent = np.int64(largest >> np.uint64(52)) - 1023
    top = exponent // 26
    shift = _wide_number(np.uint64(1023 - 26 * top) << np.uint64(52))
    for i in range(m):
        numbers[i] = numbers[i] * shift
    n = (m + 63) // 64 * 64
    for i in range(m, n):
        numbers[i] = 0.0
    for fold in range(3):
        for j in range(64):
            lanes[j] = 0.0
        for at in range(0, n, 64):
            part = numbers[at : at + 64]
            for j in range(64):
                whole = np.floor(part[j])
                lanes[j] += whole
                part[j] = (part[j] - whole) * 67108864.0
        total = 0.0
        for j in range(64):
            total += lanes[j]
        into[16 + top - fold] += np.int64(total)


@_jit
def sums(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen, bounds,
    v, bits, counts, spare, wide, upto, what, found, bad,
):  # fmt: skip
    """Add up squares (0) or magnitudes (1) before step ``upto``, exactly, or for `elect_largest` (2).

    ``found``: ``(K, cells)``, or ``(2 K, cells)`` for magnitudes of the rows and of what they take of
    the shared vector.
    """
    lanes = np.zeros(64, np.float64)
    numbers64 = wide[0]
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows, _ = _steps(
            upto, codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen,
            bounds, experts, v, bits, start + at, m, row, counts, spare, wide,
        )  # fmt: skip
        for k in range(rows):
            x = v[k]
            if what == 0:
                for i in range(m):
                    numbers64[i] = np.float64(x[i]) * np.float64(x[i])
            else:
                for i in range(m):
                    numbers64[i] = np.float64(abs(x[i]))
            _cells(numbers64, m, lanes, found[k])
        if what == 2:
            shared = v[experts + 3]
            _elect_largest(v, shared, rows, m, v[experts + 1])
            for k in range(rows):
                x = v[k]
                for i in range(m):
                    numbers64[i] = np.float64(abs(shared[i]) * x[i])
                _cells(numbers64, m, lanes, found[rows + k])


@_jit
def _score_of(key):
    """Return the score that has a key (see `_ordered`)."""
    sign, ones = np.uint32(0x80000000), np.uint32(0xFFFFFFFF)
    u = np.uint32(key)
    return _number(np.uint32(u ^ (sign if u >= sign else ones)))


@_jit
def _ordered(order, k, v, rows, m, bounds, upper, most, wide, places, keys):
    """Write integers in the order of what a row is ranked by; return how many, and how many lie above.

    ``order``: 0 magnitudes, 1 variances over the rows, 2 scores. Scores are left out that are certainly
    below ``bounds[2]`` or above ``upper``, except those above ``most`` (see `_scores`).
    """
    if order == 1:
        _spread(v, rows, m, keys)
        return m, 0
    if order == 0:
        sizes = v[k].view(np.uint32)
        for i in range(m):
            keys[i] = sizes[i] & np.uint32(0x7FFFFFFF)
        return m, 0
    n, above = _scores(
        v[k], rows, m, bounds[0, k], bounds[1, k], bounds[2, k], upper, most, wide, places
    )
    scores = wide[1]
    ones, sign = np.uint32(0xFFFFFFFF), np.uint32(0x80000000)
    for j in range(n):
        u = _bits(np.float32(scores[j]))
        keys[j] = np.uint32(u ^ (ones if u >= sign else sign))
    return n, above


@_jit
def sample(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen, bounds,
    v, bits, counts, spare, wide, upto, order, into, offset, bad,
):  # fmt: skip
    """Write what a measure before step ``upto`` orders, from ``into[:, offset]`` on."""
    far = np.float32(np.inf)
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows, _ = _steps(
            upto, codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen,
            bounds, experts, v, bits, start + at, m, row, counts, spare, wide,
        )  # fmt: skip
        if order == 2:
            _rivals(v, rows, m, flags[upto], bounds[upto], wide)
        for k in range(len(into)):
            found = into[k, offset + at : offset + at + m]
            _ordered(order, k, v, rows, m, bounds[upto], far, far, wide, spare, found)


@_jit
def _gather(keys, mask, n, first, last, into, found):
    """Count the keys below one number and equal to it or to another, and gather those between the two.

    Return the largest of all. ``into`` has 17 columns more than may be gathered.
    """
    below, low, high, most = np.uint64(0), np.uint64(0), np.uint64(0), np.uint32(0)
    width = np.uint32(last - first - np.uint32(1)) if last > first else np.uint32(0)
    least = np.uint32(first + np.uint32(1))
    for i in range(n):
        most = max(most, np.uint32(keys[i] & mask))
    # numbers without a sign, since an index that may be negative is checked at every step
    to, room, full = np.uint64(found[2]), np.uint64(len(into) - 17), n // 64 * 64
    for at in range(0, full, 64):
        less, equal, other, word = ranked(keys, at, mask, first, last, least, width)
        below += ones(less)
        low += ones(equal)
        high += ones(other)
        while word != np.uint64(0):
            into[min(to, room)] = np.uint32(keys[np.uint64(at) + lowest(word)] & mask)
            to += np.uint64(1)
            word &= word - np.uint64(1)
    for i in range(full, n):
        y = np.uint32(keys[i] & mask)
        below += np.uint64(y < first)
        low += np.uint64(y == first)
        high += np.uint64(y == last)
        into[min(to, room)] = y
        to += np.uint64(np.uint32(y - least) < width)
    found[0] += np.int64(below)
    found[1] += np.int64(low)
    found[2] = np.int64(to)
    found[5] += np.int64(high) if last > first else np.int64(0)
    return np.int64(most)


@_jit
def _still(keys, n):
    """Count the keys that have no high bits."""
    still = np.uint32(0)
    for i in range(n):
        still = np.uint32(still + np.uint32(np.uint32(keys[i]) < np.uint32(65536)))
    return np.int64(still)


@_jit
def between(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen, bounds,
    v, bits, counts, spare, wide, upto, order, ends, into, found, bad,
):  # fmt: skip
    """Count what a measure before step ``upto`` orders, and gather what lies between two numbers.

    ``ends`` (R, 2), R rows or a multiple of them; ``found`` (R, 6): how many lie below the first, equal
    it, and lie between the two; of the first rows also how many have no high bits (of variances), and
    the largest; how many equal the second, if it is another. What lies between goes to ``into``, while
    there is room; its last 17 columns are no room.
    """
    every, sizes = np.uint32(0xFFFFFFFF), np.uint32(0x7FFFFFFF)
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows, _ = _steps(
            upto, codes, flags, places, numbers, weighted, weights, keys, limits, missing, seen,
            bounds, experts, v, bits, start + at, m, row, counts, spare, wide,
        )  # fmt: skip
        if order == 2:
            _rivals(v, rows, m, flags[upto], bounds[upto], wide)
        several = 1 if order == 1 else rows
        for k in range(several):
            ordered, mask, many, above = bits[k], sizes, m, 0
            if order > 0:
                ordered, mask = bits[experts + 1], every
                upper, most = np.float32(np.inf), np.float32(np.inf)
                if order == 2:  # one number is wanted of each row, and the largest
                    upper, most = _score_of(ends[k, 1]), _score_of(found[k, 4])
                many, above = _ordered(
                    order, k, v, rows, m, bounds[upto], upper, most, wide, spare, ordered
                )
            if order == 1:
                found[k, 3] += _still(ordered, many)
            for r in range(k, len(ends), several):
                first, last = np.uint32(ends[r, 0]), np.uint32(ends[r, 1])
                largest = _gather(ordered, mask, many, first, last, into[r], found[r])
                found[r, 4] = max(found[r, 4], largest)
                found[r, 0] += m - many - above
