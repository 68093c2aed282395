"""Where each pixel of the original picture lies in the model's input grid, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import PreprocessingError
from onnxvis.preprocessing.resample import axis_taps, resample_map

__all__ = ["Box", "Geometry", "Point"]

Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]

_TOUCH = 1e-6  # input pixels: less overlap than this is rounding, not sight


@dataclass(frozen=True)
class Geometry:
    """The affine relation between the original picture and the input grid, one scale and offset per axis.

    Everything is (x, y), x to the right. *Points* are pixel indices: ``(0, 0)`` is the center of the first
    pixel, so ``x_in = (x + 0.5) * scale + offset - 0.5``, the convention of ``PIL.Image.resize``. *Boxes* are
    edges: the first pixel alone is ``(0, 0, 1, 1)``, so ``x_in = x * scale + offset``.

    Attributes:
        picture_size: (width, height) of the original picture, after EXIF orientation.
        input_size: (width, height) of the model's input grid.
        scale: input pixels per picture pixel, (x, y); exact, as each axis rounds to whole pixels on its own.
        offset: input edge coordinate of the picture's top-left corner, (x, y); negative when cropped.
    """

    picture_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def identity(cls, size: tuple[int, int]) -> Geometry:
        """The input grid is the picture itself, (width, height)."""
        return cls(size, size, (1.0, 1.0), (0.0, 0.0))

    @property
    def content_box(self) -> tuple[int, int, int, int]:
        """The part of the input grid that shows the picture (padding excluded), (x0, y0, x1, y1)."""
        x0, x1 = self._content(0)
        y0, y1 = self._content(1)
        return x0, y0, x1, y1

    @property
    def visible_box(self) -> Box:
        """The part of the original picture that the model sees, (x0, y0, x1, y1) in picture pixels."""
        return self.box_to_picture(self.content_box)

    def point_to_input(self, point: Point) -> Point:
        """A picture pixel (x, y) as input-grid coordinates; not clipped."""
        x, y = ((point[i] + 0.5) * self.scale[i] + self.offset[i] - 0.5 for i in (0, 1))
        return x, y

    def point_to_picture(self, point: Point) -> Point:
        """An input-grid pixel (x, y) as picture coordinates; not clipped."""
        x, y = ((point[i] + 0.5 - self.offset[i]) / self.scale[i] - 0.5 for i in (0, 1))
        return x, y

    def box_to_input(self, box: Box, clip: bool = False) -> Box:
        """A box of picture pixels in the input grid; ``clip`` cuts it to the content box."""
        x0, y0, x1, y1 = (edge * self.scale[i % 2] + self.offset[i % 2] for i, edge in enumerate(box))
        return _clipped((x0, y0, x1, y1), self.content_box) if clip else (x0, y0, x1, y1)

    def box_to_picture(self, box: Box, clip: bool = False) -> Box:
        """A box of input pixels in the original picture; ``clip`` cuts it to the visible box."""
        x0, y0, x1, y1 = ((edge - self.offset[i % 2]) / self.scale[i % 2] for i, edge in enumerate(box))
        return _clipped((x0, y0, x1, y1), self.visible_box) if clip else (x0, y0, x1, y1)

    def map_to_picture(self, values: NDArray[Any], fill: float = float("nan")) -> NDArray[np.float32]:
        """Bring a map of the input grid onto the original picture.

        Bilinear between pixel centers; where one picture pixel covers several input pixels, they are
        averaged. Padding is never read. Picture pixels of which the model saw nothing get ``fill``.

        Args:
            values: ``(H, W)``, the input grid.
            fill: value of the picture pixels that were cropped away.

        Returns:
            ``(H0, W0) float32``, the original picture's size.

        Raises:
            PreprocessingError: ``values`` does not have the shape of the input grid.
        """
        width, height = self.input_size
        if values.shape != (height, width):
            raise PreprocessingError(
                f"a map of shape {values.shape} does not fit the model's input grid of {height} x {width}: "
                "resize it to the input grid first."
            )
        x0, y0, x1, y1 = self._seen()
        c0, d0, c1, d1 = self.content_box
        rows = axis_taps(y0, y1, self.scale[1], self.offset[1] - d0, d1 - d0)
        columns = axis_taps(x0, x1, self.scale[0], self.offset[0] - c0, c1 - c0)
        content = values[d0:d1, c0:c1].astype(np.float32, copy=False)
        out = np.full(self.picture_size[::-1], fill, np.float32)
        out[y0:y1, x0:x1] = resample_map(content, rows, columns)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, ready for JSON; :meth:`from_dict` is the inverse."""
        return {
            "picture_size": list(self.picture_size),
            "input_size": list(self.input_size),
            "scale": list(self.scale),
            "offset": list(self.offset),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Geometry:
        """Rebuild from :meth:`to_dict`.

        Raises:
            PreprocessingError: a field is missing or not a pair of numbers.
        """
        try:
            width, height = (int(v) for v in data["picture_size"])
            columns, rows = (int(v) for v in data["input_size"])
            scale_x, scale_y = (float(v) for v in data["scale"])
            offset_x, offset_y = (float(v) for v in data["offset"])
        except (KeyError, TypeError, ValueError) as error:
            raise PreprocessingError(
                f"this is not a stored geometry ({error!r}): it needs picture_size, input_size, "
                "scale and offset, each a pair of numbers."
            ) from error
        return cls((width, height), (columns, rows), (scale_x, scale_y), (offset_x, offset_y))

    def _content(self, axis: int) -> tuple[int, int]:
        """First and one-past-last input pixel that shows the picture."""
        start = round(self.offset[axis])
        stop = round(self.picture_size[axis] * self.scale[axis] + self.offset[axis])
        size = self.input_size[axis]
        low = min(max(start, 0), size - 1)
        return low, max(min(stop, size), low + 1)

    def _seen(self) -> tuple[int, int, int, int]:
        """Picture pixels of which the model saw any part, (x0, y0, x1, y1)."""
        ranges = []
        for axis, length in enumerate(self.picture_size):
            low, high = ((edge - self.offset[axis]) / self.scale[axis] for edge in self._content(axis))
            touch = _TOUCH / self.scale[axis]
            first = min(max(0, math.floor(low + touch)), length - 1)
            ranges.append((first, max(first + 1, min(length, math.ceil(high - touch)))))
        (x0, x1), (y0, y1) = ranges
        return x0, y0, x1, y1


def _clipped(box: Box, limits: Box) -> Box:
    x0, x1 = (min(max(edge, limits[0]), limits[2]) for edge in (box[0], box[2]))
    y0, y1 = (min(max(edge, limits[1]), limits[3]) for edge in (box[1], box[3]))
    return x0, y0, x1, y1
