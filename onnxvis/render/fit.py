"""How large a picture is drawn: enlarged by whole factors, reduced where it is too large, and said so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from onnxvis.errors import PictureError
from onnxvis.render.overlay import fit_values

__all__ = ["Fit", "fit_picture", "plan_fit", "resize_values"]

_THINNEST = 24


@dataclass(frozen=True)
class Fit:
    """The drawn size of a picture.

    Attributes:
        height: drawn pixels.
        width: drawn pixels.
        factor: the whole number each pixel is enlarged by; 0 where the picture is not enlarged.
        note: what a reader must know about the size, or empty.
    """

    height: int
    width: int
    factor: int
    note: str


def plan_fit(height: int, width: int, most: tuple[int, int]) -> Fit:
    """How a picture fits a box of ``most`` (height, width) pixels.

    Small pictures are enlarged by a whole factor, so their pixels stay visible squares; large ones are
    reduced with their proportions. A picture so elongated that one side would vanish is drawn at least 24 px
    thick, which the note says.
    """
    if height < 1 or width < 1:
        raise PictureError(f"A picture of {width} x {height} pixels cannot be drawn.")
    ratio = min(most[0] / height, most[1] / width)
    if ratio >= 2:
        factor = int(ratio)
        note = f"picture of {width} x {height} px, enlarged {factor} times"
        return Fit(height * factor, width * factor, factor, note)
    if ratio >= 1:
        return Fit(height, width, 1, "")
    drawn = [max(1, round(height * ratio)), max(1, round(width * ratio))]
    note = f"picture of {width} x {height} px, drawn at {drawn[1]} x {drawn[0]}"
    thin = min(_THINNEST, height, width)
    if min(drawn) < thin:
        drawn = [max(drawn[0], thin), max(drawn[1], thin)]
        note = f"picture of {width} x {height} px, drawn at {drawn[1]} x {drawn[0]}, not in its proportions"
    return Fit(drawn[0], drawn[1], 0, note)


def fit_picture(picture: ArrayLike, fit: Fit) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (fit.height, fit.width, 3): squares when enlarged, smooth when reduced."""
    rgb = np.ascontiguousarray(np.asarray(picture))
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise PictureError(f"A picture must be (H, W, 3) uint8; got {rgb.shape} {rgb.dtype}.")
    if fit.factor:
        return rgb.repeat(fit.factor, axis=0).repeat(fit.factor, axis=1)
    small = Image.fromarray(rgb).resize((fit.width, fit.height), Image.Resampling.LANCZOS)
    return np.asarray(small)


def resize_values(values: ArrayLike, fit: Fit) -> NDArray[np.float32]:
    """A map in the pixels of the picture, brought to the drawn size as the picture is."""
    grid = np.asarray(values, dtype=np.float32)
    if fit.factor and grid.shape == (fit.height // fit.factor, fit.width // fit.factor):
        return grid.repeat(fit.factor, axis=0).repeat(fit.factor, axis=1)
    return fit_values(grid, (fit.height, fit.width))
