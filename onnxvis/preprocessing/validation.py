"""Checks of the fields of a preprocessing; every message names the field."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from onnxvis.errors import PreprocessingError, did_you_mean

if TYPE_CHECKING:
    from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["WORDS", "check", "numbers", "size_pair"]

WORDS: dict[str, tuple[str, ...]] = {
    "resize": ("stretch", "shortest", "longest", "none"),
    "crop_rounding": ("even", "floor"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
    "pad_position": ("center", "top-left"),
    "channel_order": ("rgb", "bgr", "gray"),
    "layout": ("NCHW", "NHWC"),
}
"""Field -> the words it may hold."""

_LARGEST_SIDE = 65_536


def _whole(value: Any) -> int | None:
    """A side length, or None when ``value`` is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and 1 <= value <= _LARGEST_SIDE else None


def size_pair(name: str, value: Any) -> int | tuple[int, int] | None:
    """A size field as an int, a (height, width) tuple or None.

    Raises:
        PreprocessingError: it is none of these, or a side is not in 1..65536.
    """
    if value is None:
        return None
    if isinstance(value, list | tuple) and len(value) == 2:
        height, width = (_whole(v) for v in value)
        if height is not None and width is not None:
            return height, width
    one = _whole(value)
    if one is None:
        raise PreprocessingError(
            f"{name} = {value!r} is not a size: give one number of pixels, or (height, width), "
            f"from 1 to {_LARGEST_SIDE}."
        )
    return one


def numbers(name: str, value: Any) -> tuple[float, ...]:
    """A per-channel field as a tuple of finite floats.

    Raises:
        PreprocessingError: it is empty or holds anything else.
    """
    items = value if isinstance(value, list | tuple) else (value,)
    good = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in items)
    if not items or not good:
        raise PreprocessingError(f"{name} = {value!r} must be one finite number, or one for each channel.")
    return tuple(float(v) for v in items)


def check(spec: Preprocessing) -> None:
    """Words, ranges and combinations.

    Raises:
        PreprocessingError: naming the field and what it may hold.
    """
    for name, words in WORDS.items():
        value = getattr(spec, name)
        if value not in words and not (name == "layout" and value is None):
            raise PreprocessingError(
                f"{name} = {value!r} is not one of {', '.join(words)}.{did_you_mean(str(value), words)}"
            )
    if not isinstance(spec.crop, bool):
        raise PreprocessingError(f"crop = {spec.crop!r} must be true or false; its size goes into crop_size.")
    for name in ("scale", "pad_value"):
        numbers(name, (getattr(spec, name),))
    if spec.scale == 0:
        raise PreprocessingError("scale = 0 would erase the picture: use 1 for pixels as they are.")
    if 0.0 in spec.std:
        raise PreprocessingError(f"std = {list(spec.std)} would divide by zero: use 1 for no division.")
    if len(spec.mean) > 1 and len(spec.std) > 1 and len(spec.mean) != len(spec.std):
        raise PreprocessingError(
            f"mean has {len(spec.mean)} values but std has {len(spec.std)}: give one for each channel."
        )
    _check_sizes(spec)


def _check_sizes(spec: Preprocessing) -> None:
    fraction = spec.crop_fraction
    if fraction is not None and not (
        isinstance(fraction, int | float) and not isinstance(fraction, bool) and 0 < fraction <= 1
    ):
        raise PreprocessingError(f"crop_fraction = {fraction!r} must lie above 0 and up to 1, such as 0.875.")
    if not spec.crop and (spec.crop_size is not None or fraction is not None):
        name = "crop_size" if spec.crop_size is not None else "crop_fraction"
        raise PreprocessingError(f"{name} needs crop = true.")
    if spec.crop and spec.resize == "longest":
        raise PreprocessingError('crop = true does not go with resize = "longest", which pads and never crops.')
    if fraction is not None and (spec.resize_to is not None or spec.resize == "none"):
        raise PreprocessingError("crop_fraction derives the resize: leave resize_to out and do not use none.")
    if spec.resize == "none" and spec.resize_to is not None:
        raise PreprocessingError('resize_to has no meaning with resize = "none".')
    if spec.resize == "shortest" and isinstance(spec.resize_to, tuple):
        raise PreprocessingError('resize_to must be one number with resize = "shortest" (that side\'s length).')
