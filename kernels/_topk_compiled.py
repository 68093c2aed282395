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


def _order(pattern: Any) -> Any:
    """A whole number that is larger where the float32 of this bit pattern is; NaN is the smallest, both zeros are 0."""
    most, least = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    size = pattern & most
    ordered = pattern ^ ((pattern >> np.int32(31)) & most)
    ordered = ordered if size > np.int32(0) else np.int32(0)
    return ordered if size <= np.int32(0x7F800000) else least


order: Any = jit(_order)


# The positional arguments are many because a kernel takes arrays, not objects.


def _keep_largest(
    values: Any,
    numbers: Any,
    top: Any,
    images: Any,
    places: Any,
    one_per_image: bool,
    grid: Any,
    start: int,
    stop: int,
) -> None:
    count, _, size = values.shape
    width, columns = grid
    bits, kept = values.view(np.int32), top.view(np.int32)
    last = top.shape[1] - 1
    nothing = np.float32(-np.inf)
    lowest = np.int32(-0x7F800001)  # of minus infinity
    for unit in range(start, stop):
        for n in range(count):
            if one_per_image:
                # The largest first, which whole numbers tell without a branch; where it is, only if it is kept.
                row = bits[n, unit]
                best = np.int32(-0x80000000)
                for p in range(size):
                    best = max(best, order(row[p]))
                if best > lowest and best >= order(kept[unit, last]):
                    place = 0
                    while order(row[place]) != best:
                        place += 1
                    at = place // width * columns + place % width
                    insert(top[unit], images[unit], places[unit], values[n, unit, place], numbers[n], at)
            else:
                for p in range(size):
                    value = values[n, unit, p]
                    if value > nothing and value >= top[unit, last]:
                        at = p // width * columns + p % width
                        insert(top[unit], images[unit], places[unit], value, numbers[n], at)


keep_largest: Any = jit(_keep_largest)
