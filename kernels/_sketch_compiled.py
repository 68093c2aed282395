"""The compiled bodies of :class:`onnxvis.kernels.sketch.Sketch`; importing it imports numba.

The inner loops hold no branch: which bucket a value falls into is as good as random, and a processor that guesses
wrong waits longer than the counting takes. What is left of each is a reduction, which becomes SIMD, or a store whose
place moves on or does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.kernels._jit import jit

__all__ = ["count", "extents"]


def _extents(bits: Any, limits: Any, keys: Any, ends: Any, start: int, stop: int) -> None:
    """Smallest and largest magnitude of each sign among the values with a bucket, and the extremes of all.

    The extremes are bit patterns in the order of the numbers: those of negative ones have their magnitude inverted.
    """
    smallest, largest = limits
    images, _, places = bits.shape
    most, least, none = np.int32(0x7FFFFFFF), np.int32(-0x80000000), np.int32(-1)
    infinity, zero, sign = np.int32(0x7F800000), np.int32(0), np.int32(31)
    for unit in range(start, stop):
        low_positive, high_positive, low_negative, high_negative = most, none, most, none
        low, high = most, least
        for n in range(images):
            row = bits[n, unit]
            for p in range(places):
                pattern = row[p]
                size = pattern & most
                inside = (size >= smallest) & (size < largest)
                positive, negative = inside & (pattern >= zero), inside & (pattern < zero)
                low_positive = min(low_positive, size if positive else most)
                high_positive = max(high_positive, size if positive else none)
                low_negative = min(low_negative, size if negative else most)
                high_negative = max(high_negative, size if negative else none)
                order = pattern ^ ((pattern >> sign) & most)
                low = min(low, order if size <= infinity else most)
                high = max(high, order if size <= infinity else least)
        keys[unit, 0], keys[unit, 1], keys[unit, 2], keys[unit, 3] = (
            low_positive, high_positive, low_negative, high_negative,
        )  # fmt: skip
        ends[unit, 0], ends[unit, 1] = low, high


def _gather_keys(row: Any, limits: Any, flip: Any, shift: Any, first: Any, found: Any) -> Any:
    """Buckets of the values of one sign: positive ones for a ``flip`` of 0, negative ones for -1; returns how many."""
    smallest, largest = limits
    most, zero = np.int32(0x7FFFFFFF), np.int32(0)
    count: Any = 0
    for p in range(row.size):
        pattern = row[p]
        size = pattern & most
        found[count] = (size >> shift) - first
        count += np.intp((size >= smallest) & (size < largest) & ((pattern ^ flip) >= zero))
    return count


gather_keys: Any = jit(_gather_keys)


def _count(bits: Any, limits: Any, shift: int, firsts: Any, sides: Any, outside: Any, start: int, stop: int) -> None:
    smallest, largest = limits
    positive, negative = sides
    zeros, over, under, nan = outside
    images, _, places = bits.shape
    most, infinity, zero = np.int32(0x7FFFFFFF), np.int32(0x7F800000), np.int32(0)
    by, first_positive, first_negative = np.int32(shift), np.int32(firsts[0]), np.int32(firsts[1])
    found = np.empty(places + 1, np.int32)
    for unit in range(start, stop):
        for n in range(images):
            row = bits[n, unit]
            small, large_positive, large_negative, no_number, below = zero, zero, zero, zero, zero
            for p in range(places):
                pattern = row[p]
                size = pattern & most
                large = (size >= largest) & (size <= infinity)
                small += np.int32(size < smallest)
                large_positive += np.int32(large & (pattern >= zero))
                large_negative += np.int32(large & (pattern < zero))
                no_number += np.int32(size > infinity)
                below += np.int32(pattern < zero)
            zeros[unit] += small
            over[unit] += large_positive
            under[unit] += large_negative
            nan[unit] += no_number
            for i in range(gather_keys(row, limits, zero, by, first_positive, found)):
                positive[unit, found[i]] += 1
            if below:
                for i in range(gather_keys(row, limits, np.int32(-1), by, first_negative, found)):
                    negative[unit, found[i]] += 1


extents: Any = jit(_extents)
count: Any = jit(_count)
