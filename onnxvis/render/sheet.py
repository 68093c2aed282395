"""A contact sheet: many explanations in rows and columns, each column on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnxvis.errors import UsageError
from onnxvis.render.boxes import draw_boxes
from onnxvis.render.colorbar import color_bar
from onnxvis.render.figure import UNSEEN_NOTE
from onnxvis.render.fit import fit_picture, plan_fit, resize_values
from onnxvis.render.overlay import has_unseen, heatmap, overlay
from onnxvis.render.scale import Scale
from onnxvis.render.text import GRAY, INK, LINE, draw_lines, line_height, wrap

__all__ = ["SheetCell", "SheetColumn", "SheetRow", "contact_sheet"]

_MARGIN, _GAP = 28, 14
_TITLE, _HEADING, _CAPTION = 22, 15, 13
_ROW_HEADING = 150


@dataclass(frozen=True)
class SheetColumn:
    """A column of maps: its heading (a method, say) and the scale that all of its maps are drawn on.

    ``alone`` draws the maps without the picture: for maps of single pixels, which a busy photo hides.
    """

    heading: str
    scale: Scale
    alone: bool = False


@dataclass(frozen=True, eq=False)
class SheetCell:
    """A map in the pixels of its row's picture (or smaller, covering it), a line under it, and boxes.

    Boxes are edges ``(x0, y0, x1, y1)`` in pixels of the row's picture.
    """

    values: NDArray[Any]
    caption: str = ""
    boxes: Sequence[tuple[float, float, float, float]] = ()


@dataclass(frozen=True, eq=False)
class SheetRow:
    """A row: heading (a target or a file name), (H, W, 3) uint8 picture, and one cell (or None) a column."""

    heading: str
    picture: NDArray[np.uint8]
    cells: Sequence[SheetCell | None]
    caption: str = ""


def contact_sheet(
    rows: Sequence[SheetRow],
    columns: Sequence[SheetColumn],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    cell: int = 240,
    picture_heading: str = "Picture",
    most_columns: int = 6,
) -> Image.Image:
    """Draw rows of pictures and columns of maps; the first column is the picture itself.

    More columns than fit beside each other are drawn as blocks of about equal width, one below the other,
    each with all rows and its own pictures.

    Args:
        rows: one per picture or target.
        columns: one per method; the color bar of its scale stands under the column.
        title: a line above.
        notes: lines below.
        cell: width of a cell in pixels, and the most a picture is high.
        picture_heading: heading of the first column.
        most_columns: columns of maps beside each other, at most.

    Returns:
        An RGB picture. An empty cell says "not computed".

    Raises:
        UsageError: there are no rows, or a row has not one cell for each column.
    """
    if not rows:
        raise UsageError("A contact sheet needs at least one row.")
    for row in rows:
        if len(row.cells) != len(columns):
            raise UsageError(
                f"Row {row.heading!r} has {len(row.cells)} cells for {len(columns)} columns; "
                "give None for a cell that was not computed."
            )
    blocks = _blocks(len(columns), most_columns)
    inner = _ROW_HEADING + (cell + _GAP) * (1 + max(len(block) for block in blocks))
    titles = wrap(title, _TITLE, inner, most=2)
    found = [_text_strip(titles, _TITLE, INK, inner)]
    for number, block in enumerate(blocks):
        shown = [columns[k] for k in block]
        if number:
            found.append(_rule(inner))
        found.append(_headings([picture_heading, *(c.heading for c in shown)], cell, inner))
        found += [_draw_row(row, [row.cells[k] for k in block], shown, cell) for row in rows]
        found.append(_bars(shown, cell, inner))
    found.append(_footer(rows, columns, notes, inner))
    parts = [part for part in found if part is not None]
    height = sum(part.height + _GAP for part in parts) - _GAP
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, height + 2 * _MARGIN), "white")
    y = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, y))
        y += part.height + _GAP
    return sheet


def _blocks(count: int, most: int) -> list[range]:
    """Columns in as few blocks as needed, of about equal length."""
    number = max(1, -(-count // most))
    edges = [round(k * count / number) for k in range(number + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


def _rule(width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _GAP), "white")
    ImageDraw.Draw(strip).line([(0, _GAP // 2), (width, _GAP // 2)], fill=LINE)
    return strip


def _text_strip(lines: list[str], size: int, color: tuple[int, int, int], width: int) -> Image.Image | None:
    if not lines:
        return None
    strip = Image.new("RGB", (width, len(lines) * line_height(size)), "white")
    draw_lines(ImageDraw.Draw(strip), (0, 0), lines, size, color)
    return strip


def _headings(headings: Sequence[str], cell: int, width: int) -> Image.Image:
    """Column headings of up to two lines, standing on one base line."""
    wrapped = [wrap(heading, _HEADING, cell, most=2) for heading in headings]
    most = max(len(lines) for lines in wrapped)
    strip = Image.new("RGB", (width, most * line_height(_HEADING)), "white")
    draw = ImageDraw.Draw(strip)
    for k, lines in enumerate(wrapped):
        draw_lines(draw, (_left(k, cell), (most - len(lines)) * line_height(_HEADING)), lines, _HEADING, INK)
    return strip


def _bars(columns: Sequence[SheetColumn], cell: int, width: int) -> Image.Image | None:
    bars = [color_bar(column.scale, cell, orientation="horizontal") for column in columns]
    if not bars:
        return None
    strip = Image.new("RGB", (width, max(bar.height for bar in bars)), "white")
    for k, bar in enumerate(bars):
        strip.paste(bar, (_left(k + 1, cell), 0))
    return strip


def _footer(
    rows: Sequence[SheetRow], columns: Sequence[SheetColumn], notes: Sequence[str], width: int
) -> Image.Image | None:
    said = [*notes, *(f"Scale of {c.heading}: {c.scale.note}." for c in columns if c.scale.note)]
    if any(c is not None and has_unseen(c.values) for row in rows for c in row.cells):
        said.append(UNSEEN_NOTE)
    lines = [line for note in said for line in wrap(note, _CAPTION, width, most=3)]
    text = _text_strip(lines, _CAPTION, GRAY, width)
    if text is None:
        return None
    strip = Image.new("RGB", (width, text.height + _GAP // 2 + 1), "white")
    ImageDraw.Draw(strip).line([(0, 0), (width, 0)], fill=LINE)
    strip.paste(text, (0, _GAP // 2 + 1))
    return strip


def _left(column: int, cell: int) -> int:
    return _ROW_HEADING + _GAP + column * (cell + _GAP)


def _draw_row(
    row: SheetRow, cells: Sequence[SheetCell | None], columns: Sequence[SheetColumn], cell: int
) -> Image.Image:
    fit = plan_fit(row.picture.shape[0], row.picture.shape[1], (cell, cell))
    picture = fit_picture(row.picture, fit)
    captions = [wrap(row.caption, _CAPTION, cell, most=2)]
    panels: list[Image.Image | None] = [Image.fromarray(picture)]
    for column, entry in zip(columns, cells, strict=True):
        if entry is None:
            panels.append(None)
            captions.append([])
        else:
            values = resize_values(entry.values, fit)
            drawn = heatmap(values, column.scale) if column.alone else overlay(picture, values, column.scale)
            scale_xy = (fit.width / row.picture.shape[1], fit.height / row.picture.shape[0])
            panels.append(draw_boxes(drawn, entry.boxes, scale_xy) if entry.boxes else drawn)
            captions.append(wrap(entry.caption, _CAPTION, cell, most=2))
    heading = wrap(row.heading, _HEADING, _ROW_HEADING, most=5)
    below = max(len(c) for c in captions) * line_height(_CAPTION)
    height = max(fit.height + 3 + below, len(heading) * line_height(_HEADING))
    width = _ROW_HEADING + _GAP + (cell + _GAP) * len(panels) - _GAP
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    draw_lines(draw, (0, 0), heading, _HEADING, INK)
    for k, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        x = _left(k, cell)
        if panel is None:
            draw.rectangle([x, 0, x + fit.width - 1, fit.height - 1], outline=LINE)
            empty = wrap("not computed", _CAPTION, fit.width - 16, most=2)
            draw_lines(draw, (x + 8, min(8, max(0, fit.height // 2 - 9))), empty, _CAPTION, GRAY)
            continue
        strip.paste(panel, (x, 0))
        draw_lines(draw, (x, fit.height + 3), lines, _CAPTION, GRAY)
    return strip
