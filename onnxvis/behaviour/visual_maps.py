"""Drawing activations: maps of the strongest units, all on one scale; pictures as rows where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from onnxvis.behaviour.visual_tiles import Tile, TileRow, enlarged, tile_sheet
from onnxvis.render import Scale, heatmap
from onnxvis.render.colorbar import color_bar
from onnxvis.render.scale import format_value

if TYPE_CHECKING:
    from onnxvis.behaviour.activations import Activations

__all__ = ["activation_sheet"]

_SIDE = 100
_COLUMNS = 11
_ALONE, _TOGETHER = 65, 10
_PICTURES = 24


def activation_sheet(
    found: Activations, top: int | None = None, rank: str = "max", units: Sequence[int] | None = None
) -> Image.Image:
    """Draw feature maps, strongest units first, their numbers and strengths under them.

    One picture makes tiles after the picture itself; several make one row each, with the same units as columns. All
    maps share one scale, which the color bar shows. Of many pictures the first 24 are drawn.

    Args:
        found: the activations.
        top: how many units; by default 65 for one picture, 10 for several.
        rank: "max" (largest absolute value) or "mean" (of the absolute values).
        units: these instead of the strongest.
    """
    several = len(found.values) > 1
    count = top or (_TOGETHER if several else _ALONE)
    chosen = list(units) if units else found.strongest(count, rank)
    scale = found.scale(chosen)
    strength = found.strength(rank)
    rows = []
    for k, name in enumerate(found.names[:_PICTURES]):
        tiles = [Tile(_thumbnail(found, k), "picture" if several else name)]
        tiles += [_map(found.values[k][u], scale, f"{u}: {format_value(float(strength[k, u]))}") for u in chosen]
        rows.append(TileRow(tiles, name if several else ""))
    shape = " x ".join(map(str, found.values[0].shape[1:]))
    bar = color_bar(scale, 420, orientation="horizontal")
    return tile_sheet(
        rows,
        columns=_COLUMNS,
        title=f"Activations of {found.layer}: {found.units} units of {shape} places",
        notes=_notes(found, len(chosen), rank, units is not None and bool(units), scale),
        bar=bar,
    )


def _notes(found: Activations, drawn: int, rank: str, asked: bool, scale: Scale) -> list[str]:
    how = {"max": "largest absolute value", "mean": "mean absolute value"}[rank]
    over = "on any of the pictures" if len(found.values) > 1 else "on the picture"
    which = "as asked for" if asked else f"the largest first ({over})"
    hidden = len(found.names) - _PICTURES
    left_out = f"{hidden} more pictures are not drawn; their maps are saved." if hidden > 0 else ""
    sign = "signed, zero-centered" if scale.kind == "diverging" else "from 0"
    return [
        f"{drawn} of {found.units} units, {which}; under each map its unit and its {how}.",
        f"All maps are on one scale, {sign}." + (f" Scale: {scale.note}." if scale.note else ""),
        *([left_out] if left_out else []),
        f"Layer {found.reason}",
        *found.notes,
    ]


def _map(values: np.ndarray, scale: Scale, caption: str) -> Tile:
    drawn = heatmap(values, scale)
    if max(drawn.size) > _SIDE:
        factor = _SIDE / max(drawn.size)
        size = (max(1, round(drawn.width * factor)), max(1, round(drawn.height * factor)))
        return Tile(drawn.resize(size, Image.Resampling.BOX), caption)
    picture = enlarged(np.asarray(drawn), _SIDE)
    if max(picture.size) > _SIDE:  # a whole factor can end above the tile
        picture = picture.resize((min(_SIDE, picture.width), min(_SIDE, picture.height)), Image.Resampling.NEAREST)
    return Tile(picture, caption)


def _thumbnail(found: Activations, k: int) -> Image.Image:
    """What the model saw of the picture, so that maps and picture cover the same."""
    image = Image.fromarray(found.prepared[k].display())
    factor = _SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST)
