"""Patches, projections and masks of units as cards of a page, rows of a sheet, and plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.patches import Patch, UnitPatches
from onnxvis.behaviour.tiles import Tile, TileRow, tile_uri
from onnxvis.behaviour.unit_page import UnitCard, UnitCell, UnitStrip

__all__ = ["PAGE_CELL", "UnitDrawing", "card_of", "rows_of"]

PAGE_CELL = 112
"""Pixels of a picture's longer side on the page."""

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
        tiles = [Tile(p.pixels, f"{p.value:.4g}", p.inside, center=p.center if _wide(p) else None) for p in patches]
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
            "mask_threshold": self.threshold,
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


def card_of(drawing: UnitDrawing) -> UnitCard:
    """The card of a unit on the page."""
    unit = drawing.unit
    strips = []
    for name, tiles in drawing.strips():
        cells = []
        for rank, (tile, patch) in enumerate(zip(tiles, unit.patches, strict=True), start=1):
            alt = f"{_KINDS[name]} {rank} of unit {unit.unit}: {patch.name}, activation {patch.value:.4g}"
            cells.append(UnitCell(tile_uri(tile, PAGE_CELL), alt, tile.caption, _details(patch, name)))
        strips.append(UnitStrip(name, tuple(cells)))
    words = " ".join(f"{p.name} {p.label or ''}" for p in unit.patches)
    return UnitCard(unit.layer, f"unit {unit.unit}", unit.unit, drawing.about(), tuple(strips), words)


def _wide(patch: Patch) -> bool:
    """A patch so large that one does not see which part of it the unit looks at most."""
    return bool(max(patch.pixels.shape[:2]) > _RING_FROM)


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
