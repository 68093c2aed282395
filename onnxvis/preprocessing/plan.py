"""The size policy: how large the resized picture is, and where it lands in the model's input grid.

All sizes here are (height, width). Nothing here touches a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from onnxvis.errors import PictureError, PreprocessingError
from onnxvis.preprocessing.geometry import Geometry
from onnxvis.preprocessing.presets import PRESETS
from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["MAX_INPUT_PIXELS", "OWN_SIZE_CAP", "Placement", "place"]

OWN_SIZE_CAP = 1024
"""Longest side of an input whose size nothing but the picture decides."""

MAX_INPUT_PIXELS = 2**26
"""Largest input grid (height times width) that is made."""

# A preset's size is meant for models of any size; anyone else's is a statement about this model.
_PRESET_SOURCES = frozenset(spec.source for spec in PRESETS.values())

Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """The resized picture's size and where its top-left corner lands in the input grid.

    Attributes:
        picture: (height, width) of the original.
        resized: (height, width) after the resize.
        target: (height, width) of the input grid.
        corner: (top, left); negative where the resized picture is cropped, positive where it is padded.
        notes: what had to be decided on the way.
    """

    picture: Size
    resized: Size
    target: Size
    corner: Size
    notes: tuple[str, ...] = ()

    @property
    def window(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the resized picture that stays inside the input grid."""
        top, left = (max(0, -c) for c in self.corner)
        bottom, right = (min(self.resized[i], self.target[i] - self.corner[i]) for i in (0, 1))
        return top, left, bottom, right

    @property
    def geometry(self) -> Geometry:
        """The same as an affine relation, in (x, y) order."""
        (h0, w0), (h1, w1), (top, left) = self.picture, self.resized, self.corner
        return Geometry((w0, h0), (self.target[1], self.target[0]), (w1 / w0, h1 / h0), (float(left), float(top)))


def place(spec: Preprocessing, picture: Size, declared: tuple[int | None, int | None]) -> Placement:
    """Carry out the size policy.

    Args:
        spec: the preprocessing.
        picture: (height, width) of the picture.
        declared: (height, width) of the model's input; None where it is dynamic.

    Raises:
        PreprocessingError: the policy contradicts the model's input size.
        PictureError: the picture does not have the size that a policy without crop or padding needs.
    """
    notes: list[str] = []
    target = _target(spec, picture, declared, notes)
    if target[0] * target[1] > MAX_INPUT_PIXELS:
        raise PreprocessingError(
            f"the input would be {target[0]} x {target[1]} pixels, more than {MAX_INPUT_PIXELS:,}: "
            "give a size, or another resize than none."
        )
    resized = _resized(spec, picture, target)
    corner = _corner(spec, resized, target)
    if any(c > 0 or resized[i] + c < target[i] for i, c in enumerate(corner)) and spec.resize != "longest":
        notes.append(f"the picture does not fill the crop: the rest is {spec.pad_value:g}")
    return Placement(picture, resized, target, corner, tuple(notes))


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else size


def _text(size: tuple[int | None, int | None] | Size) -> str:
    return " x ".join("dynamic" if v is None else str(v) for v in size)


# --- the input grid ----------------------------------------------------------------------------


def _target(spec: Preprocessing, picture: Size, declared: tuple[int | None, int | None], notes: list[str]) -> Size:
    demanded = _demanded(spec)
    if demanded is not None:
        name, size = demanded
        if any(d is not None and d != size[i] for i, d in enumerate(declared)):
            raise PreprocessingError(
                f"{name} gives an input of {_text(size)} but the model takes {_text(declared)} "
                f"(height x width); the preprocessing comes from {spec.source}. "
                f"Leave {name} out to follow the model, or use the model's own preprocessing."
            )
        return size
    height, width = declared
    if height is not None and width is not None:
        stated = spec.size is not None and spec.source not in _PRESET_SOURCES
        if stated and spec.size is not None and _pair(spec.size) != (height, width):
            notes.append(f"size {_text(_pair(spec.size))} not used: the model's input is fixed at {_text(declared)}")
        return height, width
    return _dynamic(spec, picture, declared, notes)


def _demanded(spec: Preprocessing) -> tuple[str, Size] | None:
    """A size that the preprocessing states outright, with the field that states it."""
    if spec.crop_size is not None:
        return "crop_size", _pair(spec.crop_size)
    if spec.resize == "stretch" and not spec.crop and spec.resize_to is not None:
        return "resize_to", _pair(spec.resize_to)
    return None


