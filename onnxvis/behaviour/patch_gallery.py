"""Patches, projections and masks of units as cards of a page, rows of a sheet, and plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxvis.behaviour.patches import Patch, UnitPatches
from onnxvis.behaviour.tiles import Tile, TileRow, tile_uri
from onnxvis.behaviour.unit_page import UnitCard, UnitCell, UnitStrip

__all__ = ["LARGEST_DRAWN", "UnitDrawing", "card_of", "light", "page_cell", "reduced", "rows_of"]

LARGEST_DRAWN = 256
"""Pixels of the longer side beyond which a drawing is kept reduced."""

_RING_FROM = 128


@dataclass
class UnitDrawing:
    """All that is drawn of one unit.

    Attributes:
        unit: its patches.
        projections: of each patch, ``(h, w, 3) uint8`` as the patch; empty where none were asked for.
        masks: of each patch's picture, ``(H, W, 3) uint8``: the input with all but the mask darkened; empty likewise.
        threshold: of the masks.
    """

    unit: UnitPatches
    projections: list[NDArray[np.uint8]] = field(default_factory=list)
    masks: list[NDArray[np.uint8]] = field(default_factory=list)
    threshold: float | None = None

    @property
    def strongest(self) -> float:
        """Value of the strongest place."""
        return self.unit.patches[0].value if self.unit.patches else float("nan")

    def about(self) -> str:
        """One line: how strong, and the threshold."""
        if not self.unit.patches:
            return "never seen"
        values = [p.value for p in self.unit.patches]
        said = f"activation {values[0]:.4g} to {values[-1]:.4g}"
        return said if self.threshold is None else f"{said}, mask above {self.threshold:.4g}"

    def strips(self) -> list[tuple[str, list[Tile]]]:
        """Kinds of pictures with their tiles."""
        patches = self.unit.patches
        tiles = [Tile(p.pixels, f"{p.value:.4g}", p.inside, center=_ring(p)) for p in patches]
        found = [("patches", tiles)]
        if self.projections:
            drawn = zip(self.projections, patches, strict=True)
            found.append(("projection", [Tile(image, "", p.inside) for image, p in drawn]))
        if self.masks:
            found.append(("mask", [Tile(image) for image in self.masks]))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer": self.unit.layer,
            "unit": self.unit.unit,
            "mask_threshold": self.threshold if self.threshold is not None and np.isfinite(self.threshold) else None,
            "patches": [p.to_dict() for p in self.unit.patches],
        }


def rows_of(drawings: Sequence[UnitDrawing]) -> list[TileRow]:
    """Rows of a contact sheet: for each unit its patches, and close below projections and masks."""
    rows = []
    for one in drawings:
        for k, (name, tiles) in enumerate(one.strips()):
            heading = f"unit {one.unit.unit}" if k == 0 else ""
            rows.append(TileRow(heading or name, tiles, tight=k > 0))
    return rows


def page_cell(units: int) -> int:
    """Pixels of a picture's longer side on a page of so many units: the more, the smaller, so that it still opens."""
    return 112 if units <= 60 else 88 if units <= 200 else 64


def card_of(drawing: UnitDrawing, cell: int = 112) -> UnitCard:
    """The card of a unit on the page; pictures of at most ``cell`` pixels a side."""
    unit = drawing.unit
    strips = []
    for name, tiles in drawing.strips():
        cells: list[UnitCell] = []
        for rank, (tile, patch) in enumerate(zip(tiles, unit.patches, strict=True), start=1):
            alt = f"{_KINDS[name]} {rank} of unit {unit.unit}: {patch.name}, activation {patch.value:.4g}"
            cells.append(UnitCell(tile_uri(tile, cell), alt, tile.caption, _details(patch, name)))
        strips.append(UnitStrip(name, tuple(cells)))
    words = " ".join(f"{p.name} {p.label or ''}" for p in unit.patches)
    return UnitCard(unit.layer, f"unit {unit.unit}", unit.unit, drawing.about(), tuple(strips), words)


def reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(h, w, 3) uint8``, smoothly reduced so that no side is longer than :data:`LARGEST_DRAWN`; else as it is."""
    height, width = image.shape[:2]
    factor = LARGEST_DRAWN / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)


def light(patch: Patch) -> Patch:
    """The patch with its pixels reduced as :func:`reduced` does; its boxes are still in pixels of the input."""
    pixels = reduced(patch.pixels)
    if pixels is patch.pixels:
        return patch
    size = (pixels.shape[1], pixels.shape[0])
    inside = Image.fromarray(patch.inside).resize(size, Image.Resampling.NEAREST)
    return replace(patch, pixels=pixels, inside=np.asarray(inside, dtype=np.bool_))


def _ring(patch: Patch) -> tuple[float, float] | None:
    """The center of a patch so large that one does not see which part of it the unit looks at most."""
    wide, high = patch.shown[2] - patch.shown[0], patch.shown[3] - patch.shown[1]
    if max(wide, high) <= _RING_FROM:
        return None
    x, y = patch.center
    return x * patch.pixels.shape[1] / wide, y * patch.pixels.shape[0] / high


_KINDS = {"patches": "patch", "projection": "projection of patch", "mask": "activation mask of picture"}


def _details(patch: Patch, kind: str) -> tuple[str, ...]:
    x0, y0, x1, y1 = patch.picture_box
    shown = "the whole input; what is darkened is outside the mask" if kind == "mask" else f"input box {patch.box}"
    lines = [
        f"{patch.name} (picture {patch.picture})" + (f", {patch.label}" if patch.label else ""),
        f"activation {patch.value:.6g} at row {patch.row}, column {patch.col} of the layer's map",
        f"sees x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} of the picture",
        shown,
    ]
    if not patch.inside.all() and kind != "mask":
        lines.append("hatched: outside the picture")
    return tuple(lines)
