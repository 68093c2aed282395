"""Color look-up and alpha blending of a map over a picture in one pass, with up-sampling where it is small.

The numpy way is used below :data:`COMPILED_FROM` pixels, a numba kernel on all CPUs from there on. Both do
the same float32 and integer arithmetic, so their results are equal bit by bit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.errors import PictureError, UsageError
from onnxvis.kernels.upsample import axis_positions, upsample_bilinear

__all__ = ["COMPILED_FROM", "blend_map", "blend_overlay", "color_index"]

COMPILED_FROM = 1 << 22
"""Pixels from which the numba kernel is used: half of a 4K picture, where loading it pays."""

_BLOCK = 1 << 17
_UNSEEN = 256


def _normalized(
    values: NDArray[np.float32], limits: tuple[float, float]
) -> tuple[NDArray[np.float32], np.float32, np.float32]:
    """Values, lower limit and factor: ``(value - low) * factor`` is in 0..255 and safe in float32."""
    low, high = float(limits[0]), float(limits[1])
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        raise UsageError(f"Color limits must be two finite, rising numbers; got {limits!r}.")
    span = high - low
    if not 1e-30 < span < 1e30:
        values = (values.astype(np.float64) / span).astype(np.float32)
        low, span = low / span, 1.0
    return values, np.float32(low), np.float32(255.0 / span)


def _index(values: NDArray[np.float32], low: np.float32, factor: np.float32) -> NDArray[np.intp]:
    with np.errstate(invalid="ignore", over="ignore"):
        k = np.clip((values - low) * factor + np.float32(0.5), np.float32(0), np.float32(255))
    unseen = np.isnan(values)
    return np.where(unseen, _UNSEEN, np.where(unseen, np.float32(0), k).astype(np.intp))


def color_index(values: ArrayLike, limits: tuple[float, float]) -> NDArray[np.intp]:
    """Row of a 256-color table for each value; 256 stands for NaN. Values beyond the limits are clamped."""
    return _index(*_normalized(np.asarray(values, dtype=np.float32), limits))


def _blend_numpy(
    picture: NDArray[np.uint8],
    values: NDArray[np.float32],
    lut: NDArray[np.uint8],
    low: np.float32,
    factor: np.float32,
) -> NDArray[np.uint8]:
    alpha = lut[:, 3].astype(np.uint32)
    alpha += alpha >> 7
    table = np.empty((257, 4), np.uint32)
    table[:256, :3] = lut[:, :3] * alpha[:, None] + 128
    table[:256, 3] = 256 - alpha
    table[_UNSEEN] = (128, 128, 128, 256)
    out = np.empty_like(picture)
    step = max(1, _BLOCK // max(1, values.shape[1]))
    for y in range(0, values.shape[0], step):
        rows = table[_index(values[y : y + step], low, factor)]
        out[y : y + step] = (picture[y : y + step] * rows[..., 3:] + rows[..., :3]) >> 8
    return out


def _prepared(lut: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(257,): all that blending needs of a color, four 16-bit numbers in one.

    Each channel times alpha, plus what rounds it, and the picture's part; entry 256, for NaN, leaves the picture.
    """
    alpha = lut[:, 3].astype(np.uint32)
    alpha += alpha >> 7
    parts = np.full((257, 4), 128, np.uint16)  # at most 255 * 256 + 128
    parts[:256, :3] = lut[:, :3] * alpha[:, None] + 128
    parts[:256, 3] = 256 - alpha
    parts[_UNSEEN, 3] = 256
    return parts.view(np.uint64).reshape(257)


