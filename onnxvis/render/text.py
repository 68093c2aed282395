"""Text in pictures: fonts, measuring, wrapping, and making strings from anywhere safe to draw."""

from __future__ import annotations

import functools
import unicodedata

from PIL import ImageDraw, ImageFont

__all__ = ["GRAY", "INK", "LINE", "clean", "draw_lines", "elide", "font", "line_height", "text_width", "wrap"]

INK = (28, 30, 33)
GRAY = (92, 97, 104)
LINE = (214, 216, 220)

_LONGEST = 2000
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

# What the built-in font lacks but plain letters can say.
_PLAIN = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{RIGHTWARDS ARROW}": "->",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    }
)
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.lru_cache(maxsize=64)
def _face(name: str, size: int) -> Font | None:
    """Pillow's built-in font (no name) or a font of the system; None where the system does not have it."""
    if not name:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@functools.lru_cache(maxsize=8192)
def _has(name: str, character: str) -> bool:
    if character.isascii():
        return True
    probe = _face(name, 20)
    return probe is not None and bytes(probe.getmask(character)) != bytes(probe.getmask("\uffff"))


@functools.lru_cache(maxsize=4096)
def _face_name(text: str) -> str:
    """The font that has most of the letters of the text; the built-in one if it has them all."""
    odd = {c for c in text if not c.isascii()}
    return max(("", *_SYSTEM_FONTS), key=lambda name: sum(_has(name, c) for c in odd)) if odd else ""


def font(size: int, text: str = "") -> Font:
    """A font of this size in pixels for a cleaned text.

    Pillow's built-in one, the same on every machine, unless the text has letters it lacks.
    """
    face = _face(_face_name(text), size)
    assert face is not None
    return face


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return "\N{MIDDLE DOT}" if unicodedata.category(character) in _UNSEEN else character


def _spelled(character: str, face: str) -> str:
    if _has(face, character):
        return character
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return plain if plain.isascii() and plain else f"\\u{ord(character):04x}"


@functools.lru_cache(maxsize=4096)
def clean(text: str) -> str:
    r"""One line that can be drawn: spaces for line breaks, a dot for control and direction characters.

    Letters that neither the built-in font nor a common font of this machine has are written without their
    accents or as their code (``\u65e5``), so labels stay distinguishable. Texts of more than 2,000 characters
    are cut, with an ellipsis.
    """
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
    line = " ".join("".join(_visible(c) for c in text.translate(_PLAIN)).split())
    face = _face_name(line)
    return "".join(_spelled(c, face) for c in line)


def text_width(text: str, size: int) -> float:
    """Width in pixels of a cleaned line."""
    return float(font(size, text).getlength(text))


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return round(size * 1.42)


def elide(text: str, size: int, width: float) -> str:
    """The text, or its beginning with an ellipsis, so that it fits the width in pixels; "" where nothing does."""
    text = clean(text)
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + "\N{HORIZONTAL ELLIPSIS}", size) <= width:
            low = middle
        else:
            high = middle - 1
    short = text[:low].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return short if text_width(short, size) <= width else ""


def wrap(text: str, size: int, width: float, most: int = 3) -> list[str]:
    """At most ``most`` lines that fit the width; words too long are broken, the last line is elided."""
    words = clean(text).split(" ")
    lines: list[str] = []
    while words and len(lines) < most:
        if len(lines) == most - 1:
            lines.append(elide(" ".join(words), size, width))
            break
        line = words.pop(0)
        if text_width(line, size) > width:
            fit = max(1, _fitting(line, size, width))
            line, rest = line[:fit], line[fit:]
            words.insert(0, rest)
        else:
            while words and text_width(f"{line} {words[0]}", size) <= width:
                line += " " + words.pop(0)
        lines.append(line)
    return [line for line in lines if line]


def _fitting(text: str, size: int, width: float) -> int:
    """How many first characters fit the width."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle], size) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def draw_lines(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    lines: list[str],
    size: int,
    color: tuple[int, int, int] = INK,
) -> int:
    """Draw lines under one another from their upper left corner; the height they took, in pixels."""
    for k, line in enumerate(lines):
        draw.text((at[0], at[1] + k * line_height(size)), line, font=font(size, line), fill=color)
    return len(lines) * line_height(size)
