"""What stands where the picture is covered: the baseline of perturbation methods, checked before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.errors import UsageError

__all__ = ["fill_of", "fill_words"]


def fill_of(method: str, value: Any, image: np.ndarray) -> np.ndarray:
    """The baseline of one image, in float64, broadcastable to it.

    Args:
        method: for messages.
        value: a number in units of the model's input, "mean" (of each channel), or an array that broadcasts to
            the image.
        image: ``(C, H, W)`` in the type of the model's input; a baseline for whole numbers is rounded.

    Raises:
        UsageError: none of those, not finite, or outside of what the input's type can hold.
    """
    if isinstance(value, str):
        value = _word(method, value, image)
    try:
        fill = np.asarray(value, dtype=np.float64)
        np.broadcast_to(fill, image.shape)
    except (TypeError, ValueError):
        raise UsageError(
            f"the {method} baseline is a number, 'mean' or an array that fits {image.shape} (C, H, W), not {value!r}."
        ) from None
    if not np.isfinite(fill).all():
        raise UsageError(f"the {method} baseline holds NaN or infinity.")
    if image.dtype.kind == "f":
        return fill
    fill, limits = np.rint(fill), np.iinfo(image.dtype)
    if fill.min() < limits.min or fill.max() > limits.max:
        raise UsageError(
            f"the {method} baseline lies outside what the model's input can hold ({image.dtype}: {limits.min} to "
            f"{limits.max})."
        )
    return np.asarray(fill)


def _word(method: str, text: str, image: np.ndarray) -> Any:
    if text.strip().lower() == "mean":
        return image.astype(np.float64).mean(axis=(1, 2), keepdims=True)
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"the {method} baseline is a number, 'mean' or an array, not {text!r}.") from None


def fill_words(value: Any) -> str:
    """A baseline as it is written in records."""
    if isinstance(value, str):
        return value.strip()
    return "an array" if np.ndim(value) else f"{float(value):g}"
