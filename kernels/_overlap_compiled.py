"""The compiled body of :class:`onnxvis.kernels.overlap.Overlap`; importing it imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.kernels._jit import jit
from onnxvis.kernels._upsample_compiled import interpolate_line

__all__ = ["count_over"]


def _count_over(
    maps: Any, ys: Any, xs: Any, thresholds: Any, labels: Any, both: Any, masked: Any, start: int, stop: int
) -> None:
    y_low, y_high, y_part = ys
    height, width = labels.shape
    line = np.empty(maps.shape[2], np.float32)
    out = np.empty(width, np.float32)
    for unit in range(start, stop):
        threshold = thresholds[unit]
        for y in range(height):
            interpolate_line(maps[unit, y_low[y]], maps[unit, y_high[y]], y_part[y], xs, line, out)
            for x in range(width):
                label = labels[y, x]
                if label >= 0 and out[x] > threshold:
                    both[unit, label] += 1
                    masked[unit] += 1


count_over: Any = jit(_count_over)
