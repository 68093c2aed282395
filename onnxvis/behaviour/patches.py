"""The patches that excite a unit most over a data set, cut by what the unit really sees.

Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for Simplicity" (2014), figure 3, and Zeiler & Fergus,
"Visualizing and Understanding Convolutional Networks" (2014), figure 2: for every unit the k strongest places of a
data set, each as the patch that the place can see. The patch is cut from the picture as the model was shown it
(resized and cropped, before the arithmetic), by the exact receptive field with its padding: a place at the border sees
beyond the picture, and that part is kept, marked as outside, so that all patches of a unit have one size and the
unit's center stands at one place in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.stored import Pictures, Places
from onnxvis.errors import UsageError
from onnxvis.graph.receptive import TensorField
from onnxvis.kernels.patches import cut_patches

__all__ = ["Patch", "UnitPatches", "choose_units", "cut_unit", "seen_box"]

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Patch:
    """One of the strongest places of a unit.

    Attributes:
        picture: number of the picture in the store; ``name`` is its file name.
        name: file name of the picture.
        value: the unit's activation there, as the deployed graph computed it.
        row: row of the place in the layer's map.
        col: column of the place in the layer's map.
        box: ``(x0, y0, x1, y1)``, half-open: the receptive field with its padding, in pixels of the model's input.
            It may leave the input.
        shown: the part of ``box`` that ``pixels`` shows, in the same pixels; equal to it unless a part was trimmed
            that lies outside the picture in every patch of the unit.
        picture_box: what of the original picture the place sees, edges ``(x0, y0, x1, y1)`` in its pixels.
        pixels: ``(h, w, 3) uint8``, the part ``shown``.
        inside: ``(h, w) bool``, true where ``pixels`` shows the picture: not padding of any kind.
        label: what the data set calls the picture, if it says.
    """

    picture: int
    name: str
    value: float
    row: int
    col: int
    box: Box
    shown: Box
    picture_box: tuple[float, float, float, float]
    pixels: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    label: str | None = None

    @property
    def center(self) -> tuple[float, float]:
        """The center of the receptive field, ``(x, y)`` edges in ``pixels``."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2 - self.shown[0], (y0 + y1) / 2 - self.shown[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without pixels."""
        return {
            "picture": self.picture,
            "name": self.name,
            "label": self.label,
            "value": self.value,
            "row": self.row,
            "col": self.col,
            "input_box": list(self.box),
            "shown_box": list(self.shown),
            "picture_box": [round(edge, 3) for edge in self.picture_box],
        }


@dataclass(frozen=True, eq=False)
class UnitPatches:
    """A unit with its strongest patches, the strongest first."""

    layer: str
    unit: int
    patches: tuple[Patch, ...]


def choose_units(text: str, places: Places) -> list[int]:
    """The units that a person asks for: ``"0,5,12-15"``, ``"top 20"`` or ``"all"``.

    ``top N`` are the N units with the largest mean over their strongest places, the largest first.

    Raises:
        UsageError: it is none of these, or the layer has no such unit.
    """
    count = len(places.values)
    asked = text.strip().lower()
    if asked == "all":
        return list(range(count))
    words = asked.split()
    if words and words[0] == "top":
        if len(words) != 2 or not words[1].isdecimal() or int(words[1]) < 1:
            raise UsageError(f"units are asked for as 'top 20', '0,5,12-15' or 'all', not {text!r}.")
        known = places.picture >= 0
        sums = np.where(known, places.values.astype(np.float64), 0.0).sum(axis=1)
        means = np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1), -np.inf)
        return [int(u) for u in np.argsort(-means, kind="stable")[: int(words[1])]]
    units: list[int] = []
    for part in asked.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.strip().isdecimal()):
            raise UsageError(f"units are asked for as 'top 20', '0,5,12-15' or 'all', not {text!r}.")
        begin, end = int(first), int(last if dash else first)
        if not begin <= end < count:
            raise UsageError(f"there is no unit {part.strip()!r}: the layer has {count}, 0 to {count - 1}.")
        units += range(begin, end + 1)
    return list(dict.fromkeys(units))


