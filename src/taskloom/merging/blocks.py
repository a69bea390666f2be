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

# kinds of numbers
F32, BF16, F16, TABLE = 0, 1, 2, 3
# steps
WEIGH, TOTAL, MEAN, KEPT, SCALE, DROP, ELECT, KEEP, TENSOR, ROW, STOCK, RANK = range(12)

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
def _row_limit(bits, n, count, counts, spare):
    """Find the ``count``-th largest magnitude of a row, and how many equal to it are among them.

    Radix selection, 11 + 10 + 10 bits; what falls into the wanted bin is copied together.
    """
    rank = count  # from the top, 1 is the largest
    for b in range(2048):
        counts[b] = 0
    for i in range(n):
        counts[(bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(20)] += 1
    b = 2047
    while counts[b] < rank:
        rank -= counts[b]
        b -= 1
    found = 0
    for i in range(n):
        u = bits[i] & np.uint32(0x7FFFFFFF)
        spare[found] = u
        found += np.int64((u >> np.uint32(20)) == np.uint32(b))
    prefix = np.uint32(b) << np.uint32(20)
    for shift in (10, 0):
        for c in range(1024):
            counts[c] = 0
        for i in range(found):
            counts[(spare[i] >> np.uint32(shift)) & np.uint32(1023)] += 1
        c = 1023
        while counts[c] < rank:
            rank -= counts[c]
            c -= 1
        prefix |= np.uint32(c) << np.uint32(shift)
        kept = 0
        for i in range(found):
            u = spare[i]
            spare[kept] = u
            kept += np.int64((u >> np.uint32(shift)) == (prefix >> np.uint32(shift)))
        found = kept
    return prefix, rank


@_jit
def _order(bits, n, one, other, counts):
    """Sort a row's magnitudes, the smallest first, equal ones by index; return (magnitude, index).

    Radix sort by 11 + 10 + 10 bits, the lowest first; the index is carried in the low half.
    """
    for b in range(4096):
        counts[b] = 0
    for i in range(n):
        u = bits[i] & np.uint32(0x7FFFFFFF)
        counts[u & np.uint32(2047)] += 1
        counts[2048 + ((u >> np.uint32(11)) & np.uint32(1023))] += 1
        counts[3072 + (u >> np.uint32(21))] += 1
        one[i] = (np.uint64(u) << np.uint64(32)) | np.uint64(i)
    for digit in range(3):
        first, size = (0, 2048) if digit == 0 else (1024 + 1024 * digit, 1024)
        shift = np.uint64(32 + (0 if digit == 0 else 1 + 10 * digit))
        mask = np.uint64(size - 1)
        if counts[first + np.int64((one[0] >> shift) & mask)] == n:
            continue  # all have the same digit
        before = 0
        for b in range(first, first + size):
            count = counts[b]
            counts[b] = before
            before += count
        for i in range(n):
            b = first + np.int64((one[i] >> shift) & mask)
            other[counts[b]] = one[i]
            counts[b] += 1
        one, other = other, one
    return one


@_jit
def _steps(
    upto, codes, flags, numbers, weighted, weights, keys, limits, missing, seen,
    experts, v, bits, start, m, row, counts, spare,
):  # fmt: skip
    """Run the first ``upto`` steps on a block of task vectors; return how many rows are left."""
    rows = experts
    one, zero = np.float32(1), np.float32(0)
    a, b = v[experts + 1], v[experts + 2]
    for o in range(upto):
        code, flag = codes[o], flags[o]
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
            for k in range(rows):
                w, x = weights[o, k], v[k]
                if k == 0:
                    for i in range(m):
                        b[i] = w * (one if x[i] != zero else zero)
                        a[i] = x[i] * w if weighted[o] else x[i]
                else:
                    for i in range(m):
                        b[i] = b[i] + w * (one if x[i] != zero else zero)
                        a[i] = a[i] + (x[i] * w if weighted[o] else x[i])
            x = v[0]
            for i in range(m):
                empty = b[i] == zero
                q = a[i] / (one if empty else b[i])
                x[i] = zero if empty else q
            rows = 1
        elif code == 4:
            f = numbers[o]
            for k in range(rows):
                x = v[k]
                for i in range(m):
                    x[i] = x[i] * f
        elif code == 5:
            f, limit, words = numbers[o], np.int64(limits[o, 0]), bits[experts + 1]
            for k in range(rows):
                x = v[k]
                _philox(keys[o, k, 0], keys[o, k, 1], start, m, words)
                for i in range(m):
                    x[i] = x[i] * (zero if np.int64(words[i]) < limit else one) * f
        elif code == 6:
            tied = numbers[o]
            for k in range(rows):
                w, x = weights[o, k], v[k]
                if k == 0:
                    for i in range(m):
                        a[i] = x[i] * w if weighted[o] else x[i]
                else:
                    for i in range(m):
                        a[i] = a[i] + (x[i] * w if weighted[o] else x[i])
            for i in range(m):
                s = a[i]
                a[i] = one if s > zero else (-one if s < zero else (tied if s == zero else zero))
            for k in range(rows):
                w, x = weights[o, k], v[k]
                for i in range(m):
                    vote = x[i] * w if weighted[o] else x[i]
                    x[i] = x[i] * (one if vote * a[i] > zero else zero)
        elif code == 7:
            for k in range(rows):
                limit, x, u = np.uint32(limits[o, k]), v[k], bits[k]
                for i in range(m):
                    x[i] = x[i] * (one if (u[i] & np.uint32(0x7FFFFFFF)) >= limit else zero)
        elif code == 8:
            top = zero if flag == 1 else one
            low = one if flag == 1 else zero
            for k in range(rows):
                limit, x, u = np.uint32(limits[o, k]), v[k], bits[k]
                equal = 0
                for i in range(m):
                    equal += np.int64((u[i] & np.uint32(0x7FFFFFFF)) == limit)
                left = missing[o, k] - seen[o, k]
                seen[o, k] += equal
                if left >= equal:  # all of them are marked
                    for i in range(m):
                        x[i] = x[i] * (top if (u[i] & np.uint32(0x7FFFFFFF)) >= limit else low)
                elif left <= 0:
                    for i in range(m):
                        x[i] = x[i] * (top if (u[i] & np.uint32(0x7FFFFFFF)) > limit else low)
                else:
                    for i in range(m):
                        y = u[i] & np.uint32(0x7FFFFFFF)
                        mark = y > limit
                        if y == limit:
                            mark = left > 0
                            left -= 1
                        x[i] = x[i] * (top if mark else low)
        elif code == 9:
            top = zero if flag == 1 else one
            low = one if flag == 1 else zero
            count = limits[o, 0]
            for k in range(rows):
                for at in range(0, m, row):
                    x, u = v[k, at : at + row], bits[k, at : at + row]
                    if count >= row:
                        for i in range(row):
                            x[i] = x[i] * top
                    elif count <= 0:
                        for i in range(row):
                            x[i] = x[i] * low
                    else:
                        limit, left = _row_limit(u, row, count, counts, spare)
                        equal = 0
                        for i in range(row):
                            equal += np.int64((u[i] & np.uint32(0x7FFFFFFF)) == limit)
                        if left >= equal:
                            for i in range(row):
                                x[i] = x[i] * (top if (u[i] & np.uint32(0x7FFFFFFF)) >= limit else low)
                        else:
                            for i in range(row):
                                y = u[i] & np.uint32(0x7FFFFFFF)
                                mark = y > limit
                                if y == limit:
                                    mark = left > 0
                                    left -= 1
                                x[i] = x[i] * (top if mark else low)
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
            lowest, slope, words = numbers[o], weights[o, 0], bits[experts + 1]
            one64, other64 = np.empty(row, np.uint64), np.empty(row, np.uint64)
            many = np.empty(4096, np.int64)
            for k in range(rows):
                _philox(keys[o, k, 0], keys[o, k, 1], start, m, words)
                for at in range(0, m, row):
                    x, u, w = v[k, at : at + row], bits[k, at : at + row], words[at : at + row]
                    order = _order(u, row, one64, other64, many)
                    for r in range(row):
                        i = np.int64(order[r] & np.uint64(0xFFFFFFFF))
                        chance = lowest + np.float32(r) * slope
                        inside = np.float64(w[i]) < np.float64(chance) * 4294967296.0
                        y = x[i] * (one if inside else zero)
                        x[i] = y / chance if flag == 1 else y
    return rows


@_jit
def _block(
    raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad,
):  # fmt: skip
    """Decode a block of every source and subtract the base."""
    for k in range(experts + based):
        bad[k] += _decode(raw8, raw16, raw32, k, kinds[k], tables[k], at, m, v[k], bits[k])
    if based:
        base = v[experts]
        for k in range(experts):
            x = v[k]
            for i in range(m):
                x[i] = x[i] - base[i]


@_jit
def merge(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, numbers, weighted, weights, keys, limits, missing, seen,
    v, bits, counts, spare, out_kind, out16, out32, bad,
):  # fmt: skip
    """Merge a slice of n numbers; return how many rows were left (1 if all is well).

    ``bad`` is not 0 where something is not finite: per source, and last of the result.
    """
    rows = 1
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows = _steps(
            len(codes), codes, flags, numbers, weighted, weights, keys, limits, missing, seen,
            experts, v, bits, start + at, m, row, counts, spare,
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
    codes, flags, numbers, weighted, weights, keys, limits, missing, seen,
    v, bits, counts, spare, upto, what, prefix, found, bad,
):  # fmt: skip
    """Count what a measure before step ``upto`` asks for, over a slice of n numbers.

    ``what``: 0 high bits of magnitudes, 1 low bits below ``prefix`` (both per expert, in four lanes
    of ``found`` (K, 4, bins)), 2 elected signs (``found[0, 0, 0]``).
    """
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows = _steps(
            upto, codes, flags, numbers, weighted, weights, keys, limits, missing, seen,
            experts, v, bits, start + at, m, row, counts, spare,
        )  # fmt: skip
        if what == 0:
            for k in range(rows):
                u, f = bits[k], found[k]
                for i in range(m):
                    f[i & 3, (u[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1
        elif what == 1:
            for k in range(rows):
                u, f, high = bits[k], found[k], np.uint32(prefix[k])
                inside = 0
                for i in range(m):
                    y = u[i] & np.uint32(0x7FFFFFFF)
                    spare[inside] = y
                    inside += np.int64((y >> np.uint32(16)) == high)
                for i in range(inside):
                    f[i & 3, spare[i] & np.uint32(0xFFFF)] += 1
        else:
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
def products(
    raw8, raw16, raw32, kinds, tables, experts, based, n, start, row, block,
    codes, flags, numbers, weighted, weights, keys, limits, missing, seen,
    v, bits, counts, spare, upto, found, bad,
):  # fmt: skip
    """Sum the products of all pairs of rows before step ``upto``, block by block, into ``found``.

    The order of the additions is that of `taskloom.algebra.gram.block_sums`.
    """
    lanes = np.zeros(64, np.float64)
    for at in range(0, n, block):
        m = min(block, n - at)
        _block(raw8, raw16, raw32, kinds, tables, experts, based, at, m, v, bits, bad)
        rows = _steps(
            upto, codes, flags, numbers, weighted, weights, keys, limits, missing, seen,
            experts, v, bits, start + at, m, row, counts, spare,
        )  # fmt: skip
        full, pair = m // 64 * 64, 0
        for a in range(rows):
            for b in range(a, rows):
                for j in range(64):
                    lanes[j] = 0.0
                for i in range(0, full, 64):
                    x, y = v[a, i : i + 64], v[b, i : i + 64]
                    for j in range(64):
                        lanes[j] += np.float64(x[j]) * np.float64(y[j])
                x, y = v[a, full:m], v[b, full:m]
                for j in range(m - full):
                    lanes[j] += np.float64(x[j]) * np.float64(y[j])
                width = 32
                while width:
                    for j in range(width):
                        lanes[j] += lanes[j + width]
                    width //= 2
                found[at // block, pair] = lanes[0]
                pair += 1
