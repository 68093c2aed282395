"""The compiled body of :class:`onnxvis.kernels.topk.TopK`; importing it imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.kernels._jit import jit

__all__ = ["keep_largest"]


def _insert(top: Any, images: Any, places: Any, value: Any, image: int, place: int) -> None:
    """Put one candidate into a descending row, if it belongs there."""
    last = top.size - 1
    at = last + 1
    while at > 0 and (
        value > top[at - 1]
        or (value == top[at - 1] and (image < images[at - 1] or (image == images[at - 1] and place < places[at - 1])))
    ):
        at -= 1
    if at > last:
        return
    for i in range(last, at, -1):
        top[i] = top[i - 1]
        images[i] = images[i - 1]
        places[i] = places[i - 1]
    top[at] = value
    images[at] = image
    places[at] = place


insert: Any = jit(_insert)


def _keep_largest(
    values: Any, numbers: Any, top: Any, images: Any, places: Any, one_per_image: bool, start: int, stop: int
) -> None:
    count, _, size = values.shape
    last = top.shape[1] - 1
    nothing = np.float32(-np.inf)
    for unit in range(start, stop):
        for n in range(count):
            if one_per_image:
                best = nothing
                place = 0
                for p in range(size):
                    if values[n, unit, p] > best:
                        best = values[n, unit, p]
                        place = p
                if best > nothing and best >= top[unit, last]:
                    insert(top[unit], images[unit], places[unit], best, numbers[n], place)
            else:
                for p in range(size):
                    value = values[n, unit, p]
                    if value > nothing and value >= top[unit, last]:
                        insert(top[unit], images[unit], places[unit], value, numbers[n], p)


keep_largest: Any = jit(_keep_largest)
