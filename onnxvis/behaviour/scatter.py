"""An interactive scatter plot of pictures as one HTML page that loads nothing.

The points stand in the page as whole numbers, the pictures as one sprite sheet of bounded size. Names and classes come
from files and are treated as text: the data is a JSON block whose ``<`` are escaped, and the script only ever writes
``textContent`` and draws on a canvas.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxvis.behaviour.thumbnails import Thumbnails
from onnxvis.behaviour.unit_page import safe_page
from onnxvis.render.html import json_block, readable

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["MOST_SPRITE_BYTES", "ScatterPage", "ScatterPoint", "build_scatter_page", "sprite_side", "verdict"]

MOST_SPRITE_BYTES = 8_000_000
"""Largest sprite sheet in bytes before base64; its pictures get smaller until it fits."""

_SPRITE_PIXELS = 9_000_000
_LARGEST_SIDE, _SMALLEST_SIDE = 96, 8
_GRID = 65535
_LONGEST_NAME = 120


@dataclass(frozen=True)
class ScatterPoint:
    """A picture.

    Attributes:
        id: its number in the store.
        name: of its file.
        label: what the data set calls it, if it says.
        predicted: the model's first class, if it has classes.
        score: of that class, as the store has it.
        verdict: "right" or "wrong" where label and prediction can be compared, else "".
    """

    id: int
    name: str
    label: str | None = None
    predicted: str | None = None
    score: float | None = None
    verdict: str = ""


@dataclass(frozen=True, eq=False)
class ScatterPage:
    """A page: points ``(N, 2)`` with y upwards, what each is, its thumbnail, and words around them."""

    title: str
    points: NDArray[np.float64]
    pictures: Sequence[ScatterPoint]
    thumbnails: Thumbnails
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    made: str = ""


def verdict(label: str | None, top: Sequence[tuple[int, str, float]]) -> str:
    """Whether the first class is the label: "right", "wrong", or "" where that cannot be told.

    A label is the class whose name, one of its comma-separated synonyms or index it is, letter case aside.
    """
    if not label or not top:
        return ""
    index, name, _ = top[0]
    words = {str(index), *(part.strip().casefold() for part in name.split(",")), name.strip().casefold()}
    return "right" if label.strip().casefold() in words else "wrong"


def sprite_side(count: int) -> int:
    """Pixels of a side for each of ``count`` thumbnails in the sprite sheet."""
    return max(_SMALLEST_SIDE, min(_LARGEST_SIDE, math.isqrt(_SPRITE_PIXELS // max(1, count))))


def _sprites(thumbnails: Thumbnails) -> tuple[str, int, int]:
    """The sheet as a data address, the side of a sprite and the number of columns."""
    count = len(thumbnails.ids)
    columns = max(1, math.ceil(math.sqrt(count)))
    side = min(thumbnails.side, sprite_side(count))
    while True:
        sheet = Image.new("RGB", (columns * side, math.ceil(count / columns) * side), (128, 128, 128))
        for k in range(count):
            tile = Image.fromarray(np.asarray(thumbnails.pixels[k]))
            tile = tile if side == thumbnails.side else tile.resize((side, side), Image.Resampling.BOX)
            sheet.paste(tile, (k % columns * side, k // columns * side))
        for quality in (86, 72):
            buffer = io.BytesIO()
            # Not "optimize": Pillow then has room for one byte a pixel only, and noise takes more.
            sheet.save(buffer, "JPEG", quality=quality, subsampling=0)
            if buffer.tell() <= MOST_SPRITE_BYTES or side <= _SMALLEST_SIDE:
                uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
                return uri, side, columns
        side = max(_SMALLEST_SIDE, round(side * 0.8))


def _data(page: ScatterPage, side: int, columns: int) -> Markup:
    """The points as JSON that cannot end its script element."""
    low, span = page.points.min(axis=0), np.ptp(page.points, axis=0)
    scale = _GRID / max(float(span.max()), 1e-30)  # one scale for both axes: distances keep their proportions
    centered = (page.points - low - span / 2) * scale
    labels, of_label = _coded([p.label for p in page.pictures])
    classes, of_class = _coded([p.predicted for p in page.pictures])
    data: dict[str, Any] = {
        "x": [round(float(v)) for v in centered[:, 0]],
        "y": [round(float(-v)) for v in centered[:, 1]],
        "id": [p.id for p in page.pictures],
        "name": [readable(p.name, _LONGEST_NAME) for p in page.pictures],
        "label": of_label,
        "predicted": of_class,
        "score": [None if p.score is None else float(f"{p.score:.4g}") for p in page.pictures],
        "verdict": [("", "right", "wrong").index(p.verdict) for p in page.pictures],
        "labels": labels,
        "classes": classes,
        "side": side,
        "columns": columns,
    }
    return json_block(data)


def _coded(values: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """Distinct names, the most frequent first, and for each value its place among them; -1 for none."""
    counts = Counter(value for value in values if value is not None)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    place = {name: k for k, name in enumerate(names)}
    return [readable(n, _LONGEST_NAME) for n in names], [-1 if v is None else place[v] for v in values]


def build_scatter_page(page: ScatterPage) -> str:
    """The page as one string of HTML, to be written as UTF-8."""
    uri, side, columns = _sprites(page.thumbnails)
    values = {
        "page": page,
        "sprites": uri,
        "data": _data(page, side, columns),
        "count": len(page.pictures),
    }
    return safe_page("scatter.html", ["scatter.css"], "scatter.js", page.title, values)
