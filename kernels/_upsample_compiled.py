"""The compiled body of :func:`onnxvis.kernels.upsample.upsample_bilinear`; importing it imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.kernels._jit import jit

__all__ = ["interpolate_line", "upsample_rows"]


# The positional arguments are many because a kernel takes arrays, not objects.


def _interpolate_line(upper: Any, lower: Any, t: Any, xs: Any, line: Any, out: Any) -> None:
    x_low, x_high, x_part, bounds = xs
    one = np.float32(1.0)
    for k in range(line.size):
        line[k] = upper[k] * (one - t) + lower[k] * t
    for s in range(bounds.size - 1):
        # Between two bounds the neighbors stay the same, so the inner loop is a straight ramp for SIMD.
        first = bounds[s]
        left = line[x_low[first]]
        right = line[x_high[first]]
        for x in range(first, bounds[s + 1]):
            out[x] = left * (one - x_part[x]) + right * x_part[x]


interpolate_line: Any = jit(_interpolate_line)


def _upsample_rows(maps: Any, ys: Any, xs: Any, out: Any, start: int, stop: int) -> None:
    y_low, y_high, y_part = ys
    height = out.shape[1]
    line = np.empty(maps.shape[2], np.float32)
    for row in range(start, stop):
        n = row // height
        y = row % height
        interpolate_line(maps[n, y_low[y]], maps[n, y_high[y]], y_part[y], xs, line, out[n, y])


upsample_rows: Any = jit(_upsample_rows)