def _blend_compiled(
    picture: NDArray[np.uint8],
    values: NDArray[np.float32],
    lut: NDArray[np.uint8],
    low: np.float32,
    factor: np.float32,
) -> NDArray[np.uint8]:
    """``values`` are (H, W), or smaller and then interpolated row by row, never held in full."""
    from onnxvis.kernels._blend_compiled import blend_map_rows, blend_rows
    from onnxvis.kernels._jit import for_row_blocks

    height, width = picture.shape[:2]
    table = _prepared(lut)
    out = np.empty((height, 3 * width), np.uint8)
    flat = picture.reshape(height, 3 * width)
    if values.shape == (height, width):

        def work(start: int, stop: int) -> None:
            blend_rows(flat, values, table, low, factor, out, start, stop)
    else:
        rows = tuple(axis_positions(values.shape[0], height))
        xs = axis_positions(values.shape[1], width)
        columns = (*xs, xs.bounds)

        def work(start: int, stop: int) -> None:
            blend_map_rows(flat, values, rows, columns, table, low, factor, out, start, stop)

    for_row_blocks(work, height)
    return out.reshape(height, width, 3)


def _checked(picture: ArrayLike, lut: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise PictureError(f"A picture must be (H, W, 3) uint8; got {pixels.shape} {pixels.dtype}.")
    colors = np.asarray(lut)
    if colors.shape != (256, 4) or colors.dtype != np.uint8:
        raise UsageError(f"A color table must be (256, 4) uint8; got {colors.shape} {colors.dtype}.")
    return np.ascontiguousarray(pixels), np.ascontiguousarray(colors)


def blend_overlay(
    picture: ArrayLike, values: ArrayLike, lut: ArrayLike, limits: tuple[float, float]
) -> NDArray[np.uint8]:
    """Lay a map in colors over a picture: ``out = (1 - alpha) * picture + alpha * color``.

    Alpha is taken in 256ths, so each byte is within one level of the exact blend; alpha 0 keeps the picture
    and alpha 255 gives the color exactly.

    Args:
        picture: (H, W, 3) uint8.
        values: (H, W), any real type, looked up in float32. NaN (not seen by the model) leaves the picture as
            it is; values beyond the limits, infinities too, get the color of the nearer end.
        lut: (256, 4) uint8, red, green, blue and alpha; its first row belongs to ``limits[0]``, its last to
            ``limits[1]``.
        limits: (lo, hi), finite, lo < hi, in the units of ``values``.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        PictureError: the picture is not (H, W, 3) uint8 or the map has another size.
        UsageError: the limits or the color table are not usable.
    """
    pixels, colors = _checked(picture, lut)
    grid = np.asarray(values, dtype=np.float32)
    if grid.shape != pixels.shape[:2]:
        raise PictureError(
            f"The map is {grid.shape} and the picture {pixels.shape[:2]} (height, width). Bring the map to "
            "the picture's size first, or use blend_map."
        )
    grid, low, factor = _normalized(grid, limits)
    blend = _blend_compiled if grid.size >= COMPILED_FROM else _blend_numpy
    return blend(pixels, np.ascontiguousarray(grid), colors, low, factor)


def blend_map(
    picture: ArrayLike,
    map: ArrayLike,
    lut: ArrayLike,
    limits: tuple[float, float],
) -> NDArray[np.uint8]:
    """:func:`blend_overlay` of a map that covers the whole picture but has fewer (or more) pixels than it.

    The map is interpolated as :func:`~onnxvis.kernels.upsample.upsample_bilinear` does it. For a large
    picture that happens row by row inside the kernel, so the full-size map is never held in memory; a value
    on the border of two colors may then take the other of the two.

    Args:
        picture: (H, W, 3) uint8.
        map: (h, w), any real type, computed in float32; NaN leaves what it touches of the picture as it is.
        lut: as in :func:`blend_overlay`.
        limits: as in :func:`blend_overlay`.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        PictureError: the picture is not (H, W, 3) uint8.
        UsageError: the map is not 2-D, or the limits or the color table are not usable.
    """
    pixels, colors = _checked(picture, lut)
    small = np.asarray(map, dtype=np.float32)
    if small.ndim != 2 or small.size == 0:
        raise UsageError(f"A map to blend must be (h, w) and not empty; got {small.shape}.")
    small, low, factor = _normalized(small, limits)
    if pixels.shape[0] * pixels.shape[1] >= COMPILED_FROM:
        return _blend_compiled(pixels, np.ascontiguousarray(small), colors, low, factor)
    return _blend_numpy(pixels, upsample_bilinear(small, pixels.shape[:2]), colors, low, factor)
