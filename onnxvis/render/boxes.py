"""Boxes on a picture: a bright line inside a dark one, so that it shows on any color."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

__all__ = ["draw_boxes"]

_DARK, _BRIGHT = (20, 24, 28), (255, 255, 255)


def draw_boxes(
    image: Image.Image, boxes: Sequence[tuple[float, float, float, float]], scale: tuple[float, float] = (1.0, 1.0)
) -> Image.Image:
    """A copy of a picture with boxes drawn on it.

    Args:
        image: an RGB picture.
        boxes: edges ``(x0, y0, x1, y1)`` in pixels, before scaling.
        scale: pixels of ``image`` per pixel of the boxes, (x, y).

    Returns:
        An RGB picture of the same size; a box is at least one pixel and kept inside.
    """
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    width = max(1, round(min(image.size) / 200))
    for box in boxes:
        x0, x1 = (min(max(round(x * scale[0]), 0), image.width) for x in (box[0], box[2]))
        y0, y1 = (min(max(round(y * scale[1]), 0), image.height) for y in (box[1], box[3]))
        for grow, color in ((width, _DARK), (0, _BRIGHT)):
            corners = [x0 - grow, y0 - grow, max(x1 - 1, x0) + grow, max(y1 - 1, y0) + grow]
            draw.rectangle(corners, outline=color, width=width + 2 * grow)
    return drawn