def seen_box(field: TensorField | None, row: int, col: int, input_size: tuple[int, int]) -> Box:
    """The receptive field of a place with its padding: ``(x0, y0, x1, y1)`` in input pixels, half-open.

    Args:
        field: of the layer; None, or one without positions, sees the whole input.
        row: of the place.
        col: of the place.
        input_size: ``(height, width)`` of the input.

    Raises:
        UsageError: the layer has no such place at the model's usual input size.
    """
    if field is None or field.rows is None or field.cols is None:
        return 0, 0, input_size[1], input_size[0]
    rows, cols = len(field.rows.support), len(field.cols.support)
    if row >= rows or col >= cols:
        raise UsageError(
            f"the store has a place at row {row}, column {col}, and the layer has {rows} x {cols} places at the usual "
            f"size; a picture went in at {input_size[0]} x {input_size[1]} pixels. Index with one size (--size)."
        )
    return field.box(row, col, clip=False)


def cut_unit(
    layer: str, unit: int, places: Places, field: TensorField | None, pictures: Pictures, count: int = 9
) -> UnitPatches:
    """The strongest patches of one unit.

    Args:
        layer: its name.
        unit: the unit.
        places: of the layer, from the store.
        field: receptive field of the layer.
        pictures: opens the pictures.
        count: how many at most; fewer where the unit was seen at fewer places.

    Raises:
        PictureError: a picture is gone or has changed since.
        UsageError: ``count`` is below 1.
    """
    if count < 1:
        raise UsageError(f"the number of patches must be at least 1, not {count}.")
    known = [k for k in range(min(count, places.values.shape[1])) if places.picture[unit, k] >= 0]
    found = [
        _Place(int(places.picture[unit, k]), float(places.values[unit, k]), int(places.row[unit, k]),
               int(places.col[unit, k]))
        for k in known
    ]  # fmt: skip
    boxes, reach = [], None
    for place in found:
        geometry = pictures.prepared(place.picture).geometry
        width, height = geometry.input_size
        box = seen_box(field, place.row, place.col, (height, width))
        boxes.append(box)
        reach = _joined(reach, _overlap(box, geometry.content_box))
    patches = tuple(_cut(pictures, place, box, _part(box, reach)) for place, box in zip(found, boxes, strict=True))
    return UnitPatches(layer, unit, patches)


@dataclass(frozen=True)
class _Place:
    picture: int
    value: float
    row: int
    col: int


def _overlap(box: Box, content: Box) -> Box | None:
    """What of the box lies in the content, from the box's own corner."""
    x0, y0 = max(box[0], content[0]), max(box[1], content[1])
    x1, y1 = min(box[2], content[2]), min(box[3], content[3])
    return (x0 - box[0], y0 - box[1], x1 - box[0], y1 - box[1]) if x0 < x1 and y0 < y1 else None


def _joined(a: Box | None, b: Box | None) -> Box | None:
    if a is None or b is None:
        return a or b
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _part(box: Box, reach: Box | None) -> Box:
    """The box without what lies outside the picture in every patch of the unit."""
    if reach is None:
        return box[0], box[1], box[0] + 1, box[1] + 1
    return box[0] + reach[0], box[1] + reach[1], box[0] + reach[2], box[1] + reach[3]


def _cut(pictures: Pictures, place: _Place, box: Box, shown: Box) -> Patch:
    prepared = pictures.prepared(place.picture)
    left, top, right, bottom = prepared.geometry.content_box
    content = prepared.display()[top:bottom, left:right]
    x0, y0, x1, y1 = shown
    pixels, inside = cut_patches(content, np.array([[y0 - top, y1 - top, x0 - left, x1 - left]]))
    seen = (max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom))
    return Patch(
        picture=place.picture,
        name=pictures.name(place.picture),
        value=place.value,
        row=place.row,
        col=place.col,
        box=box,
        shown=shown,
        picture_box=prepared.geometry.box_to_picture(seen, clip=True),
        pixels=pixels[0].astype(np.uint8),
        inside=inside[0],
        label=pictures.row(place.picture).label,
    )
