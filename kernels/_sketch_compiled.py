"""The compiled bodies of :class:`onnxvis.kernels.sketch.Sketch`; importing it imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.kernels._jit import jit

__all__ = ["count", "extents"]


def _extents(values: Any, bits: Any, limits: Any, keys: Any, ends: Any, start: int, stop: int) -> None:
    """Smallest and largest bit pattern of each sign among the values with a bucket, and the extremes of all."""
    smallest, largest = limits
    images, _, places = bits.shape
    for unit in range(start, stop):
        low_positive, high_positive = np.int32(0x7FFFFFFF), np.int32(-1)
        low_negative, high_negative = np.int32(0x7FFFFFFF), np.int32(-1)
        low, high = np.float32(np.inf), np.float32(-np.inf)
        for n in range(images):
            for p in range(places):
                value = values[n, unit, p]
                low = min(low, value) if value == value else low  # noqa: PLR0124 - NaN alone differs from itself
                high = max(high, value) if value == value else high  # noqa: PLR0124
                size = bits[n, unit, p] & np.int32(0x7FFFFFFF)
                if size < smallest or size >= largest:
                    continue
                if bits[n, unit, p] >= 0:
                    low_positive, high_positive = min(low_positive, size), max(high_positive, size)
                else:
                    low_negative, high_negative = min(low_negative, size), max(high_negative, size)
        keys[unit, 0], keys[unit, 1], keys[unit, 2], keys[unit, 3] = (
            low_positive, high_positive, low_negative, high_negative,
        )  # fmt: skip
        ends[unit, 0], ends[unit, 1] = low, high


def _count(bits: Any, limits: Any, shift: int, firsts: Any, sides: Any, outside: Any, start: int, stop: int) -> None:
    smallest, largest = limits
    first_positive, first_negative = firsts
    positive, negative = sides
    zero, over, under, nan = outside
    images, _, places = bits.shape
    for unit in range(start, stop):
        for n in range(images):
            for p in range(places):
                pattern = bits[n, unit, p]
                size = pattern & np.int32(0x7FFFFFFF)
                if size < smallest:
                    zero[unit] += 1
                elif size > np.int32(0x7F800000):
                    nan[unit] += 1
                elif size >= largest:
                    if pattern >= 0:
                        over[unit] += 1
                    else:
                        under[unit] += 1
                elif pattern >= 0:
                    positive[unit, (size >> shift) - first_positive] += 1
                else:
                    negative[unit, (size >> shift) - first_negative] += 1


extents: Any = jit(_extents)
count: Any = jit(_count)
