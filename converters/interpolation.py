"""Resizing one axis as a matrix: every mode of ONNX Resize is a separable linear map.

Row i of the matrix holds the weights with which the input samples make output sample i. The coordinate
transforms, the nearest modes and the cubic kernel are those of the ONNX standard (operator Resize, versions
10 to 19); the cubic kernel is Keys, "Cubic convolution interpolation for digital image processing" (1981).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COORDINATES", "MODES", "NEAREST", "AxisResize", "axis_matrix", "outside"]

Array = npt.NDArray[np.float64]
MODES = ("nearest", "linear", "cubic")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)


@dataclass(frozen=True)
class AxisResize:
    """How one axis is resized.

    Attributes:
        size: samples before.
        made: samples after.
        scale: ratio that the coordinate transform uses (not always made / size).
        start: begin of the crop, 0..1 of the axis (tf_crop_and_resize only).
        end: its end.
    """

    size: int
    made: int
    scale: float
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    start: float = 0.0
    end: float = 1.0

    @property
    def trivial(self) -> bool:
        """Whether the axis stays as it is: onnxruntime's smoothing skips axes that keep their size."""
        return self.size == self.made and (self.scale == 1.0 or self.antialias)


def _positions(axis: AxisResize, kind: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """Position of every output sample, in input samples."""
    x = np.arange(axis.made, dtype=kind)
    return x if axis.scale == 1.0 else np.asarray(_transformed(axis, x, kind))


def _transformed(axis: AxisResize, x: npt.NDArray[Any], kind: type[np.floating[Any]]) -> Any:
    scale, size, made, half = kind(axis.scale), axis.size, axis.made, kind(0.5)
    match axis.coordinates:
        case "half_pixel":
            return (x + half) / scale - half
        case "half_pixel_symmetric":
            adjustment = kind(made) / (scale * kind(size))
            offset = kind(size) / kind(2) * (kind(1) - adjustment)
            return offset + (x + half) / scale - half
        case "pytorch_half_pixel":
            return (x + half) / scale - half if made > 1 else np.zeros_like(x)
        case "align_corners":
            return x * kind(size - 1) / kind(made - 1) if made > 1 else np.zeros_like(x)
        case "asymmetric":
            return x / scale
        case "tf_half_pixel_for_nn":
            return (x + half) / scale
        case "tf_crop_and_resize":
            start, end = kind(axis.start), kind(axis.end)
            if made == 1:
                return np.array([half * (start + end) * kind(size - 1)], dtype=kind)
            return start * kind(size - 1) + x * (end - start) * kind(size - 1) / kind(made - 1)
        case other:
            raise ValueError(f"coordinate transformation {other!r} is unknown")


@functools.lru_cache(maxsize=256)
def outside(axis: AxisResize) -> npt.NDArray[np.bool_]:
    """Which output samples fall outside the input and so take the extrapolation value."""
    x = _positions(axis, np.float32)
    return np.asarray((x < 0) | (x > axis.size - 1))


@functools.lru_cache(maxsize=256)
def axis_matrix(axis: AxisResize) -> Array:
    """The ``(made, size)`` matrix of one axis."""
    if axis.mode == "nearest":
        return _nearest(axis)
    x = _positions(axis, np.float64)
    if axis.coordinates == "tf_crop_and_resize":
        x = np.where(outside(axis), 0.0, x)
    if axis.antialias and axis.scale < 1.0:
        return _smoothed(axis, x)
    if axis.mode == "linear":
        return _linear(axis, x)
    return _cubic(axis, x)


def _nearest(axis: AxisResize) -> Array:
    # onnxruntime computes positions in float32, which decides on which side of a tie they fall.
    x = _positions(axis, np.float32)
    match axis.nearest:
        case "round_prefer_floor":
            place = np.ceil(x - np.float32(0.5))
        case "round_prefer_ceil":
            place = np.floor(x + np.float32(0.5))
        case "floor":
            place = np.floor(x)
        case _:
            place = np.ceil(x)
    matrix = np.zeros((axis.made, axis.size))
    matrix[np.arange(axis.made), np.clip(place, 0, axis.size - 1).astype(np.int64)] = 1.0
    return matrix


def _linear(axis: AxisResize, x: Array) -> Array:
    x = np.clip(x, 0, axis.size - 1)
    low = np.floor(x).astype(np.int64)
    share = x - low
    rows = np.arange(axis.made)
    matrix = np.zeros((axis.made, axis.size))
    np.add.at(matrix, (rows, low), 1.0 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, axis.size - 1)), share)
    return matrix


def _keys(distance: Array, a: float) -> Array:
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _cubic(axis: AxisResize, x: Array) -> Array:
    rows = np.arange(axis.made)
    matrix = np.zeros((axis.made, axis.size))
    base = np.floor(x).astype(np.int64)
    for offset in range(-1, 3):
        place = base + offset
        weight = _keys(x - place, axis.cubic)
        if axis.exclude_outside:
            weight = np.where((place < 0) | (place >= axis.size), 0.0, weight)
        np.add.at(matrix, (rows, np.clip(place, 0, axis.size - 1)), weight)
    return matrix / matrix.sum(axis=1, keepdims=True) if axis.exclude_outside else matrix


def _smoothed(axis: AxisResize, x: Array) -> Array:
    """Down-sampling with the kernel stretched by 1 / scale and its weights normalized.

    Weights outside the input go to the border sample, or are dropped before normalizing (exclude_outside).
    """
    support = (1.0 if axis.mode == "linear" else 2.0) / axis.scale
    reach = math.ceil(support) + 1
    rows = np.arange(axis.made)
    matrix = np.zeros((axis.made, axis.size))
    base = np.floor(x).astype(np.int64)
    for offset in range(-reach, reach + 1):
        place = base + offset
        distance = (x - place) * axis.scale
        weight = np.maximum(1.0 - np.abs(distance), 0.0) if axis.mode == "linear" else _keys(distance, axis.cubic)
        if axis.exclude_outside:
            weight = np.where((place < 0) | (place >= axis.size), 0.0, weight)
        np.add.at(matrix, (rows, np.clip(place, 0, axis.size - 1)), weight)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))
