"""The compiled bodies of :func:`onnxvis.kernels.resize.resize_8bit`; importing it imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.kernels._jit import jit

__all__ = ["combine_rows", "transpose_words"]

_TILE = 64


# The positional arguments are many because a kernel takes arrays, not objects.


def _combine_rows(source: Any, first: Any, count: Any, weights: Any, group: int, out: Any) -> None:
    """Weighted sums of whole rows, which makes every inner loop a plain one for SIMD.

    Row ``group * i + c`` of ``out`` is made of the rows ``group * (first[i] + t) + c`` of ``source``; weights are whole
    numbers of 2^-22, and the result is rounded and clamped to a byte, as Pillow does.
    """
    lanes = source.shape[1]
    total = np.empty(lanes, np.int32)
    half, shift = np.int32(1 << 21), np.int32(22)
    least, most = np.int32(0), np.int32(255)
    for i in range(first.size):
        for c in range(group):
            for x in range(lanes):
                total[x] = half
            for t in range(count[i]):
                weight = weights[i, t]
                row = source[group * (first[i] + t) + c]
                for x in range(lanes):
                    total[x] += np.int32(row[x]) * weight
            target = out[group * i + c]
            for x in range(lanes):
                value = total[x] >> shift
                value = value if value > least else least
                value = value if value < most else most
                target[x] = np.uint8(value)


def _swap(upper: Any, lower: Any, bits: Any, mask: Any) -> Any:
    """Exchange the high part of each field of ``upper`` with the low part of that of ``lower``."""
    moved = ((upper >> bits) ^ lower) & mask
    return upper ^ (moved << bits), lower ^ moved


swap: Any = jit(_swap)


def _transpose_words(source: Any, out: Any) -> None:
    """Transpose bytes that are seen as little-endian words of eight: ``(8 a, b)`` words to ``(8 b, a)``.

    A block of 8 x 8 bytes changes halves, quarters and single bytes between its rows, in eight registers.
    """
    halves, quarters, bytes_ = np.uint64(0xFFFFFFFF), np.uint64(0x0000FFFF0000FFFF), np.uint64(0x00FF00FF00FF00FF)
    b32, b16, b8 = np.uint64(32), np.uint64(16), np.uint64(8)
    rows, words = source.shape[0] // 8, source.shape[1]
    for row_tile in range(0, rows, _TILE // 8):
        for word_tile in range(0, words, _TILE // 8):
            for j in range(word_tile, min(word_tile + _TILE // 8, words)):
                for i in range(row_tile, min(row_tile + _TILE // 8, rows)):
                    r = 8 * i
                    r0, r4 = swap(source[r, j], source[r + 4, j], b32, halves)
                    r1, r5 = swap(source[r + 1, j], source[r + 5, j], b32, halves)
                    r2, r6 = swap(source[r + 2, j], source[r + 6, j], b32, halves)
                    r3, r7 = swap(source[r + 3, j], source[r + 7, j], b32, halves)
                    r0, r2 = swap(r0, r2, b16, quarters)
                    r1, r3 = swap(r1, r3, b16, quarters)
                    r4, r6 = swap(r4, r6, b16, quarters)
                    r5, r7 = swap(r5, r7, b16, quarters)
                    r0, r1 = swap(r0, r1, b8, bytes_)
                    r2, r3 = swap(r2, r3, b8, bytes_)
                    r4, r5 = swap(r4, r5, b8, bytes_)
                    r6, r7 = swap(r6, r7, b8, bytes_)
                    c = 8 * j
                    out[c, i], out[c + 1, i], out[c + 2, i], out[c + 3, i] = r0, r1, r2, r3
                    out[c + 4, i], out[c + 5, i], out[c + 6, i], out[c + 7, i] = r4, r5, r6, r7


combine_rows: Any = jit(_combine_rows)
transpose_words: Any = jit(_transpose_words)
