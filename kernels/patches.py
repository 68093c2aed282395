"""Boxes cut from a picture, also where they reach over its border.

Two ways, equal to the bit, chosen by the number of boxes alone: numpy slices, one box after the other; and from
:data:`COMPILED_FROM` small boxes on a numba kernel on all CPUs. The work is copying: for large boxes numpy's own copy
is the faster one, while many small ones (the receptive fields of early units) are bound by Python's time for each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.errors import UsageError

__all__ = ["COMPILED_FROM", "cut_patches"]

COMPILED_FROM = 1 << 18
"""Boxes from which the numba kernel is used: below, loading it costs more than it saves."""
_SMALL = 32 * 32


def cut_patches(
    picture: ArrayLike, boxes: ArrayLike, fill: float = 0.0
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Cut boxes of one size out of a picture.

    Args:
        picture: ``(H, W)`` or ``(H, W, C)``, any type.
        boxes: ``(N, 4)`` whole numbers ``y0, y1, x0, x1`` in pixels, half-open, all of one height and width. They
            may reach over the border, or lie outside altogether.
        fill: what stands outside the picture.

    Returns:
        The patches ``(N, h, w)`` or ``(N, h, w, C)`` in the picture's type, and ``(N, h, w)`` bool: true where a
        patch shows the picture.

    Raises:
        UsageError: the boxes are empty, of several sizes or no whole numbers, the picture is empty, or its type
            cannot hold the fill.
    """
    pixels = np.asarray(picture)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise UsageError(f"A picture to cut from must be (H, W) or (H, W, C) and not empty; got {pixels.shape}.")
    places, (height, width) = _checked(boxes)
    filled = _storable(fill, pixels.dtype)
    whole = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))
    patches = np.full((len(places), height, width, whole.shape[2]), filled, dtype=pixels.dtype)
    inside = np.zeros((len(places), height, width), np.bool_)
    cut = _cut_compiled if len(places) >= COMPILED_FROM and height * width <= _SMALL else _cut
    cut(whole, places, patches, inside)
    return patches.reshape(*patches.shape[:3], *pixels.shape[2:]), inside


def _storable(fill: float, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    with np.errstate(invalid="ignore", over="ignore"):
        filled = np.asarray(fill, np.float64).astype(dtype)
    if dtype.kind not in "fc" and filled != fill:
        raise UsageError(f"A picture of type {dtype} cannot hold the fill {fill!r}.")
    return filled


def _checked(boxes: ArrayLike) -> tuple[NDArray[np.int64], tuple[int, int]]:
    given = np.asarray(boxes)
    if given.ndim != 2 or given.shape[1] != 4 or (given.size and given.dtype.kind not in "iu"):
        raise UsageError(f"Boxes must be (N, 4) whole numbers y0, y1, x0, x1; got {given.shape} {given.dtype}.")
    places = np.ascontiguousarray(given, dtype=np.int64)
    if not len(places):
        return places, (0, 0)
    heights, widths = places[:, 1] - places[:, 0], places[:, 3] - places[:, 2]
    if (heights != heights[0]).any() or (widths != widths[0]).any() or heights[0] < 1 or widths[0] < 1:
        raise UsageError(
            "Boxes to cut together must have one height and one width, at least 1 pixel. Cut others apart."
        )
    return places, (int(heights[0]), int(widths[0]))


def _cut(
    picture: NDArray[np.generic],
    boxes: NDArray[np.int64],
    patches: NDArray[np.generic],
    inside: NDArray[np.bool_],
) -> None:
    low = np.maximum(boxes[:, ::2], 0)
    high = np.minimum(boxes[:, 1::2], picture.shape[:2])
    seen = (low < high).all(axis=1)
    start = low - boxes[:, ::2]
    stop = high - boxes[:, ::2]
    for n in np.flatnonzero(seen):
        rows, columns = slice(start[n, 0], stop[n, 0]), slice(start[n, 1], stop[n, 1])
        patches[n, rows, columns] = picture[low[n, 0] : high[n, 0], low[n, 1] : high[n, 1]]
        inside[n, rows, columns] = True


def _cut_compiled(
    picture: NDArray[np.generic],
    boxes: NDArray[np.int64],
    patches: NDArray[np.generic],
    inside: NDArray[np.bool_],
) -> None:
    from onnxvis.kernels._jit import for_row_blocks
    from onnxvis.kernels._patches_compiled import cut_boxes

    # One compiled version for each size of element: values are only moved, so their type does not matter.
    kind = f"u{picture.dtype.itemsize}"
    source, target = (picture.view(kind), patches.view(kind)) if picture.dtype.itemsize <= 8 else (picture, patches)

    def work(start: int, stop: int) -> None:
        cut_boxes(source, boxes, target, inside, start, stop)

    for_row_blocks(work, len(boxes))
