"""The compiled bodies of :mod:`onnxvis.kernels.blend`; importing this imports numba.

A row is done in short loops over row-sized buffers that stay in the L1 cache, each of them plain enough for
the compiler to turn into SIMD: arithmetic, a gather of packed colors (an unsigned index spares the check for
negative ones), and arithmetic on flat bytes with the known stride of 3. One loop for all is three times
slower.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.kernels._jit import jit
from onnxvis.kernels._upsample_compiled import interpolate_line

__all__ = ["blend_map_rows", "blend_rows"]


# The positional arguments are many because a kernel takes arrays, not objects.


def _pick_colors(row: Any, table: Any, low: Any, factor: Any, index: Any, color: Any) -> None:
    half = np.float32(0.5)
    zero = np.float32(0.0)
    last = np.float32(255.0)
    unseen = np.float32(256.0)
    for x in range(row.size):
        v = row[x]
        k = (v - low) * factor + half
        k = k if k > zero else zero
        k = k if k < last else last
        index[x] = np.uint16(k if v == v else unseen)  # noqa: PLR0124
    for x in range(row.size):
        color[x] = table[index[x]]


def _mix(source: Any, parts: Any, target: Any) -> None:
    # At most 255 * 256 + 128: two bytes hold every step, and the casts say so (more SIMD lanes).
    eight = np.uint16(8)
    for x in range(parts.size // 4):
        keep = parts[4 * x + 3]
        red = np.uint16(np.uint16(np.uint16(source[3 * x]) * keep) + parts[4 * x])
        green = np.uint16(np.uint16(np.uint16(source[3 * x + 1]) * keep) + parts[4 * x + 1])
        blue = np.uint16(np.uint16(np.uint16(source[3 * x + 2]) * keep) + parts[4 * x + 2])
        target[3 * x] = np.uint8(red >> eight)
        target[3 * x + 1] = np.uint8(green >> eight)
        target[3 * x + 2] = np.uint8(blue >> eight)


pick_colors: Any = jit(_pick_colors)
mix: Any = jit(_mix)


def _blend_rows(picture: Any, values: Any, table: Any, low: Any, factor: Any, out: Any, start: int, stop: int) -> None:
    index = np.empty(values.shape[1], np.uint16)
    color = np.empty(values.shape[1], np.uint64)
    parts = color.view(np.uint16)
    for y in range(start, stop):
        pick_colors(values[y], table, low, factor, index, color)
        mix(picture[y], parts, out[y])


def _blend_map_rows(
    picture: Any,
    small: Any,
    ys: Any,
    xs: Any,
    table: Any,
    low: Any,
    factor: Any,
    out: Any,
    start: int,
    stop: int,
) -> None:
    y_low, y_high, y_part = ys
    width = xs[2].size
    line = np.empty(small.shape[1], np.float32)
    row = np.empty(width, np.float32)
    index = np.empty(width, np.uint16)
    color = np.empty(width, np.uint64)
    parts = color.view(np.uint16)
    for y in range(start, stop):
        interpolate_line(small[y_low[y]], small[y_high[y]], y_part[y], xs, line, row)
        pick_colors(row, table, low, factor, index, color)
        mix(picture[y], parts, out[y])


blend_rows: Any = jit(_blend_rows)
blend_map_rows: Any = jit(_blend_map_rows)
