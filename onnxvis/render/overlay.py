"""A map in colors: over its picture, alone, or as a layer of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from onnxvis.errors import PictureError, UsageError
from onnxvis.kernels.blend import blend_map, blend_overlay, color_index
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.render.colormap import DIVERGING, NEUTRAL, SEQUENTIAL, ColorMap
from onnxvis.render.scale import Scale

__all__ = ["color_map_of", "fit_values", "has_unseen", "heat_layer", "heatmap", "overlay", "soften"]

_SATURATION = 0.45
_BRIGHTNESS = 0.94
_HATCH_PAPER = (70, 74, 80, 150)
_HATCH_LINE = (205, 208, 214, 170)


def color_map_of(scale: Scale) -> ColorMap:
    """The color map that belongs to the kind of the scale."""
    return DIVERGING if scale.kind == "diverging" else SEQUENTIAL


def has_unseen(values: ArrayLike) -> bool:
    """True if the map has places the model never saw (NaN)."""
    return bool(np.isnan(np.asarray(values, dtype=np.float32)).any())


def soften(picture: ArrayLike) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, less saturated and a little darker, so that the colors of a map stand out from it."""
    rgb = _picture(picture)
    image = Image.fromarray(rgb)
    gray = image.convert("L").convert("RGB")
    mixed = Image.blend(gray, image, _SATURATION)
    return np.asarray(mixed.point([round(v * _BRIGHTNESS) for v in range(256)] * 3))


def _picture(picture: ArrayLike) -> NDArray[np.uint8]:
    rgb = np.ascontiguousarray(np.asarray(picture))
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise PictureError(f"A picture must be (H, W, 3) uint8 and not empty; got {rgb.shape} {rgb.dtype}.")
    return rgb


def _map(values: ArrayLike) -> NDArray[np.float32]:
    grid = np.asarray(values, dtype=np.float32)
    if grid.ndim != 2 or grid.size == 0:
        raise UsageError(f"A map to draw must be (H, W) and not empty; got {grid.shape}.")
    return grid


def _hatch(height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 4): diagonal lines for what the model never saw, about forty across the shorter side."""
    period = max(6, round(min(height, width) / 40))
    place = (np.arange(height)[:, None] + np.arange(width)[None]) % period
    line = place < max(1, period // 6)
    return np.where(line[..., None], np.array(_HATCH_LINE, np.uint8), np.array(_HATCH_PAPER, np.uint8))


def _hatched(picture: NDArray[np.uint8], unseen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    out = picture.copy()
    hatch = _hatch(*unseen.shape)[unseen].astype(np.uint16)
    alpha = hatch[:, 3:]
    out[unseen] = ((picture[unseen] * (255 - alpha) + hatch[:, :3] * alpha + 127) // 255).astype(np.uint8)
    return out


def fit_values(values: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a map to (H, W): bilinear where it grows, the mean of what was seen where it shrinks.

    A reduced pixel is NaN only where less than half of what it stands for was seen.
    """
    grid = _map(values)
    height, width = size
    if height < grid.shape[0] or width < grid.shape[1]:
        goal = (min(width, grid.shape[1]), min(height, grid.shape[0]))
        seen = np.isfinite(grid)
        weight = _box(seen.astype(np.float32), goal)
        total = _box(np.where(seen, grid, np.float32(0)), goal)
        grid = np.where(weight >= 0.5, total / np.maximum(weight, np.float32(0.5)), np.float32(np.nan))
    if grid.shape != (height, width):
        grid = upsample_bilinear(grid, (height, width))
    return grid


def _box(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX), dtype=np.float32)


def overlay(picture: ArrayLike, values: ArrayLike, scale: Scale, *, soft: bool = True) -> Image.Image:
    """The map in colors over its picture.

    Args:
        picture: (H, W, 3) uint8.
        values: (H, W) in the pixels of the picture; or any smaller (h, w) that covers the whole picture and
            is then interpolated. NaN stands for what the model never saw: hatched and dark.
        scale: which value gets which color.
        soft: take some color and light out of the picture first, see :func:`soften`.

    Returns:
        An RGB picture of the size of ``picture``.

    Raises:
        PictureError: the picture is not (H, W, 3) uint8.
        UsageError: the map is not 2-D or larger than the picture.
    """
    rgb = _picture(picture)
    grid = _map(values)
    if grid.shape[0] > rgb.shape[0] or grid.shape[1] > rgb.shape[1]:
        raise UsageError(f"The map {grid.shape} is larger than the picture {rgb.shape[:2]} (height, width).")
    if soft:
        rgb = soften(rgb)
    lut = color_map_of(scale).lut
    unseen = np.isnan(grid)
    if grid.shape != rgb.shape[:2]:
        if not unseen.any():
            return Image.fromarray(blend_map(rgb, grid, lut, scale.limits))
        grid = upsample_bilinear(grid, (rgb.shape[0], rgb.shape[1]))
        unseen = np.isnan(grid)
    if unseen.any():
        rgb = _hatched(rgb, unseen)
    return Image.fromarray(blend_overlay(rgb, grid, lut, scale.limits))


def heatmap(values: ArrayLike, scale: Scale) -> Image.Image:
    """The map alone, (H, W) -> RGB: the same colors over the neutral ground of the color bar."""
    grid = _map(values)
    ground = np.full((*grid.shape, 3), NEUTRAL, np.uint8)
    return overlay(ground, grid, scale, soft=False)


def heat_layer(values: ArrayLike, scale: Scale, size: tuple[int, int] | None = None) -> Image.Image:
    """The map as an RGBA layer to lay over a picture: transparent where the value is zero.

    Args:
        values: (H, W); NaN is hatched, as in :func:`overlay`.
        scale: which value gets which color.
        size: (height, width) of the layer; the map's own by default, else as :func:`fit_values` does it.
    """
    grid = _map(values) if size is None else fit_values(values, size)
    table = np.concatenate([color_map_of(scale).lut, np.zeros((1, 4), np.uint8)])
    layer = table[color_index(grid, scale.limits)]
    unseen = np.isnan(grid)
    if unseen.any():
        layer[unseen] = _hatch(*grid.shape)[unseen]
    return Image.fromarray(layer)
