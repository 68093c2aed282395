"""Resampling one axis at a time, and Pillow's own filters for pictures of any number of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.kernels.resize import resize_8bit
from onnxvis.picture import Pixels

__all__ = ["AxisTaps", "axis_taps", "made_whole", "resample_map", "resize_pixels"]

MAX_INTERMEDIATE_PIXELS = 2**26
"""A resized picture larger than this is never made whole: only the window that survives the crop."""


@dataclass(frozen=True, eq=False)
class AxisTaps:
    """A banded matrix: output i is the sum over k of ``weights[k, i] * input[index[k, i]]``.

    Attributes:
        index: ``(K, n_out) int64``, positions on the input axis.
        weights: ``(K, n_out) float32``, each column sums to 1.
    """

    index: NDArray[np.int64]
    weights: NDArray[np.float32]


def axis_taps(start: int, stop: int, scale: float, offset: float, length: int) -> AxisTaps:
    """Taps that read an input axis at the output pixels ``start .. stop - 1``.

    Output pixel i sits at the input's edge coordinate ``(i + 0.5) * scale + offset``. The input
    is interpolated linearly between pixel centers, constant beyond the outermost ones; it is read
    at that point for ``scale <= 1``, and averaged over a width of ``sqrt(scale^2 - 1)`` around it for
    ``scale > 1``. So no input pixel is skipped, a linear ramp stays one, and ``scale == 1`` is the identity.

    Args:
        start: first output pixel.
        stop: one past the last output pixel.
        scale: input pixels per output pixel.
        offset: input edge coordinate of output edge 0.
        length: number of input pixels.
    """
    width = math.sqrt(max(0.0, scale * scale - 1.0))
    center = (np.arange(start, stop) + 0.5) * scale + offset
    first = np.floor(center - width / 2 - 0.5).astype(np.int64)
    index = first[np.newaxis] + np.arange(math.ceil(width) + 2)[:, np.newaxis]
    distance = index + 0.5 - center
    if width == 0:
        weights = np.maximum(0.0, 1.0 - np.abs(distance))
    else:
        weights = (_hat_integral(width / 2 - distance) - _hat_integral(-width / 2 - distance)) / width
    # A tap of weight zero must not touch another pixel: zero times NaN would still be NaN.
    strongest = np.take_along_axis(index, weights.argmax(axis=0)[np.newaxis], axis=0)
    index = np.clip(np.where(weights > 0, index, strongest), 0, length - 1)
    return AxisTaps(index, weights.astype(np.float32))


def _hat_integral(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral from minus infinity to t of the hat function max(0, 1 - |t|)."""
    t = np.clip(t, -1.0, 1.0)
    return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)


def resample_map(values: NDArray[np.float32], rows: AxisTaps, columns: AxisTaps) -> NDArray[np.float32]:
    """Apply both axes' taps to ``(h, w)``; time and memory grow with the output, not with its product."""
    tall = np.zeros((rows.index.shape[1], values.shape[1]), np.float32)
    for index, weight in zip(rows.index, rows.weights, strict=True):
        tall += values[index] * weight[:, np.newaxis]
    out = np.zeros((tall.shape[0], columns.index.shape[1]), np.float32)
    for index, weight in zip(columns.index, columns.weights, strict=True):
        out += np.take(tall, index, axis=1) * weight
    return out


def made_whole(resized: tuple[int, int]) -> bool:
    """Whether a resized picture of (height, width) is made as a whole before it is cropped."""
    return resized[0] * resized[1] <= MAX_INTERMEDIATE_PIXELS


def resize_pixels(
    pixels: Pixels,
    resized: tuple[int, int],
    window: tuple[int, int, int, int],
    interpolation: str,
) -> Pixels:
    """Resize with Pillow's antialiased filters and keep a window of the result.

    8-bit pictures are rounded to 8 bits exactly as ``PIL.Image.resize`` does, because that is what the
    network saw in training; float pictures are resized as floats.

    Args:
        pixels: ``(H, W, C)``.
        resized: (height, width) of the whole resized picture.
        window: (top, left, bottom, right) of the part to keep, in resized pixels.
        interpolation: nearest, bilinear, bicubic, lanczos, box or hamming.

    Returns:
        ``(bottom - top, right - left, C)`` of the same dtype.
    """
    top, left, bottom, right = window
    if resized == pixels.shape[:2]:
        return pixels[top:bottom, left:right]
    from PIL import Image

    if pixels.dtype == np.uint8:
        quick = resize_8bit(np.asarray(pixels, np.uint8), resized, window, interpolation)
        if quick is not None:
            return quick
    method = Image.Resampling[interpolation.upper()]
    height, width = resized
    box: tuple[float, float, float, float] | None = None
    if not made_whole(resized):
        # Pillow reads the same taps for a source box as for the whole picture; only the crop is made.
        per_row, per_column = pixels.shape[0] / height, pixels.shape[1] / width
        box = (left * per_column, top * per_row, right * per_column, bottom * per_row)
        box = (box[0], box[1], min(box[2], pixels.shape[1]), min(box[3], pixels.shape[0]))
        height, width = bottom - top, right - left
    planes = [np.asarray(Image.fromarray(plane).resize((width, height), method, box=box)) for plane in _planes(pixels)]
    whole: Any = planes[0] if planes[0].ndim == 3 else np.stack(planes, axis=-1)
    return whole if box is not None else whole[top:bottom, left:right]  # type: ignore[no-any-return]


def _planes(pixels: Pixels) -> list[Any]:
    """What Pillow can resize at once: an RGB picture, or one plane a channel."""
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return [np.ascontiguousarray(pixels)]
    return [np.ascontiguousarray(pixels[..., channel]) for channel in range(pixels.shape[2])]
