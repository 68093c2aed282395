"""Two color maps with their opacity: a diverging one for signed maps, a sequential one for unsigned maps.

A color map is a table of 256 colors with alpha. The alpha is zero where the value is zero and grows with
its size, so a picture stays legible where the map says nothing; a heat map without a picture is the same
table over :data:`NEUTRAL`, so a color means the same value on the picture, on the heat map and in the color
bar. Anchor colors are joined by straight lines in OKLab (Ottosson, "A perceptual color space for image
processing", 2020), in which equal steps look about equally large. Blue against red and the falling lightness
of both maps survive the common color vision deficiencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIVERGING", "NEUTRAL", "SEQUENTIAL", "ColorMap", "build_lut"]

NEUTRAL = (243, 242, 239)
"""The light gray (red, green, blue) under a heat map and under the color bar."""

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@dataclass(frozen=True, eq=False)
class ColorMap:
    """A named table of 256 colors.

    Attributes:
        name: ``"diverging"`` or ``"sequential"``, as in :attr:`Scale.kind`.
        lut: (256, 4) uint8, red, green, blue, alpha; read-only. Row 0 is the lower limit of the scale.
    """

    name: str
    lut: NDArray[np.uint8]

    @property
    def opaque(self) -> NDArray[np.uint8]:
        """(256, 3) uint8: the colors as they look over :data:`NEUTRAL`."""
        alpha = self.lut[:, 3:].astype(np.float64) / 255
        mixed = self.lut[:, :3] * alpha + np.array(NEUTRAL) * (1 - alpha)
        return np.rint(mixed).astype(np.uint8)


def _oklab(color: str) -> NDArray[np.float64]:
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(_TO_LAB @ np.cbrt(_TO_LMS @ linear))


def _srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(np.clip(srgb, 0, 1) * 255), dtype=np.uint8)


def _ramp(anchors: Sequence[tuple[float, str]], at: NDArray[np.float64]) -> NDArray[np.uint8]:
    if any(b <= a for (a, _), (b, _) in pairwise(anchors)):
        raise ValueError("the anchor positions of a color map must rise")
    places = [place for place, _ in anchors]
    labs = np.array([_oklab(color) for _, color in anchors])
    return _srgb(np.stack([np.interp(at, places, labs[:, k]) for k in range(3)], axis=-1))


def _alpha(size: NDArray[np.float64], strongest: float) -> NDArray[np.uint8]:
    """Zero at zero, steep enough that a tenth of the limit is visible, flat towards the strongest opacity."""
    eased = strongest * (1 - (1 - size) ** 1.7)
    return np.rint(255 * eased).astype(np.uint8)


def build_lut(
    positive: Sequence[tuple[float, str]],
    negative: Sequence[tuple[float, str]] | None = None,
    strongest: float = 0.86,
) -> NDArray[np.uint8]:
    """A (256, 4) table from anchors ``(size in 0..1, "#rrggbb")``.

    With ``negative`` anchors the table is zero-centered (rows 127 and 128, the two next to zero, have alpha
    zero); without, row 0 is zero.
    """
    place = np.arange(256)
    if negative is None:
        size = place / 255
        colors = _ramp(positive, size)
    else:
        size = (np.abs(place - 127.5) - 0.5) / 127
        colors = np.where((place < 128)[:, None], _ramp(negative, size), _ramp(positive, size))
    lut = np.concatenate([colors, _alpha(size, strongest)[:, None]], axis=1)
    lut.setflags(write=False)
    return lut


DIVERGING = ColorMap(
    "diverging",
    build_lut(
        positive=[(0.0, "#f08a63"), (0.55, "#d8352c"), (1.0, "#8e0a23")],
        negative=[(0.0, "#6fb0e6"), (0.55, "#2a6fc9"), (1.0, "#12307f")],
    ),
)
"""Blue (speaks against the target) through nothing at zero to red (supports it)."""

SEQUENTIAL = ColorMap(
    "sequential",
    build_lut(positive=[(0.0, "#ffd45e"), (0.35, "#f7931e"), (0.65, "#d6336c"), (1.0, "#5a0f7d")]),
)
"""Nothing at zero through amber and magenta to dark violet."""
