"""Where the object is: a box or a mask of the original picture, brought to the model's input grid."""

from __future__ import annotations

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.preprocessing import Geometry

__all__ = ["as_mask", "box_of"]

Box = tuple[float, float, float, float]


def as_mask(given: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Boxes or a mask of the picture as a mask of the input grid, and the objects' boxes in the picture.

    Args:
        given: a box ``(x0, y0, x1, y1)`` of edges in pixels of the original picture, several ``(k, 4)``, or a mask
            ``(H0, W0)`` of the picture's size, true (or not 0) on the objects. What lies outside of the picture of a
            box is cut off.
        geometry: between the two.

    Returns:
        ``(H, W)`` bool, true where an input pixel's center lies on an object, and the boxes in picture pixels: as
        given, of a mask the one around it.

    Raises:
        UsageError: neither boxes nor a mask of this picture, or nothing in it.
    """
    values = np.asarray(given)
    width, height = geometry.picture_size
    if values.shape != (height, width) and values.shape[-1:] == (4,) and values.ndim <= 2 and values.size:
        found = [_from_box(box, geometry) for box in values.astype(np.float64).reshape(-1, 4)]
        return np.logical_or.reduce([mask for mask, _ in found]), tuple(box for _, box in found)
    if values.shape != (height, width):
        raise UsageError(
            f"a mask of shape {values.shape} does not fit a picture of {height} x {width} pixels: give a mask of the "
            "picture's own size, or a box of four numbers x0, y0, x1, y1."
        )
    seen = values != 0
    if not seen.any():
        raise UsageError("the mask is empty: no pixel belongs to the object.")
    rows, inside_y = _nearest(geometry, 1)
    columns, inside_x = _nearest(geometry, 0)
    return seen[np.ix_(rows, columns)] & inside_y[:, None] & inside_x[None], (box_of(seen),)


def box_of(mask: np.ndarray) -> Box:
    """The edges ``(x0, y0, x1, y1)`` around the true pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _nearest(geometry: Geometry, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """For each input pixel the picture pixel at its center, and whether there is one."""
    centers = np.arange(geometry.input_size[axis]) + 0.5
    places = np.floor((centers - geometry.offset[axis]) / geometry.scale[axis]).astype(np.int64)
    last = geometry.picture_size[axis] - 1
    return np.clip(places, 0, last), (places >= 0) & (places <= last)


def _from_box(box: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Box]:
    x0, y0, x1, y1 = (float(edge) for edge in box)
    if not (np.isfinite(box).all() and x0 < x1 and y0 < y1):
        raise UsageError(f"a box is four numbers x0, y0, x1, y1 with x0 < x1 and y0 < y1, not {box.tolist()}.")
    width, height = geometry.picture_size
    cut = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
    if not (cut[0] < cut[2] and cut[1] < cut[3]):
        raise UsageError(f"the box {box.tolist()} lies outside of the picture, which has {width} x {height} pixels.")
    left, top, right, bottom = geometry.box_to_input(cut)
    columns, rows = np.arange(geometry.input_size[0]) + 0.5, np.arange(geometry.input_size[1]) + 0.5
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]
    return inside, cut
