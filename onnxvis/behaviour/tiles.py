"""Sheets of small pictures: rows of tiles with captions, for patches, masks and neighbors."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnxvis.errors import UsageError
from onnxvis.render import Scale, overlay, png_bytes
from onnxvis.render.fit import fit_picture, plan_fit
from onnxvis.render.text import GRAY, INK, LINE, draw_lines, line_height, wrap

__all__ = ["OUTSIDE_NOTE", "Tile", "TileRow", "draw_tile", "tile_sheet", "tile_uri"]

OUTSIDE_NOTE = "Hatched: outside the picture (the receptive field reaches over its border)."

_PLAIN = Scale(0.0, 1.0, "sequential", "")
_MARGIN, _GAP, _ROW_GAP = 26, 6, 14
_TITLE, _HEADING, _CAPTION = 21, 14, 11
_QUALITY = 86


@dataclass(frozen=True, eq=False)
class Tile:
    """A small picture.

    Attributes:
        pixels: ``(h, w, 3) uint8``.
        caption: under it.
        inside: ``(h, w) bool``; the rest is hatched. None shows everything.
        marked: draw a frame around it.
        center: a ring around this place ``(x, y)`` of ``pixels``.
    """

    pixels: NDArray[np.uint8]
    caption: str = ""
    inside: NDArray[np.bool_] | None = None
    marked: bool = False
    center: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class TileRow:
    """A row: its heading at the left, then tiles; ``tight`` rows stand close to the one above."""

    heading: str
    tiles: Sequence[Tile]
    tight: bool = False


def draw_tile(tile: Tile, cell: int) -> Image.Image:
    """One tile, at most ``cell`` pixels in each direction: squares where it grows, smooth where it shrinks."""
    fit = plan_fit(tile.pixels.shape[0], tile.pixels.shape[1], (cell, cell))
    drawn = fit_picture(tile.pixels, fit)
    if tile.inside is None or tile.inside.all():
        return _ringed(Image.fromarray(drawn), tile)
    inside = Image.fromarray(tile.inside).resize((fit.width, fit.height), Image.Resampling.NEAREST)
    values = np.where(np.asarray(inside), np.float32(0), np.float32(np.nan))
    ground = np.where(np.isnan(values)[..., None], np.uint8(235), drawn)
    return _ringed(overlay(ground, values, _PLAIN, soft=False), tile)


def _ringed(image: Image.Image, tile: Tile) -> Image.Image:
    """With a ring at the tile's center, light on dark, so that it shows on any ground."""
    if tile.center is None:
        return image
    x = tile.center[0] * image.width / tile.pixels.shape[1]
    y = tile.center[1] * image.height / tile.pixels.shape[0]
    draw = ImageDraw.Draw(image)
    for radius, color, width in ((6.5, (20, 20, 20), 3), (6.0, (255, 214, 64), 2)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)
    return image


def tile_uri(tile: Tile, cell: int) -> str:
    """The drawn tile as a data address: PNG where it is small or hatched coarse squares, JPEG for photos."""
    drawn = draw_tile(tile, cell)
    if max(tile.pixels.shape[:2]) * 2 <= cell:
        return "data:image/png;base64," + base64.b64encode(png_bytes(drawn)).decode("ascii")
    buffer = io.BytesIO()
    # Not "optimize": Pillow then has room for one byte a pixel only, and noise takes more.
    drawn.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def tile_sheet(
    rows: Sequence[TileRow], *, title: str = "", notes: Sequence[str] = (), cell: int = 96, heading_width: int = 132
) -> Image.Image:
    """Draw rows of tiles under a title, notes below.

    Args:
        rows: from top to bottom.
        title: one or two lines.
        notes: sentences under the rows.
        cell: largest side of a tile in pixels.
        heading_width: pixels for the headings at the left.

    Raises:
        UsageError: there are no rows.
    """
    if not rows:
        raise UsageError("a sheet needs at least one row.")
    inner = max(heading_width + max(len(row.tiles) for row in rows) * (cell + _GAP), 460)
    parts: list[tuple[Image.Image, int]] = []
    titles = wrap(title, _TITLE, inner, most=2)
    if titles:
        parts.append((_lines(titles, _TITLE, INK, inner), _ROW_GAP))
    for k, row in enumerate(rows):
        last = k + 1 == len(rows) or not rows[k + 1].tight
        parts.append((_row(row, cell, inner, heading_width), _ROW_GAP if last else _GAP))
    feet = [line for note in notes if note for line in wrap(note, _CAPTION + 1, inner, most=3)]
    if feet:
        parts.append((_lines(feet, _CAPTION + 1, GRAY, inner), 0))
    height = sum(part.height + gap for part, gap in parts)
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, height + 2 * _MARGIN), "white")
    y = _MARGIN
    for part, gap in parts:
        sheet.paste(part, (_MARGIN, y))
        y += part.height + gap
    return sheet


def _lines(lines: list[str], size: int, color: tuple[int, int, int], width: int) -> Image.Image:
    strip = Image.new("RGB", (width, len(lines) * line_height(size)), "white")
    draw_lines(ImageDraw.Draw(strip), (0, 0), lines, size, color)
    return strip


def _row(row: TileRow, cell: int, width: int, heading_width: int) -> Image.Image:
    drawn = [draw_tile(tile, cell) for tile in row.tiles]
    captions = [wrap(tile.caption, _CAPTION, cell, most=2) for tile in row.tiles]
    heading = wrap(row.heading, _HEADING, heading_width - 10, most=5)
    tallest = max((one.height for one in drawn), default=0)
    below = max((len(lines) for lines in captions), default=0) * line_height(_CAPTION)
    strip = Image.new("RGB", (width, max(tallest + below + 2, len(heading) * line_height(_HEADING))), "white")
    draw = ImageDraw.Draw(strip)
    draw_lines(draw, (0, 0), heading, _HEADING, INK)
    for k, (tile, image, lines) in enumerate(zip(row.tiles, drawn, captions, strict=True)):
        x = heading_width + k * (cell + _GAP)
        left = x + (cell - image.width) // 2
        strip.paste(image, (left, 0))
        frame = (left, 0, left + image.width - 1, image.height - 1)
        draw.rectangle(frame, outline=(31, 95, 174) if tile.marked else LINE, width=3 if tile.marked else 1)
        draw_lines(draw, (x, tallest + 2), lines, _CAPTION, GRAY)
    return strip
