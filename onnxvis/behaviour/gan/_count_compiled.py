"""The compiled body of :class:`onnxvis.behaviour.gan.information.JointCounts`; importing it imports numba."""

from __future__ import annotations

from typing import Any

from onnxvis.kernels._jit import jit

__all__ = ["count_levels"]


def _count_levels(values: Any, edges: Any, kinds: Any, count: Any, start: int, stop: int) -> None:
    levels = edges.shape[1]
    for unit in range(start, stop):
        for place in range(kinds.size):
            value = values[unit, place]
            low = 0
            high = levels
            while low < high:  # how many thresholds lie below the value; none below NaN
                middle = (low + high) // 2
                if edges[unit, middle] < value:
                    low = middle + 1
                else:
                    high = middle
            count[unit, low, kinds[place]] += 1


count_levels: Any = jit(_count_levels)
