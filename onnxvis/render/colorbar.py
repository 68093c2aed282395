"""The color bar: every color of the scale with its value and the units."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnxvis.errors import UsageError
from onnxvis.render.overlay import color_map_of
from onnxvis.render.scale import Scale, format_value, nice_ticks
from onnxvis.render.text import GRAY, INK, clean, font, line_height, text_width, wrap

__all__ = ["color_bar"]

_EDGE = (120, 124, 130)


def color_bar(
    scale: Scale,
    length: int,
    *,
    orientation: Literal["vertical", "horizontal"] = "vertical",
    thickness: int = 16,
    text_size: int = 13,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """A color bar over the neutral ground of the heat map, its ticks at multiples of 1, 2 or 5.

    An end is drawn as an arrow where values lie beyond it. Positive is up, or right.

    Args:
        scale: limits, kind, units and note.
        length: pixels of the whole bar, arrows and the half labels at its ends included.
        orientation: vertical for beside a picture (labels on the right), horizontal for under it.
        thickness: pixels across the bar.
        text_size: of the labels, in pixels.
        background: the color around the bar.

    Raises:
        UsageError: the length leaves no room for a bar.
    """
    if length < 4 * text_size:
        raise UsageError(f"A color bar of {text_size} px text needs at least {4 * text_size} px; got {length}.")
    draw = _vertical if orientation == "vertical" else _horizontal
    return draw(scale, length, thickness, text_size, background)


def _ramp(scale: Scale, length: int) -> NDArray[np.uint8]:
    """(length, 3): from the lower limit to the upper one."""
    place = np.rint(np.linspace(0, 255, length)).astype(np.intp)
    return np.asarray(color_map_of(scale).opaque[place], np.uint8)


def _labels(scale: Scale, count: int) -> list[tuple[float, str]]:
    ticks = nice_ticks(scale.lo, scale.hi, count)
    return [(t, clean(format_value(t, signed=scale.kind == "diverging"))) for t in ticks]


def _place(scale: Scale, value: float, start: float, stop: float) -> float:
    return start + (value - scale.lo) / (scale.hi - scale.lo) * (stop - start)


def _vertical(
    scale: Scale, length: int, thickness: int, text_size: int, background: tuple[int, int, int]
) -> Image.Image:
    half = line_height(text_size) // 2
    arrow = thickness // 2 + 2
    labels = _labels(scale, max(2, min(7, length // (3 * text_size))))
    wide = max(text_width(label, text_size) for _, label in labels)
    units = wrap(scale.units, text_size, length, most=2)
    gap = line_height(text_size)
    width = round(thickness + 8 + wide + 6 + gap * len(units) + 2)
    image = Image.new("RGB", (width, length), background)
    draw = ImageDraw.Draw(image)
    top, bottom = max(half, arrow), length - 1 - max(half, arrow)
    ramp = _ramp(scale, bottom - top + 1)[::-1]
    image.paste(Image.fromarray(np.repeat(ramp[:, None], thickness, axis=1)), (0, top))
    ends = color_map_of(scale).opaque
    right = thickness - 1
    outline: list[tuple[float, float]] = [(0, top), (0, bottom), (right, bottom), (right, top)]
    if scale.clipped_high:
        tip = (thickness / 2, top - arrow)
        draw.polygon([(0, top - 1), (right, top - 1), tip], fill=tuple(int(c) for c in ends[-1]))
        outline.append(tip)
    if scale.clipped_low:
        tip = (thickness / 2, bottom + arrow)
        draw.polygon([(0, bottom + 1), (right, bottom + 1), tip], fill=tuple(int(c) for c in ends[0]))
        outline.insert(2, tip)
    draw.line([*outline, outline[0]], fill=_EDGE, width=1)
    for value, label in labels:
        y = _place(scale, value, bottom, top)
        draw.line([(right, y), (right + 4, y)], fill=_EDGE)
        draw.text((thickness + 7, y), label, font=font(text_size, label), fill=INK, anchor="lm")
    _write_upward(image, units, text_size, width - gap * len(units) - 1)
    return image


def _write_upward(image: Image.Image, lines: list[str], text_size: int, left: int) -> None:
    """Text that reads from bottom to top, centered along the bar."""
    strip = Image.new("RGB", (image.height, line_height(text_size) * len(lines) + 1), image.getpixel((left, 0)))
    draw = ImageDraw.Draw(strip)
    for k, line in enumerate(lines):
        draw.text(
            (image.height / 2, k * line_height(text_size)),
            line,
            font=font(text_size, line),
            fill=GRAY,
            anchor="ma",
        )
    image.paste(strip.transpose(Image.Transpose.ROTATE_90), (left, 0))


def _fit_count(scale: Scale, length: float, text_size: int) -> list[tuple[float, str]]:
    """As many labels as stand side by side without touching."""
    for count in (7, 5, 4, 3, 2):
        labels = _labels(scale, count)
        room = length / max(1, len(labels))
        if len(labels) >= 2 and max(text_width(t, text_size) for _, t in labels) + text_size <= room:
            return labels
    return _labels(scale, 2)


def _horizontal(
    scale: Scale, length: int, thickness: int, text_size: int, background: tuple[int, int, int]
) -> Image.Image:
    arrow = thickness // 2 + 2
    labels = _fit_count(scale, length, text_size)
    side = max(arrow, *(round(text_width(t, text_size) / 2) + 1 for _, t in labels))
    units = wrap(scale.units, text_size, length, most=2)
    height = thickness + 6 + line_height(text_size) * (1 + len(units))
    image = Image.new("RGB", (length, height), background)
    draw = ImageDraw.Draw(image)
    left, right = side, length - 1 - side
    ramp = _ramp(scale, right - left + 1)
    image.paste(Image.fromarray(np.repeat(ramp[None], thickness, axis=0)), (left, 0))
    ends = color_map_of(scale).opaque
    foot = thickness - 1
    outline: list[tuple[float, float]] = [(left, 0), (right, 0), (right, foot), (left, foot)]
    if scale.clipped_high:
        tip = (right + arrow, thickness / 2)
        draw.polygon([(right + 1, 0), (right + 1, foot), tip], fill=tuple(int(c) for c in ends[-1]))
        outline.insert(2, tip)
    if scale.clipped_low:
        tip = (left - arrow, thickness / 2)
        draw.polygon([(left - 1, 0), (left - 1, foot), tip], fill=tuple(int(c) for c in ends[0]))
        outline.append(tip)
    draw.line([*outline, outline[0]], fill=_EDGE, width=1)
    for value, label in labels:
        x = _place(scale, value, left, right)
        draw.line([(x, foot), (x, foot + 4)], fill=_EDGE)
        draw.text((x, thickness + 5), label, font=font(text_size, label), fill=INK, anchor="ma")
    y = thickness + 6 + line_height(text_size)
    for k, line in enumerate(units):
        draw.text(
            (length / 2, y + k * line_height(text_size)),
            line,
            font=font(text_size, line),
            fill=GRAY,
            anchor="ma",
        )
    return image
