"""Drawing filters: one colored tile for each unit of a first layer, rows of kernels beyond it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxvis.behaviour.visual_tiles import Tile, TileRow, enlarged, tile_sheet
from onnxvis.errors import UsageError
from onnxvis.render import Scale, heatmap
from onnxvis.render.colorbar import color_bar
from onnxvis.render.scale import format_value

if TYPE_CHECKING:
    from PIL import Image

    from onnxvis.behaviour.filters import Filters

__all__ = ["SCALES", "filter_sheet"]

SCALES = ("filter", "shared")
_TILES, _ROWS, _INPUTS = 256, 32, 16
_TILE_SIDE, _KERNEL_SIDE = 56, 36
_WIDTH = 1100
_GAP = 8


def filter_sheet(found: Filters, sort: str = "number", scale: str = "filter", most: int | None = None) -> Image.Image:
    """Draw filters as a contact sheet.

    Every tile is zero-centered and symmetric: 0 is the neutral color (mid gray in colored tiles), and the largest
    absolute weight is a full color. A unit with one input channel or three colors is one tile; another one is a row
    of kernels, its strongest input channels first.

    Args:
        found: the filters.
        sort: "number", "norm" or "cluster".
        scale: "filter": each filter's own largest weight is a full color; "shared": one scale for all.
        most: units to draw; by default 256 tiles or 32 rows.

    Raises:
        UsageError: a word or number that is not allowed.
    """
    if scale not in SCALES:
        raise UsageError(
            f"filters are drawn on a scale of each filter or a shared one: filter or shared, not {scale!r}."
        )
    single = found.color_order is not None or found.weights.shape[1] == 1
    limit = (_TILES if single else _ROWS) if most is None else most
    if limit < 1:
        raise UsageError(f"at least one filter is drawn, not {limit}.")
    order = found.order(sort)
    units = order[:limit]
    tops = _tops(found, scale)
    rows = [TileRow([_tile(found, u, tops[u]) for u in units])] if single else [_row(found, u, tops[u]) for u in units]
    columns = _WIDTH // (_TILE_SIDE + _GAP) if single else min(_INPUTS, found.weights.shape[1])
    height, width = found.weights.shape[2:]
    title = f"Filters of {found.layer}: {found.units} units, {found.kind}, kernel {height} x {width}"
    bar = None
    if found.color_order is None:
        drawn = Scale(-1.0, 1.0, "diverging", "weight / largest absolute weight of its filter")
        if scale == "shared":
            drawn = Scale(-tops[0], tops[0], "diverging", "weight")
        bar = color_bar(drawn, 420, orientation="horizontal")
    return tile_sheet(rows, columns=columns, title=title, notes=_notes(found, sort, scale, len(units), tops), bar=bar)


def _tops(found: Filters, scale: str) -> list[float]:
    largest = np.abs(found.weights).reshape(found.units, -1).max(axis=1)
    if scale == "shared":
        largest = np.full(found.units, largest.max(initial=0.0))
    return [float(top) or 1.0 for top in largest]


def _tile(found: Filters, unit: int, top: float) -> Tile:
    weights = found.weights[unit] / np.float32(top)
    if found.color_order is not None:
        colors = 0.5 + weights[list(found.color_order)].transpose(1, 2, 0) / 2
        picture = enlarged(np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8), _TILE_SIDE)
    else:
        picture = _kernel(weights[0], _TILE_SIDE)
    return Tile(picture, _mark(found, unit), unit in found.dead)


def _row(found: Filters, unit: int, top: float) -> TileRow:
    kernels = found.weights[unit] / np.float32(top)
    inputs = found.inputs_of(unit)
    strongest = np.argsort(-np.linalg.norm(kernels.reshape(len(kernels), -1), axis=1), kind="stable")[:_INPUTS]
    tiles = [Tile(_kernel(kernels[i], _KERNEL_SIDE), f"{inputs[int(i)]}") for i in strongest]
    norm = f"norm {format_value(float(found.norms[unit]))}"
    return TileRow(tiles, f"unit {unit}, " + ("dead" if unit in found.dead else norm))


def _kernel(values: np.ndarray, side: int) -> Image.Image:
    return enlarged(np.asarray(heatmap(values, Scale(-1.0, 1.0, "diverging", ""))), side)


def _mark(found: Filters, unit: int) -> str:
    return f"{unit} dead" if unit in found.dead else str(unit)


def _notes(found: Filters, sort: str, scale: str, drawn: int, tops: list[float]) -> list[str]:
    """What a reader must know: the normalization, what is left out, what stands out."""
    whose = "of its filter" if scale == "filter" else f"of all filters ({format_value(tops[0])})"
    if found.color_order is not None:
        lines = [f"Zero is mid gray; each color is 0.5 + weight / 2, in units of the largest absolute weight {whose}."]
    else:
        lines = [f"Zero is neutral; a full color is the largest absolute weight {whose}."]
    words = {
        "number": "in the file's order",
        "norm": "largest norm first",
        "cluster": "likes beside each other (cosine)",
    }
    lines.append(f"{drawn} of {found.units} units, {words[sort]}; the number is the unit's.")
    if found.color_order is None and found.weights.shape[1] > 1:
        shown = min(_INPUTS, found.weights.shape[1])
        lines.append(
            f"Of each unit's {found.weights.shape[1]} input channels the {shown} with the largest kernels, strongest "
            "first; the number under a kernel is the input channel's."
        )
    dead, pairs = len(found.dead), len(found.duplicates)
    lines.append(
        f"{dead} dead unit{'s' * (dead != 1)}, {pairs} pair{'s' * (pairs != 1)} of near-duplicates "
        "(cosine beyond 0.99, either sign)."
    )
    return [*lines, *found.notes]
