"""Layer activation masks: where in a picture a unit is among its strongest over the data set.

Bau, Zhou, Khosla, Oliva & Torralba, "Network Dissection", CVPR 2017, section 2.3. The threshold of unit k is the value
that its activation exceeds with probability 0.005 over all places of all pictures, P(a_k > T_k) = 0.005; the
activation map is enlarged to the picture by bilinear interpolation, "anchoring interpolants at the center of each
unit's receptive field", and cut at the threshold.

The center of a place's receptive field need not be where a plain resize would put the place: without padding, or with
padding at one side, maps enlarged without the anchors are shifted, by up to half a stride and more. Beyond the
outermost centers the outermost value holds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.errors import LayerError, UsageError
from onnxvis.graph.receptive import ReceptiveField, TensorField

__all__ = ["TOP", "Anchors", "border", "center_matrix", "masked_picture", "thresholds_note"]

TOP = 0.005
"""The part of a unit's activations that its mask keeps, as in the paper."""

_DARK = 0.34


def center_matrix(field: ReceptiveField, size: int) -> NDArray[np.float32]:
    """The linear interpolation of one axis of a map onto the pixels of the input, anchored at field centers.

    Unit ``u`` is anchored at pixel ``start + u * jump + (size - 1) / 2`` of the input.

    Args:
        field: of the axis.
        size: pixels of the input along it.

    Returns:
        ``(size, units) float32``, rows sum to 1. Where all units see the same (a single value, or one that was
        spread), every pixel reads them in equal shares of the axis.

    Raises:
        UsageError: ``size`` is below 1.
    """
    if size < 1:
        raise UsageError(f"an input axis has at least one pixel, not {size}.")
    units = len(field.support)
    matrix = np.zeros((size, units), np.float32)
    pixels = np.arange(size)
    if field.jump == 0:
        place = np.clip((pixels + 0.5) * units / size - 0.5, 0, units - 1)
    else:
        center = field.start + (field.size - 1) / 2
        place = np.clip((pixels - float(center)) / float(field.jump), 0, units - 1)
    low = np.floor(place).astype(np.int64)
    part = (place - low).astype(np.float32)
    matrix[pixels, low] = 1 - part
    matrix[pixels, np.minimum(low + 1, units - 1)] += part
    return matrix


class Anchors:
    """Enlarges the maps of one layer to the model's input.

    Args:
        field: receptive field of the layer.
        input_size: ``(height, width)`` of the model's input.
        layer: its name, for messages.

    Raises:
        LayerError: the layer's units have no position.
    """

    def __init__(self, field: TensorField | None, input_size: tuple[int, int], layer: str = "") -> None:
        if field is None or field.rows is None or field.cols is None:
            why = field.reason if field is not None else "it does not depend on the places of the picture"
            raise LayerError(f"the units of layer {layer!r} have no position, so they have no masks: {why}")
        self.input_size = input_size
        self._rows = center_matrix(field.rows, input_size[0])
        self._cols = center_matrix(field.cols, input_size[1])
        self.exact = field.exact

    @property
    def note(self) -> str:
        """How maps are enlarged, in one sentence."""
        hull = "" if self.exact else "; the fields of this layer are hulls, so their centers are approximate"
        return f"maps are enlarged bilinearly, each place anchored at the center of its receptive field{hull}"

    def enlarge(self, maps: ArrayLike) -> NDArray[np.float32]:
        """``(..., h, w)`` to ``(..., H, W) float32``, the size of the model's input.

        Raises:
            UsageError: the maps are not of the layer's size.
        """
        small = np.asarray(maps, dtype=np.float32)
        expected = (self._rows.shape[1], self._cols.shape[1])
        if small.shape[-2:] != expected:
            raise UsageError(f"maps of this layer are {expected[0]} x {expected[1]}; got {small.shape[-2:]}.")
        return np.asarray(self._rows @ small @ self._cols.T, dtype=np.float32)

    def masks(self, maps: ArrayLike, thresholds: ArrayLike) -> NDArray[np.bool_]:
        """Where the enlarged maps ``(..., U, h, w)`` are above the thresholds ``(U,)``: ``(..., U, H, W)`` bool."""
        limits = np.asarray(thresholds, dtype=np.float32)
        return np.asarray(self.enlarge(maps) > limits[:, None, None])


def masked_picture(picture: NDArray[np.uint8], mask: NDArray[np.bool_], dark: float = _DARK) -> NDArray[np.uint8]:
    """The picture where the mask is, the rest darkened, a light line along the border.

    Args:
        picture: ``(H, W, 3) uint8``.
        mask: ``(H, W)``.
        dark: what is left of the light outside the mask.

    Raises:
        UsageError: the shapes do not fit.
    """
    if picture.shape != (*mask.shape, 3):
        raise UsageError(f"a mask of {mask.shape} does not fit a picture of {picture.shape}.")
    drawn = np.where(mask[..., None], picture, np.rint(picture * dark).astype(np.uint8))
    drawn[border(mask)] = (255, 214, 64)
    return np.asarray(drawn, dtype=np.uint8)


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``(H, W) bool``: pixels outside the mask that touch it."""
    near = np.zeros_like(mask)
    near[1:] |= mask[:-1]
    near[:-1] |= mask[1:]
    near[:, 1:] |= mask[:, :-1]
    near[:, :-1] |= mask[:, 1:]
    return near & ~mask


def thresholds_note(top: float) -> str:
    """What the thresholds are, in one sentence."""
    return f"a unit's mask is where it is above the value that {100 * top:g} % of its activations exceed over the store"
