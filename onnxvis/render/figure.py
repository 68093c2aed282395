"""One explanation as a finished picture: title, picture, overlay, color bar and notes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from onnxvis.render.boxes import draw_boxes
from onnxvis.render.colorbar import color_bar
from onnxvis.render.fit import Fit, fit_picture, plan_fit, resize_values
from onnxvis.render.overlay import has_unseen, heatmap, overlay
from onnxvis.render.scale import Scale
from onnxvis.render.text import GRAY, INK, LINE, draw_lines, line_height, wrap

__all__ = ["UNSEEN_NOTE", "figure", "scale_note"]

UNSEEN_NOTE = "Hatched: not seen by the model (outside its input)."
_MARGIN = 28
_GAP = 16
_TITLE, _SUBTITLE, _NOTE = 22, 15, 13
_NARROWEST = 460


def scale_note(scale: Scale) -> str:
    """The note of a scale as a sentence; empty where there is none."""
    return f"Scale: {scale.note}." if scale.note else ""


def figure(
    picture: ArrayLike,
    values: ArrayLike,
    scale: Scale,
    *,
    title: str,
    subtitle: str = "",
    notes: Sequence[str] = (),
    side_by_side: bool = True,
    alone: bool = False,
    panel: int = 560,
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> Image.Image:
    """Draw an explanation.

    Args:
        picture: (H, W, 3) uint8, the original picture.
        values: (H, W) float, the map in the pixels of the picture, NaN where the model saw nothing; or a
            smaller map that covers the whole picture.
        scale: which value gets which color; may be shared with other figures.
        title: one line, for example method and target.
        subtitle: one or two lines, for example score and layer.
        notes: further lines under the picture (parity, preprocessing). What the scale, the size and the
            hatching need said is added by itself.
        side_by_side: show the picture itself, too: left of the overlay, or above it where it is wide.
        alone: show the map without the picture, too: for maps of single pixels, which a busy photo hides.
        panel: pixels of the longer side of a panel, at most.
        boxes: edges ``(x0, y0, x1, y1)`` in pixels of ``picture``, drawn on both panels.

    Returns:
        An RGB picture.

    Raises:
        PictureError: the picture is not (H, W, 3) uint8.
        UsageError: the map is not 2-D or larger than the picture.
    """
    rgb = np.asarray(picture)
    wide = rgb.ndim == 3 and rgb.shape[1] > 1.9 * rgb.shape[0]
    most = (panel, 2 * panel + _GAP) if wide and side_by_side else (panel, panel)
    fit = plan_fit(rgb.shape[0], rgb.shape[1], most)
    drawn = fit_picture(rgb, fit)
    over = overlay(drawn, resize_values(values, fit), scale)
    panels = [Image.fromarray(drawn), over] if side_by_side else [over]
    if alone:
        panels.append(heatmap(resize_values(values, fit), scale))
    if boxes:
        scale_xy = (fit.width / rgb.shape[1], fit.height / rgb.shape[0])
        panels = [draw_boxes(one, boxes, scale_xy) for one in panels]
    body = _body(panels, scale, stacked=wide)
    said = [*notes, scale_note(scale), UNSEEN_NOTE if has_unseen(values) else "", _sentence(fit)]
    return _framed(body, title, subtitle, [note for note in said if note])


def _sentence(fit: Fit) -> str:
    return f"{fit.note[0].upper()}{fit.note[1:]}." if fit.note else ""


def _body(panels: Sequence[Image.Image], scale: Scale, *, stacked: bool) -> Image.Image:
    """The panels and the color bar: right of panels side by side, under panels one above the other."""
    w, h = panels[0].size
    if not stacked and h >= 120:
        bar = color_bar(scale, h)
        width = len(panels) * (w + _GAP) + bar.width
        body = Image.new("RGB", (width, h), "white")
        for k, panel in enumerate(panels):
            body.paste(panel, (k * (w + _GAP), 0))
        body.paste(bar, (len(panels) * (w + _GAP), 0))
        return body
    bar = color_bar(scale, min(max(w, 240), 520), orientation="horizontal")
    body = Image.new("RGB", (max(w, bar.width), len(panels) * (h + _GAP) + bar.height), "white")
    for k, panel in enumerate(panels):
        body.paste(panel, (0, k * (h + _GAP)))
    body.paste(bar, (0, len(panels) * (h + _GAP)))
    return body


def _framed(body: Image.Image, title: str, subtitle: str, notes: Sequence[str]) -> Image.Image:
    inner = max(body.width, _NARROWEST)
    heads = wrap(title, _TITLE, inner, most=2)
    subs = wrap(subtitle, _SUBTITLE, inner, most=2)
    feet = [line for note in notes for line in wrap(note, _NOTE, inner, most=3)]
    head = line_height(_TITLE) * len(heads) + line_height(_SUBTITLE) * len(subs) + _GAP
    foot = 2 * _GAP + line_height(_NOTE) * len(feet) if feet else 0
    size = (inner + 2 * _MARGIN, head + body.height + foot + 2 * _MARGIN - _GAP // 2)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    y = _MARGIN - _GAP // 2
    y += draw_lines(draw, (_MARGIN, y), heads, _TITLE, INK)
    y += draw_lines(draw, (_MARGIN, y), subs, _SUBTITLE, GRAY) + _GAP
    image.paste(body, (_MARGIN, y))
    if feet:
        y += body.height + _GAP
        draw.line([(_MARGIN, y), (_MARGIN + inner, y)], fill=LINE)
        draw_lines(draw, (_MARGIN, y + _GAP // 2), feet, _NOTE, GRAY)
    return image
