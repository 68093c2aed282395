"""The space of pictures 0..1 that a model can be shown, and the differentiable way from there into its input.

Class visualization climbs in pictures, not in input tensors: a picture has a valid range, can be rounded to 8 bits,
saved and given to the model again like any photo. Between the two stand the preprocessing's crop, its channels and
its arithmetic ``x = (255 scale p - mean) / std``, all of them linear or affine; what the preprocessing resizes is
avoided by making the picture of the size that it resizes to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import PictureError, PreprocessingError
from onnxvis.preprocessing.channels import normalize, per_channel

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared, Preprocessing

__all__ = ["PictureSpace", "picture_space"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PictureSpace:
    """Pictures ``(N, C, H, W)`` in 0..1 and how they enter the model.

    Attributes:
        preprocessing: of the model.
        layout: "NCHW" or "NHWC", of the model's input.
        size: (height, width) of a picture; one of this size is not resized on its way into the model.
        window: (top, left, bottom, right): the part that the model sees; it can be all.
        channels: of a picture: 1 where the model sees gray, else the model's own number.
        input_channels: of the model's input.
        start: (C,) the picture value that the preprocessing brings to 0, or the middle where that is no color.
        notes: what had to be decided.
    """

    preprocessing: Preprocessing
    layout: str
    size: tuple[int, int]
    window: tuple[int, int, int, int]
    channels: int
    input_channels: int
    start: Array
    notes: tuple[str, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        top, left, bottom, right = self.window
        return bottom - top, right - left

    def to_input(self, seen: Array) -> Array:
        """Pictures as the model sees them, ``(N, C, h, w)`` 0..1 in the input grid, to its input in float32."""
        values = np.moveaxis(seen * np.float32(255), 1, -1)
        if self.channels == 1 and self.input_channels > 1:
            values = np.repeat(values, self.input_channels, axis=-1)
        elif self._reversed:
            values = values[..., ::-1]
        x = np.stack([normalize(self.preprocessing, np.array(v, np.float32)) for v in values])
        return np.ascontiguousarray(x if self.layout == "NHWC" else np.moveaxis(x, -1, 1))

    def from_gradient(self, gradient: Array) -> Array:
        """D score / d input to d score / d seen picture, ``(N, C, h, w)``: the adjoint of :meth:`to_input`."""
        std = per_channel("std", self.preprocessing.std, self.input_channels)
        gains = (255.0 * self.preprocessing.scale / std).astype(np.float32)
        last = gradient if self.layout == "NHWC" else np.moveaxis(gradient, 1, -1)
        found = last * gains
        if self.channels == 1 and self.input_channels > 1:
            found = found.sum(axis=-1, keepdims=True)
        elif self._reversed:
            found = found[..., ::-1]
        return np.ascontiguousarray(np.moveaxis(found, -1, 1))

    def pixels(self, picture: Array) -> NDArray[np.uint8]:
        """One picture ``(C, H, W)`` 0..1 rounded to 8 bits, ``(H, W, C)``."""
        return np.rint(np.clip(np.moveaxis(picture, 0, -1), 0, 1) * 255).astype(np.uint8)

    @property
    def _reversed(self) -> bool:
        return self.preprocessing.channel_order == "bgr" and self.input_channels == 3


def picture_space(model: Model) -> PictureSpace:
    """The pictures that a model can be shown.

    Raises:
        PreprocessingError: nobody said how pictures become the model's input.
        PictureError: no size of picture goes into the model without being resized.
    """
    spec = model.preprocessing
    shape = model.one_image_shape()
    if spec is None or len(shape) != 4:
        model.prepare(np.zeros((32, 32, 3), np.uint8))  # says what is missing
        raise PreprocessingError(f"class visualization needs an input of 4 axes, not {model.image_input}.")
    layout = model.layout
    input_channels, height, width = shape[1:] if layout == "NCHW" else (shape[3], *shape[1:3])
    channels = 1 if spec.channel_order == "gray" or input_channels == 1 else input_channels
    size, prepared = _unresized(model, spec, (height, width), channels)
    offset, (columns, rows) = prepared.geometry.offset, prepared.geometry.input_size
    top, left = round(-offset[1]), round(-offset[0])
    notes = []
    if size != (rows, columns):
        notes.append(
            f"pictures of {size[0]} x {size[1]} (height x width), of which the model sees the middle {rows} x {columns}"
        )
    return PictureSpace(
        spec,
        layout,
        size,
        (top, left, top + rows, left + columns),
        channels,
        input_channels,
        _start(spec, channels, input_channels),
        tuple(notes),
    )


def _unresized(
    model: Model, spec: Preprocessing, grid: tuple[int, int], channels: int
) -> tuple[tuple[int, int], Prepared]:
    """The first size of picture that the preprocessing leaves as it is."""
    for size in _sizes(spec, grid):
        gray = np.full((*size, channels), 128, np.uint8)
        prepared = model.prepare(gray)
        whole = prepared.geometry
        inside = all(offset <= 0 for offset in whole.offset) and all(
            length + offset >= side
            for length, offset, side in zip(whole.picture_size, whole.offset, whole.input_size, strict=True)
        )
        if whole.scale == (1.0, 1.0) and inside:
            return size, prepared
    raise PictureError(
        f"no picture goes into {model.name!r} without being resized or padded ({spec.summary()}), so none can be "
        "made pixel by pixel. Give a preprocessing whose sizes fit the model's input."
    )


def _sizes(spec: Preprocessing, grid: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Sizes worth trying: what is resized to, the input enlarged by the crop's fraction, the input."""
    if spec.resize_to is not None:
        aim = spec.resize_to
        if isinstance(aim, tuple):
            yield aim
        else:
            longer = math.ceil(aim * max(grid) / min(grid))
            yield (aim, longer) if grid[0] <= grid[1] else (longer, aim)
    if spec.crop_fraction is not None:
        yield tuple(math.floor(side / spec.crop_fraction + 1e-9) for side in grid)  # type: ignore[misc]
    yield grid


def _start(spec: Preprocessing, channels: int, input_channels: int) -> Array:
    """The color that becomes 0 in the input, which is usually the training set's mean."""
    mean = per_channel("mean", spec.mean, input_channels) / (255.0 * spec.scale)
    if channels == 1:
        mean = mean.mean(keepdims=True)
    elif spec.channel_order == "bgr" and input_channels == 3:
        mean = mean[::-1]
    start: Any = np.where((mean > 0.05) & (mean < 0.95), mean, 0.5)
    return np.asarray(start, np.float32)