def _dynamic(spec: Preprocessing, picture: Size, declared: tuple[int | None, int | None], notes: list[str]) -> Size:
    """An input size for a model that leaves at least one axis open."""
    if spec.size is not None:
        wanted = _pair(spec.size)
        height, width = (w if d is None else d for d, w in zip(declared, wanted, strict=True))
        notes.append(f"the model's input is {_text(declared)}: {height} x {width} from the preprocessing's size")
        return height, width
    if spec.resize_to is not None and (spec.resize == "longest" or spec.crop):
        box = _pair(spec.resize_to)
        height, width = (b if d is None else d for d, b in zip(declared, box, strict=True))
        notes.append(f"the model's input is {_text(declared)}: {height} x {width} from resize_to")
        return height, width
    if not spec.crop and (spec.resize == "none" or spec.resize_to is not None):
        own = picture if spec.resize == "none" else _shortest(picture, _side(spec))
        return tuple(o if d is None else d for d, o in zip(declared, own, strict=True))  # type: ignore[return-value]
    return _own_size(picture, declared, notes)


def _own_size(picture: Size, declared: tuple[int | None, int | None], notes: list[str]) -> Size:
    height, width = declared
    if height is not None or width is not None:
        factor = height / picture[0] if height is not None else (width or 1) / picture[1]
        capped = min(max(1, round(picture[0 if height is None else 1] * factor)), OWN_SIZE_CAP)
        size = (height, capped) if height is not None else (capped, width or 1)
        notes.append(f"the model's input is {_text(declared)}: {_text(size)} follows the picture's aspect ratio")
        return size
    factor = min(1.0, OWN_SIZE_CAP / max(picture))
    size = (max(1, round(picture[0] * factor)), max(1, round(picture[1] * factor)))
    cap = f", shrunk to {OWN_SIZE_CAP} at most" if factor < 1 else ""
    notes.append(f"the model's input size is dynamic and none was given: the picture's own {_text(size)}{cap}")
    return size


# --- the resize --------------------------------------------------------------------------------


def _side(spec: Preprocessing) -> int:
    assert isinstance(spec.resize_to, int)  # validated: "shortest" takes one number
    return spec.resize_to


def _shortest(picture: Size, side: int) -> Size:
    """Both sides when the shorter becomes ``side``; the longer is cut to whole pixels as torchvision does."""
    height, width = picture
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _resized(spec: Preprocessing, picture: Size, target: Size) -> Size:
    if spec.resize == "none":
        return picture
    if spec.resize == "longest":
        box = _pair(spec.resize_to) if spec.resize_to is not None else target
        factor = min(box[0] / picture[0], box[1] / picture[1])
        height, width = (min(max(1, round(picture[i] * factor)), box[i]) for i in (0, 1))
        return height, width
    if spec.resize_to is not None:
        return _pair(spec.resize_to) if spec.resize == "stretch" else _shortest(picture, _side(spec))
    fraction = spec.crop_fraction or 1.0
    # The tiny term keeps 224 / 0.875 at 256 whatever the last bit of the division is.
    aim = (math.floor(target[0] / fraction + 1e-9), math.floor(target[1] / fraction + 1e-9))
    return aim if spec.resize == "stretch" else _cover(picture, aim)


def _cover(picture: Size, aim: Size) -> Size:
    """The smallest size of the picture's aspect ratio that covers ``aim``; the shortest side for a square."""
    if aim[0] * picture[1] >= aim[1] * picture[0]:
        return aim[0], max(aim[1], int(aim[0] * picture[1] / picture[0]))
    return max(aim[0], int(aim[1] * picture[0] / picture[1])), aim[1]


# --- the place in the grid ---------------------------------------------------------------------


def _corner(spec: Preprocessing, resized: Size, target: Size) -> Size:
    if spec.resize == "longest":
        if resized[0] > target[0] or resized[1] > target[1]:
            raise PreprocessingError(
                f"resize_to makes the picture {_text(resized)}, larger than the model's input "
                f"{_text(target)} (height x width): leave resize_to out to follow the model."
            )
        if spec.pad_position == "top-left":
            return 0, 0
        return (target[0] - resized[0]) // 2, (target[1] - resized[1]) // 2
    if not spec.crop:
        if resized != target:
            raise PictureError(
                f"the picture is {_text(resized)} where the model takes {_text(target)} (height x width), "
                f"and the preprocessing ({spec.source}) neither crops nor pads: add crop = true or resize."
            )
        return 0, 0
    top, left = (_margin(target[i] - resized[i], spec.crop_rounding) for i in (0, 1))
    return top, left


def _margin(room: int, rounding: str) -> int:
    """Corner of a centered picture with ``room`` free pixels (negative: pixels to cut).

    "even" is ``torchvision.transforms.functional.center_crop``; "floor" is
    ``transformers.image_transforms.center_crop``.
    """
    if rounding == "even":
        return room // 2 if room > 0 else -round(-room / 2)
    return -(-room // 2)
