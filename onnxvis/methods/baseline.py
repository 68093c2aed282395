"""Baselines: the picture that stands for "nothing there", in the model's own input values."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.preprocessing import Prepared

__all__ = ["BLUR_PART", "baseline_color", "baseline_name", "make_baseline"]

BLUR_PART = 20
"""The blur's standard deviation is this part of the picture's shorter side: 11 pixels at 224."""


def make_baseline(value: Any, image: np.ndarray, method: str) -> np.ndarray:
    """A baseline for one image.

    Args:
        value: a number, or its text: every input value; "mean": the mean of each channel of this image;
            "blur": this image, blurred (Fong & Vedaldi, ICCV 2017; Sturmfels et al., Distill 2020); or an
            array ``(C, H, W)`` or broadcastable to it.
        image: ``(C, H, W)`` in the model's input values.
        method: for messages.

    Returns:
        ``(C, H, W)`` float64, read-only.

    Raises:
        UsageError: no such baseline, or an array that does not fit or is not finite.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        if word == "mean":
            return np.broadcast_to(image.astype(np.float64).mean(axis=(1, 2), keepdims=True), image.shape)
        if word == "blur":
            return _blurred(image.astype(np.float64))
    try:
        array = np.asarray(float(value) if isinstance(value, str) else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{method} baseline is a number, 'mean', 'blur' or an array, not {value!r}.") from None
    try:
        shaped = np.broadcast_to(array, image.shape)
    except ValueError:
        raise UsageError(
            f"{method}: a baseline of shape {array.shape} does not fit an image of shape {image.shape} (C, H, W)."
        ) from None
    if not np.isfinite(shaped).all():
        raise UsageError(f"{method}: the baseline holds NaN or infinity.")
    return shaped


def _blurred(image: np.ndarray) -> np.ndarray:
    """Gaussian blur of ``(C, H, W)``; beyond the border the edge goes on."""
    height, width = image.shape[1:]
    sigma = min(height, width) / BLUR_PART
    return np.asarray(_gaussian(height, sigma) @ image @ _gaussian(width, sigma).T)


def _gaussian(size: int, sigma: float) -> np.ndarray:
    """The blur along one axis as a matrix ``(size, size)`` whose rows sum to 1."""
    reach = int(np.ceil(4 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((size, size))
    places = np.clip(np.arange(size)[:, None] + offsets, 0, size - 1)
    np.add.at(matrix, (np.arange(size)[:, None], places), weights / weights.sum())
    return matrix


def baseline_name(value: Any, image: np.ndarray) -> str:
    """How a result names a baseline."""
    if isinstance(value, str) and value.strip().lower() == "blur":
        return f"the picture blurred by {min(image.shape[1:]) / BLUR_PART:.1f} pixels"
    if isinstance(value, str) and value.strip().lower() == "mean":
        return "the mean of each channel of the picture"
    return "an array" if np.ndim(value) else f"{float(value):g}"


def baseline_color(prepared: Prepared, value: Any) -> list[str]:
    """What a single input value looks like in the picture, where the preprocessing is known."""
    spec = prepared.preprocessing
    try:
        number = float(value)
    except (TypeError, ValueError):
        return []
    if spec is None:
        return []
    axis = 1 if prepared.layout == "NCHW" else 3
    shape = [1, 1, 1, 1]
    shape[axis] = prepared.tensor.shape[axis]
    red, green, blue = (int(v) for v in spec.display(np.full(shape, number), prepared.layout)[0, 0])
    return [f"the input value {number:g} is the color RGB {red}, {green}, {blue} in the picture"]
