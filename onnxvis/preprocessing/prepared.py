"""From a picture, or a ready array, to the tensor a model takes, with the geometry of the way."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onnxvis.errors import PictureError, PreprocessingError
from onnxvis.picture import Picture, Pixels, array_sha256
from onnxvis.preprocessing.channels import fit_before_resize, fit_channels, normalize, to_dtype
from onnxvis.preprocessing.geometry import Geometry
from onnxvis.preprocessing.plan import Placement, place
from onnxvis.preprocessing.resample import made_whole, resize_pixels
from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["Prepared", "input_layout", "prepare"]

Shape = Sequence[int | str | None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model input with everything needed to go back to the picture.

    Attributes:
        tensor: ``(1, C, H, W)`` or ``(1, H, W, C)`` in the model's type, C-contiguous.
        geometry: original picture <-> input grid.
        picture: the picture it was made from, or one derived from a ready array.
        notes: everything that was done or decided, one sentence each.
        layout: "NCHW" or "NHWC", the order of ``tensor``.
        preprocessing: what was applied; None for a ready array.
    """

    tensor: NDArray[Any]
    geometry: Geometry
    picture: Picture | None
    notes: tuple[str, ...]
    layout: str
    preprocessing: Preprocessing | None

    @classmethod
    def from_array(
        cls,
        array: NDArray[Any],
        input_shape: Shape,
        dtype: DTypeLike | None = None,
        layout: str | None = None,
    ) -> Prepared:
        """Use an array that is already the model's input, values untouched.

        The geometry is the identity, and the picture for drawing is the array itself, its smallest value
        black and its largest white.

        Args:
            array: numbers in the model's input shape, with or without the leading batch axis of 1.
            input_shape: the model's declared input shape; strings and None are dynamic.
            dtype: the model's input type; None keeps the array's own.
            layout: "NCHW" or "NHWC"; None reads it off the shapes.

        Raises:
            PictureError: NaN or infinite values, or a shape that does not fit.
            PreprocessingError: the model's input is not of rank 4, or its layout cannot be told.
        """
        declared = _declared(input_shape)
        values = np.asarray(array)
        if values.dtype.kind not in "fiuV" or (values.dtype.kind == "V" and values.dtype.names is not None):
            raise PictureError(f"an array of {values.dtype} is not a model input: use a number type.")
        values = values[np.newaxis] if values.ndim == 3 else values
        fits = values.ndim == 4 and values.shape[0] == 1 and values.size > 0
        if not fits or any(d not in (None, n) for d, n in zip(declared[1:], values.shape[1:], strict=True)):
            raise PictureError(
                f"an array of shape {np.shape(array)} does not fit the model's input {_shown(input_shape)}: a float "
                "array is one whole input, with or without a leading axis of 1 (several: a list of them); a picture "
                "of any size is an array (H, W, C) of uint8."
            )
        if not np.isfinite(values if values.dtype.kind in "fiu" else values.astype(np.float64)).all():
            raise PictureError("the array holds NaN or infinite values: replace them first.")
        notes = ["the array is used as it is: no preprocessing"]
        order = layout or input_layout(values.shape, (), notes)
        tensor = np.array(values, dtype=values.dtype if dtype is None else dtype, order="C")
        # Hashing and coloring take longer than a small network; a batch of arrays may never be drawn.
        picture = _ArrayPicture(tensor, order) if tensor.dtype == values.dtype else _picture_of(values, order)
        height, width = tensor.shape[2:] if order == "NCHW" else tensor.shape[1:3]
        return cls(tensor, Geometry.identity((width, height)), picture, (*notes, *picture.notes), order, None)

    def display(self) -> NDArray[np.uint8]:
        """``(H, W, 3) uint8``: what the model sees, in viewable colors, on its own input grid."""
        if self.preprocessing is not None:
            return self.preprocessing.display(self.tensor, self.layout)
        return _picture_of(self.tensor, self.layout).rgb()


def prepare(spec: Preprocessing, picture: Picture, input_shape: Shape, dtype: DTypeLike) -> Prepared:
    """Turn a picture into the model's input tensor.

    Args:
        spec: the preprocessing to apply.
        picture: the picture.
        input_shape: the model's declared input shape of rank 4; strings and None are dynamic. The batch axis
            is ignored: the tensor holds one picture.
        dtype: the model's input type.

    Returns:
        The tensor, its geometry and notes.

    Raises:
        PictureError: the picture's channels or size do not fit the model.
        PreprocessingError: the preprocessing contradicts the model's input.
    """
    declared = _declared(input_shape)
    notes: list[str] = []
    pixels = picture.pixels
    likely = {picture.channels, len(spec.mean), len(spec.std)}
    layout = spec.layout or input_layout(declared, likely, notes)
    channels, height, width = declared[1:] if layout == "NCHW" else (declared[3], *declared[1:3])
    pixels = fit_before_resize(spec, pixels, channels, notes)
    rows, columns = pixels.shape[:2]
    placement = place(spec, (rows, columns), (height, width))
    notes += placement.notes
    values = fit_channels(spec, _on_canvas(spec, pixels, placement, notes), channels, notes)
    if layout == "NCHW":
        # In the tensor's order from here on: arithmetic on one channel after the other is several times as fast.
        values = np.array(values.transpose(2, 0, 1), np.float32, order="C").transpose(1, 2, 0)
    else:
        values = np.array(values, np.float32, order="C")
    values = to_dtype(spec, normalize(spec, values), np.dtype(dtype))
    tensor = np.ascontiguousarray((values.transpose(2, 0, 1) if layout == "NCHW" else values)[np.newaxis])
    return Prepared(tensor, placement.geometry, picture, (*picture.notes, *notes), layout, spec)


