"""A bar chart with spread: horizontal bars from zero, one under the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from onnxvis.errors import UsageError
from onnxvis.render.scale import format_value, nice_ticks
from onnxvis.render.text import GRAY, INK, LINE, draw_lines, elide, font, line_height, text_width, wrap

__all__ = ["Bar", "bar_chart"]

_COLORS = ((52, 101, 164), (196, 118, 36), (74, 142, 83), (143, 88, 150), (120, 124, 130))
_EDGE = 24
_THICK = 16
_PITCH = 26
_SIZE = 13
_TITLE = 19


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: on the left.
        value: its length.
        low: lower end of the spread.
        high: upper end of the spread.
        group: bars of one group stand together under its name and share a color.
        text: behind the bar; the value with the units where it is empty.
    """

    label: str
    value: float
    low: float
    high: float
    group: str = ""
    text: str = ""


def bar_chart(bars: Sequence[Bar], title: str, units: str, notes: Sequence[str] = (), width: int = 900) -> Image.Image:
    """Draw bars on one common axis from zero, with whiskers from ``low`` to ``high``.

    Args:
        bars: at least one; a group's bars stand in their own order.
        title: at the top.
        units: of the axis.
        notes: small lines at the bottom.
        width: of the picture, in pixels.

    Raises:
        UsageError: no bar, or one whose values are negative or out of order.
    """
    if not bars or any(not 0 <= b.low <= b.value <= b.high for b in bars):
        raise UsageError("A bar chart needs bars with 0 <= low <= value <= high.")
    groups = list(dict.fromkeys(bar.group for bar in bars))
    texts = [bar.text or f"{format_value(bar.value)} {units}" for bar in bars]
    left = _EDGE + min(width // 3, round(max(text_width(elide(b.label, _SIZE, width / 3), _SIZE) for b in bars))) + 12
    right = width - _EDGE - min(width // 3, round(max(text_width(t, _SIZE) for t in texts))) - 10
    top = max(bar.high for bar in bars) or 1.0
    lines = [line for note in notes for line in wrap(note, _SIZE, width - 2 * _EDGE)]
    named = sum(bool(group) for group in groups)
    head = _EDGE + line_height(_TITLE) + 12
    body = len(bars) * _PITCH + named * (_PITCH + 6)
    height = head + body + 2 * line_height(_SIZE) + 20 + len(lines) * line_height(_SIZE) + _EDGE
    image = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    draw_lines(draw, (_EDGE, _EDGE), [elide(title, _TITLE, width - 2 * _EDGE)], _TITLE)
    per_pixel = (right - left) / top
    _axis(draw, (left, right), (head, head + body), top, units)
    y = head
    for number, group in enumerate(groups):
        if group:
            draw_lines(draw, (_EDGE, y + 6), [elide(group, _SIZE, width - 2 * _EDGE)], _SIZE)
            y += _PITCH + 6
        for bar, text in zip(bars, texts, strict=True):
            if bar.group == group:
                _bar(draw, bar, text, (left, y), per_pixel, _COLORS[number % len(_COLORS)])
                y += _PITCH
    draw_lines(draw, (_EDGE, head + body + 2 * line_height(_SIZE) + 16), lines, _SIZE, GRAY)
    return image


def _axis(draw: ImageDraw.ImageDraw, across: tuple[int, int], down: tuple[int, int], top: float, units: str) -> None:
    left, right = across
    for tick in nice_ticks(0.0, top, 6):
        x = left + tick / top * (right - left)
        draw.line([(x, down[0]), (x, down[1])], fill=LINE)
        label = format_value(tick)
        draw.text((x - text_width(label, _SIZE) / 2, down[1] + 6), label, font=font(_SIZE, label), fill=GRAY)
    words = elide(units, _SIZE, right - left)
    draw_lines(
        draw, ((left + right - text_width(words, _SIZE)) / 2, down[1] + 6 + line_height(_SIZE)), [words], _SIZE, GRAY
    )


def _bar(
    draw: ImageDraw.ImageDraw,
    bar: Bar,
    text: str,
    at: tuple[int, int],
    per_pixel: float,
    color: tuple[int, int, int],
) -> None:
    left, y = at
    upper = y + (_PITCH - _THICK) / 2
    middle = y + _PITCH / 2
    label = elide(bar.label, _SIZE, left - _EDGE - 12)
    offset = (_PITCH - line_height(_SIZE)) / 2
    draw.text((left - 10 - text_width(label, _SIZE), y + offset), label, font=font(_SIZE, label), fill=INK)
    draw.rectangle([left, upper, left + bar.value * per_pixel, upper + _THICK], fill=color)
    low, high = left + bar.low * per_pixel, left + bar.high * per_pixel
    draw.line([(low, middle), (high, middle)], fill=INK)
    for x in (low, high):
        draw.line([(x, middle - 4), (x, middle + 4)], fill=INK)
    draw.text((high + 8, y + offset), text, font=font(_SIZE, text), fill=INK)
