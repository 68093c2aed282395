"""Sheets of small pictures: numbered tiles in rows, with a title, a color bar and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from onnxvis.errors import UsageError
from onnxvis.render.text import GRAY, INK, draw_lines, elide, font, line_height, text_width, wrap

__all__ = ["Tile", "TileRow", "enlarged", "tile_sheet"]

_MARGIN, _GAP = 24, 8
_TITLE, _HEADING, _CAPTION, _NOTE = 20, 14, 11, 12
_HEADING_WIDTH = 130
_NARROWEST = 420
_LARGEST = 48_000_000
_MARKED = (176, 64, 58)


@dataclass(frozen=True, eq=False)
class Tile:
    """One small picture with a line under it; ``marked`` writes that line in red."""

    picture: Image.Image
    caption: str = ""
    marked: bool = False


@dataclass(frozen=True, eq=False)
class TileRow:
    """Tiles that stand beside each other, broken into as many lines as they need; a heading on the left."""

    tiles: Sequence[Tile]
    heading: str = ""


def enlarged(values: np.ndarray, side: int) -> Image.Image:
    """``(h, w, 3) uint8`` with its pixels as squares, enlarged by a whole factor to about ``side`` pixels."""
    factor = max(1, round(side / max(values.shape[:2])))
    return Image.fromarray(np.ascontiguousarray(values.repeat(factor, axis=0).repeat(factor, axis=1)))


def tile_sheet(
    rows: Sequence[TileRow],
    *,
    columns: int,
    title: str = "",
    notes: Sequence[str] = (),
    bar: Image.Image | None = None,
) -> Image.Image:
    """Draw rows of tiles.

    Args:
        rows: at least one; all tiles share the size of the largest.
        columns: tiles beside each other, at most.
        title: above.
        notes: lines below.
        bar: a horizontal color bar, between tiles and notes.

    Raises:
        UsageError: there is no tile, or the sheet would be too large to draw.
    """
    tiles = [tile for row in rows for tile in row.tiles]
    if not tiles:
        raise UsageError("a sheet needs at least one tile.")
    wide, high = max(t.picture.width for t in tiles), max(t.picture.height for t in tiles)
    caption = line_height(_CAPTION) if any(t.caption for t in tiles) else 0
    left = _HEADING_WIDTH if any(row.heading for row in rows) else 0
    most = min(columns, max(len(row.tiles) for row in rows))
    inner = max(left + most * (wide + _GAP) - _GAP, _NARROWEST, bar.width if bar else 0)
    lines = sum(-(-len(row.tiles) // most) for row in rows)
    if inner * lines * (high + caption + _GAP) > _LARGEST:
        raise UsageError(f"a sheet of {len(tiles)} tiles of {wide} x {high} pixels is too large: show fewer.")
    strips = [_strip(row, most, (wide, high), caption, left, inner) for row in rows]
    parts = [_text(wrap(title, _TITLE, inner, most=2), _TITLE, INK, inner), *strips, bar, _notes(notes, inner)]
    found = [part for part in parts if part is not None]
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, sum(p.height + _GAP for p in found) + 2 * _MARGIN - _GAP), "white")
    y = _MARGIN
    for part in found:
        sheet.paste(part, (_MARGIN, y))
        y += part.height + _GAP
    return sheet


def _strip(row: TileRow, most: int, size: tuple[int, int], caption: int, left: int, inner: int) -> Image.Image:
    wide, high = size
    lines = -(-len(row.tiles) // most)
    heading = wrap(row.heading, _HEADING, left - _GAP, most=4) if row.heading else []
    pitch = high + caption + _GAP
    height = max(lines * pitch - _GAP, len(heading) * line_height(_HEADING), 1)
    strip = Image.new("RGB", (inner, height), "white")
    draw = ImageDraw.Draw(strip)
    draw_lines(draw, (0, 0), heading, _HEADING, INK)
    for k, tile in enumerate(row.tiles):
        x, y = left + k % most * (wide + _GAP), k // most * pitch
        strip.paste(tile.picture, (x, y))
        if tile.caption:
            text = elide(tile.caption, _CAPTION, wide + _GAP - 2)
            place = (x + (tile.picture.width - text_width(text, _CAPTION)) / 2, y + tile.picture.height + 1)
            draw.text(
                (max(x, place[0]), place[1]), text, font=font(_CAPTION, text), fill=_MARKED if tile.marked else GRAY
            )
    return strip


def _text(lines: list[str], size: int, color: tuple[int, int, int], width: int) -> Image.Image | None:
    if not lines:
        return None
    strip = Image.new("RGB", (width, len(lines) * line_height(size)), "white")
    draw_lines(ImageDraw.Draw(strip), (0, 0), lines, size, color)
    return strip


def _notes(notes: Sequence[str], width: int) -> Image.Image | None:
    return _text([line for note in notes for line in wrap(note, _NOTE, width, most=3)], _NOTE, GRAY, width)
