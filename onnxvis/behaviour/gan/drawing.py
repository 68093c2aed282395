"""Galleries of generated pictures: outlined masks, and before / after / difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from onnxvis.errors import UsageError
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.render.colorbar import color_bar
from onnxvis.render.fit import fit_picture, plan_fit
from onnxvis.render.overlay import heatmap
from onnxvis.render.scale import Scale
from onnxvis.render.text import GRAY, INK, draw_lines, elide, line_height, wrap

__all__ = ["GridRow", "before_after", "difference_of", "outlined", "picture_grid"]

_MARGIN, _GAP, _LEFT = 20, 6, 168
_TITLE, _SIZE = 19, 13
_LINE = np.array((255, 214, 10), np.uint8)
_EDGE = np.array((20, 20, 20), np.uint8)
_DIMMED = 0.42


@dataclass(frozen=True, eq=False)
class GridRow:
    """A row of a gallery: a heading, a line under it, pictures ``(H, W, 3) uint8`` and a caption for each, or none."""

    heading: str
    pictures: Sequence[np.ndarray]
    captions: Sequence[str] = ()
    remark: str = ""


def outlined(picture: np.ndarray, activation: np.ndarray, threshold: float, cell: int = 128) -> np.ndarray:
    """A picture with the places outlined where a unit is above its threshold; all else is dimmed.

    Args:
        picture: ``(H, W, 3) uint8``.
        activation: ``(h, w)`` of the unit.
        threshold: of the enlarged activation.
        cell: pixels that the drawing has at most on a side.

    Returns:
        ``(H', W', 3) uint8``, enlarged by a whole factor where the picture is small.
    """
    fit = plan_fit(picture.shape[0], picture.shape[1], (cell, cell))
    large = fit_picture(picture, fit)
    mask = upsample_bilinear(activation.astype(np.float32), large.shape[:2]) > threshold
    drawn = np.where(mask[..., None], large, (large * _DIMMED).astype(np.uint8))
    inner = _eroded(mask)
    drawn[mask & ~inner] = _LINE
    drawn[_grown(mask) & ~mask] = _EDGE
    return np.asarray(drawn, np.uint8)


def _shifts(mask: np.ndarray, outside: bool) -> list[np.ndarray]:
    padded = np.pad(mask, 1, constant_values=outside)
    return [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]


def _eroded(mask: np.ndarray) -> np.ndarray:
    return np.asarray(np.logical_and.reduce([mask, *_shifts(mask, True)]))


def _grown(mask: np.ndarray) -> np.ndarray:
    return np.asarray(np.logical_or.reduce([mask, *_shifts(mask, False)]))


def picture_grid(
    rows: Sequence[GridRow], title: str = "", notes: Sequence[str] = (), cell: int = 128, scale: Scale | None = None
) -> Image.Image:
    """Rows of pictures with headings on the left.

    Args:
        rows: at least one.
        title: a line above.
        notes: lines below.
        cell: width and height that a picture has at most.
        scale: of rows that show values in colors; its color bar stands below.

    Raises:
        UsageError: there is nothing to draw.
    """
    if not rows or not any(row.pictures for row in rows):
        raise UsageError("there are no pictures to draw.")
    most = max(len(row.pictures) for row in rows)
    width = _LEFT + most * (cell + _GAP)
    strips = [_row(row, cell, width) for row in rows]
    head = [Image.new("RGB", (width, line_height(_TITLE) + _GAP), "white")] if title else []
    for strip in head:
        draw_lines(ImageDraw.Draw(strip), (0, 0), [elide(title, _TITLE, width)], _TITLE, INK)
    lines = [line for note in notes for line in wrap(note, _SIZE, width, most=4)]
    foot = []
    if scale is not None:
        drawn = color_bar(scale, min(320, width - _LEFT), orientation="horizontal")
        bar = Image.new("RGB", (width, drawn.height), "white")
        bar.paste(drawn, (_LEFT, 0))
        foot.append(bar)
    if lines:
        text = Image.new("RGB", (width, len(lines) * line_height(_SIZE)), "white")
        draw_lines(ImageDraw.Draw(text), (0, 0), lines, _SIZE, GRAY)
        foot.append(text)
    parts = [*head, *strips, *foot]
    height = sum(part.height + _GAP for part in parts) - _GAP
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height + 2 * _MARGIN), "white")
    y = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, y))
        y += part.height + _GAP
    return sheet


def _row(row: GridRow, cell: int, width: int) -> Image.Image:
    drawn = [fit_picture(p, plan_fit(p.shape[0], p.shape[1], (cell, cell))) for p in row.pictures]
    tall = max((d.shape[0] for d in drawn), default=0)
    captions = [elide(c, _SIZE - 2, cell) for c in row.captions]
    below = line_height(_SIZE - 2) if any(captions) else 0
    words = wrap(row.heading, _SIZE, _LEFT - 12, most=3)
    more = wrap(row.remark, _SIZE - 2, _LEFT - 12, most=6) if row.remark else []
    text = len(words) * line_height(_SIZE) + len(more) * line_height(_SIZE - 2)
    strip = Image.new("RGB", (width, max(tall + below, text)), "white")
    draw = ImageDraw.Draw(strip)
    used = draw_lines(draw, (0, 0), words, _SIZE, INK)
    draw_lines(draw, (0, used), more, _SIZE - 2, GRAY)
    for k, picture in enumerate(drawn):
        left = _LEFT + k * (cell + _GAP)
        strip.paste(Image.fromarray(picture), (left + (cell - picture.shape[1]) // 2, 0))
        if k < len(captions):
            draw_lines(draw, (left, tall), [captions[k]], _SIZE - 2, GRAY)
    return strip


def difference_of(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far each pixel moved: mean over red, green and blue of the absolute change, ``(N, H, W)`` float32."""
    return np.asarray(np.abs(after.astype(np.float32) - before.astype(np.float32)).mean(axis=-1))


def before_after(
    before: np.ndarray, after: np.ndarray, ids: Sequence[int], title: str, notes: Sequence[str] = (), cell: int = 128
) -> Image.Image:
    """Three rows for some samples: as they are, after the intervention, and the difference on one scale for all.

    Args:
        before: ``(N, H, W, 3) uint8``.
        after: likewise.
        ids: numbers of the samples.
        title: a line above.
        notes: lines below.
        cell: width and height that a picture has at most.
    """
    moved = difference_of(before, after)
    scale = Scale.for_maps([moved], signed=False, units="mean absolute change, of 255")
    heat = [np.asarray(heatmap(values, scale)) for values in moved]
    rows = [
        GridRow("before", list(before), [f"sample {i}" for i in ids]),
        GridRow("after", list(after)),
        GridRow("difference", heat),
    ]
    return picture_grid(rows, title, notes, cell, scale)
