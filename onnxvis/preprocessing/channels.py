"""Channels and arithmetic: which channels the tensor gets, their scaling, and the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import PictureError, PreprocessingError
from onnxvis.picture import Pixels
from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["display", "fit_before_resize", "fit_channels", "luma", "normalize", "per_channel", "to_dtype"]


def luma(pixels: Pixels) -> Pixels:
    """``(H, W, 3)`` to ``(H, W, 1)`` by ITU-R BT.601; 8-bit pictures in the fixed point of Pillow's "L"."""
    if pixels.dtype == np.uint8:
        red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
        gray = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
        return gray.astype(np.uint8)[..., np.newaxis]
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return (pixels @ weights).astype(np.float32)[..., np.newaxis]


def fit_before_resize(spec: Preprocessing, pixels: Pixels, needed: int | None, notes: list[str]) -> Pixels:
    """Reduce to gray where the model wants gray, before the resize as every training pipeline does.

    Args:
        spec: the preprocessing.
        pixels: ``(H, W, C)``.
        needed: the model's channel count; None when it is dynamic.
        notes: receives what was done.

    Raises:
        PictureError: the picture's channels do not fit the model.
        PreprocessingError: the channel order does not fit the model.
    """
    have = pixels.shape[2]
    wants_gray = spec.channel_order == "gray" or needed == 1
    if wants_gray and have == 3:
        notes.append("color converted to gray (ITU-R 601 luma)")
        return luma(pixels)
    allowed = {1, 3} if needed == 3 else {needed} if needed is not None else {have}
    if wants_gray:
        allowed = {1, 3}
    if have not in allowed:
        height, width = pixels.shape[:2]
        hint = ""
        if needed is not None and height == needed:
            hint = f" Its first axis has {height}: if that is channels, transpose it to (H, W, channels)."
        elif have == 4:
            hint = " If one is transparency, pass the file or a Pillow image: those go onto white."
        raise PictureError(
            f"the picture has {have} channels ({height} x {width} pixels) and the model takes "
            f"{1 if needed is None else needed}: give a picture with that many channels.{hint}"
        )
    if spec.channel_order == "bgr" and max(have, needed or 0) > 3:
        raise PreprocessingError(
            f'channel_order = "bgr" means three channels, but the model takes {needed or have}: use "rgb".'
        )
    if spec.channel_order == "gray" and needed not in (1, 3, None):
        raise PreprocessingError(f'channel_order = "gray" does not fit a model of {needed} channels: use "rgb".')
    return pixels


def fit_channels(spec: Preprocessing, values: NDArray[Any], needed: int | None, notes: list[str]) -> NDArray[Any]:
    """Replicate gray to the model's three channels, or bring three channels into the tensor's order."""
    if needed is None:
        needed = 1 if spec.channel_order == "gray" else max(3, values.shape[2])
    if values.shape[2] == 1 and needed == 3:
        notes.append("the gray channel is given to all 3 channels of the model")
        return np.repeat(values, 3, axis=2)
    return values[..., ::-1] if spec.channel_order == "bgr" and values.shape[2] == 3 else values


def per_channel(name: str, values: tuple[float, ...], channels: int) -> NDArray[np.float64]:
    """``(C,)``: a field's values, one for each channel of the tensor.

    Raises:
        PreprocessingError: the field has another number of values.
    """
    if len(values) not in (1, channels):
        raise PreprocessingError(
            f"{name} has {len(values)} values but the model's input has {channels} channel(s): "
            f"give one value, or {channels}."
        )
    return np.resize(np.asarray(values, np.float64), channels)


def normalize(spec: Preprocessing, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(values * scale - mean) / std`` in float32, in place on ``(H, W, C)``."""
    mean = per_channel("mean", spec.mean, values.shape[2])
    std = per_channel("std", spec.std, values.shape[2])
    # Most pipelines divide by 255, which differs in the last bit from multiplying by its reciprocal.
    divisor = round(1 / spec.scale, 9)
    if divisor.is_integer() and divisor != 1:
        values /= np.float32(divisor)
    elif spec.scale != 1:
        values *= np.float32(spec.scale)
    if mean.any():
        values -= mean.astype(np.float32)
    if (std != 1).any():
        values /= std.astype(np.float32)
    return values


def to_dtype(spec: Preprocessing, values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cast to the model's input type; integer types only where no level of the picture is lost.

    Raises:
        PreprocessingError: the type is no number type, or the normalized range does not fit an integer type.
    """
    if dtype.kind in "OSUMmcb":
        raise PreprocessingError(
            f"the model's input is {dtype}, which takes no picture: choose a model with a number input."
        )
    if dtype.kind not in "iu":
        return values.astype(dtype)
    channels = values.shape[2]
    mean, std = per_channel("mean", spec.mean, channels), per_channel("std", spec.std, channels)
    ends = np.stack([(0 - mean) / std, (255 * spec.scale - mean) / std])
    limits = np.iinfo(dtype)
    steps = np.abs(ends[1] - ends[0]) / 255
    if steps.min() < 1 - 1e-6 or ends.min() < limits.min - 0.5 or ends.max() > limits.max + 0.5:
        raise PreprocessingError(
            f"the model's input is {dtype}, but the preprocessing ({spec.source}) gives values from "
            f"{ends.min():.4g} to {ends.max():.4g}: such a model normalizes itself; use preset 'none', "
            "or scale and mean that land in its range."
        )
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def display(spec: Preprocessing, tensor: NDArray[Any], layout: str | None) -> NDArray[np.uint8]:
    """See :meth:`Preprocessing.display`."""
    values = np.asarray(tensor)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 3:
        raise PreprocessingError(
            f"a tensor of shape {np.shape(tensor)} is not one picture: give (1, C, H, W) or (1, H, W, C)."
        )
    if _layout_of(spec, values.shape, layout) == "NCHW":
        values = values.transpose(1, 2, 0)
    channels = values.shape[2]
    std, mean = per_channel("std", spec.std, channels), per_channel("mean", spec.mean, channels)
    plain = (values.astype(np.float64) * std + mean) / spec.scale
    if channels < 3:
        plain = np.repeat(plain[..., :1], 3, axis=2)
    elif spec.channel_order == "bgr" and channels == 3:
        plain = plain[..., ::-1]
    plain = np.nan_to_num(plain[..., :3], nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(plain), 0, 255).astype(np.uint8)


def _layout_of(spec: Preprocessing, shape: tuple[int, ...], layout: str | None) -> str:
    known = layout or spec.layout
    if known is not None:
        return known
    first, last = (n in (1, 3) or n == max(len(spec.mean), len(spec.std)) > 1 for n in (shape[0], shape[2]))
    if first == last:
        raise PreprocessingError(
            f"the layout of a tensor of shape {shape} cannot be told: say layout='NCHW' or layout='NHWC'."
        )
    return "NCHW" if first else "NHWC"
