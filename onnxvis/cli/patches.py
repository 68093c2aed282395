"""`onnxvis patches`: what excites units most over the data set of a store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from onnxvis._version import __version__
from onnxvis.behaviour.opening import model_of
from onnxvis.behaviour.patch_gallery import UnitDrawing, card_of, rows_of
from onnxvis.behaviour.patch_pass import LayerPatches, PatchOptions, layer_patches
from onnxvis.behaviour.stored import choose_layers
from onnxvis.behaviour.tiles import OUTSIDE_NOTE, tile_sheet
from onnxvis.behaviour.unit_page import UnitPage, build_unit_page
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.cli.results import made_line, open_store, store_facts, write_file
from onnxvis.names import slug
from onnxvis.render import png_bytes

__all__ = ["PatchJob", "run_patches"]

_UNITS_ON_SHEET = 24
_CELL = 96


@dataclass(frozen=True)
class PatchJob:
    """Everything `onnxvis patches` was asked."""

    store: Path
    out: Path
    layers: tuple[str, ...]
    options: PatchOptions
    model: Path | None = None
    gradients: str = "auto"
    quiet: bool = False


def run_patches(job: PatchJob) -> int:
    """Draw, write, and say where. 0, or 130 when interrupted; finished layers are kept."""
    store = open_store(job.store)
    layers = choose_layers(store, job.layers)
    model = model_of(store, job.model, job.gradients)
    done: list[LayerPatches] = []
    code = 0
    with progress_bar(job.quiet) as progress:
        try:
            for layer in layers:
                found = layer_patches(store, model, layer, job.options, progress)
                _sheets(job.out / slug(layer), model.name, found)
                done.append(found)
        except KeyboardInterrupt:
            err.print("\n[yellow]interrupted[/]: finished layers are kept")
            code = 130
    if not done:
        return code
    _data(job, done)
    page = UnitPage(
        title=f"{model.name}: what excites its units",
        facts=tuple(store_facts(store)),
        notes=(*(f"{one.layer}: {note}." for one in done for note in one.notes), OUTSIDE_NOTE),
        cards=tuple(card_of(drawing) for one in done for drawing in one.units),
        made=made_line(),
    )
    write_file(job.out / "index.html", build_unit_page(page).encode("utf-8", "replace"))
    for one in done:
        _say(one)
    out.print(f"page:   {escape(str(job.out / 'index.html'))}")
    return code


def _sheets(folder: Path, name: str, found: LayerPatches) -> None:
    """Contact sheets of some units each; those of an earlier run with more units are not left behind."""
    for old in folder.glob("sheet-*.png"):
        old.unlink()
    starts = range(0, len(found.units), _UNITS_ON_SHEET)
    for number, start in enumerate(starts, start=1):
        part = found.units[start : start + _UNITS_ON_SHEET]
        title = f"{name}: {found.layer}" + (f" ({number} of {len(starts)})" if len(starts) > 1 else "")
        notes = [f"{note[0].upper()}{note[1:]}." for note in found.notes]
        if any(not p.inside.all() for d in part for p in d.unit.patches):
            notes.append(OUTSIDE_NOTE)
        if found.unverified:
            title += " - UNVERIFIED"
        sheet = tile_sheet(rows_of(part), title=title, notes=notes, cell=_cell(part))
        write_file(folder / f"sheet-{number:02}.png", png_bytes(sheet, Title=title, Software=f"onnxvis {__version__}"))


def _cell(part: list[UnitDrawing]) -> int:
    """The size of a tile: where patches would be drawn at their own small size, twice that."""
    side = max((max(p.pixels.shape[:2]) for d in part for p in d.unit.patches), default=0)
    return 2 * side if 48 < side < 80 else _CELL


def _data(job: PatchJob, done: list[LayerPatches]) -> None:
    options = job.options
    data: dict[str, Any] = {
        "onnxvis": __version__,
        "store": str(job.store),
        "units": options.units,
        "projection": options.projection,
        "mask_share": options.top if options.masks else None,
        "layers": [
            {
                "layer": one.layer,
                "notes": one.notes,
                "unverified": one.unverified,
                "units": [drawing.to_dict() for drawing in one.units],
            }
            for one in done
        ],
    }
    text = json.dumps(data, indent=1, ensure_ascii=False)
    write_file(job.out / "patches.json", text.encode("utf-8", "surrogatepass"))


def _say(found: LayerPatches) -> None:
    out.print(f"[bold]{escape(visible(found.layer))}[/]: {len(found.units)} units")
    for note in found.notes:
        out.print(escape(visible(f"  {note}")))
    if found.unverified:
        err.print("[yellow]unverified[/]: projections that failed their parity check were kept")