def _on_canvas(spec: Preprocessing, pixels: Pixels, placement: Placement, notes: list[str]) -> Pixels:
    """``(H, W, C)`` on the 0..255 scale: resized, cropped and padded."""
    if not made_whole(placement.resized):
        notes.append(f"only the visible part of the {placement.resized[1]} pixels wide resized picture was made")
    window = placement.window
    small = resize_pixels(pixels, placement.resized, window, spec.interpolation)
    if small.shape[:2] == placement.target:
        return small
    canvas = np.full((*placement.target, pixels.shape[2]), spec.pad_value, np.float32)
    top, left = (max(0, c) for c in placement.corner)
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def _shown(shape: Shape) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _declared(shape: Shape) -> tuple[int | None, ...]:
    """The declared shape with None for whatever is not a positive number."""
    if len(shape) != 4:
        raise PreprocessingError(
            f"the model's input {_shown(shape)} has rank {len(shape)}; a picture needs 4 axes "
            "(batch, channels, height, width): choose the input that takes the picture."
        )
    return tuple(int(d) if isinstance(d, int | np.integer) and d > 0 else None for d in shape)


def input_layout(declared: Sequence[int | None], likely: Iterable[int], notes: list[str]) -> str:
    """Which axis of the input holds the channels: 1 (NCHW) or 3 (NHWC).

    The first of these that tells them apart: the axis declared as 1 or 3; as one of ``likely`` or 4; the only
    declared one while the picture's axes are dynamic; the shorter one. The decision is added to ``notes``
    unless it rests on a 1 or 3 at axis 1.

    Args:
        declared: the model's input shape, None where dynamic.
        likely: channel counts that the picture or the preprocessing suggest.
        notes: receives the decision.

    Raises:
        PreprocessingError: nothing tells them apart.
    """
    _, first, second, last = declared
    for expected in ((1, 3), (4, *likely)):
        hits = [length in expected for length in (first, last)]
        if hits == [True, True]:
            notes.append(f"layout NCHW taken: axis 1 and axis 3 of {_shown(declared)} could both be channels")
            return "NCHW"
        if hits[0] and expected == (1, 3):
            return "NCHW"
        if any(hits):
            return _said("NCHW" if hits[0] else "NHWC", declared, notes)
    if first is not None and last is not None and first != last:
        return _said("NCHW" if first < last else "NHWC", declared, notes)
    if second is None and (first is None) != (last is None):
        return _said("NCHW" if last is None else "NHWC", declared, notes)
    raise PreprocessingError(
        f"the channel axis of the model's input {_shown(declared)} cannot be told: "
        'set layout to "NCHW" or "NHWC" in the preprocessing.'
    )


def _said(layout: str, declared: Sequence[int | None], notes: list[str]) -> str:
    notes.append(f"layout {layout}, read off the model's input {_shown(declared)}")
    return layout


def _picture_of(values: NDArray[Any], layout: str) -> Picture:
    """A picture for drawing from a ready tensor ``(1, ...)``: min-max over the whole array."""
    return Picture(_pixels_of(values, layout), "<array>", None, array_sha256(values), (_scale_note(values),))


class _ArrayPicture(Picture):
    """The same, its pixels and its hash made when they are first asked for."""

    def __init__(self, values: NDArray[Any], layout: str) -> None:
        for name, value in (("name", "<array>"), ("path", None), ("notes", (_scale_note(values),))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_made_of", (values, layout))

    @functools.cached_property
    def pixels(self) -> Pixels:
        values, layout = self.__dict__["_made_of"]
        return _pixels_of(values, layout)

    @functools.cached_property
    def sha256(self) -> str:
        return array_sha256(self.__dict__["_made_of"][0])


def _pixels_of(values: NDArray[Any], layout: str) -> NDArray[np.float32]:
    samples = values[0].astype(np.float32)
    samples = samples.transpose(1, 2, 0) if layout == "NCHW" else samples
    low, high = float(samples.min()), float(samples.max())
    span = high - low
    pixels = np.full_like(samples, 127.5) if span == 0 else (samples - low) * np.float32(255 / span)
    pixels = np.ascontiguousarray(pixels)
    pixels.setflags(write=False)
    return pixels


def _scale_note(values: NDArray[Any]) -> str:
    low, high = (float(np.float32(end)) for end in (values.min(), values.max()))
    return f"drawn with its smallest value {low:.6g} as black and its largest {high:.6g} as white"
