"""`onnxvis patches`: what excites units most over the data set of a store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from onnxvis._version import __version__
from onnxvis.behaviour.opening import model_of
from onnxvis.behaviour.patch_gallery import UnitDrawing, card_of, page_cell, rows_of
from onnxvis.behaviour.patch_pass import LayerPatches, PatchOptions, equal_notes, layer_patches
from onnxvis.behaviour.patches import choose_units
from onnxvis.behaviour.stored import choose_layers, good_rows
from onnxvis.behaviour.tiles import OUTSIDE_NOTE, tile_sheet
from onnxvis.behaviour.unit_page import UnitCard, UnitPage, build_unit_page
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.cli.results import layer_notes, made_line, open_store, own_folder, store_facts, write_result
from onnxvis.names import slug
from onnxvis.progress import Progress
from onnxvis.render import png_bytes

if TYPE_CHECKING:
    from onnxvis.behaviour.index.store import Store
    from onnxvis.model import Model

__all__ = ["PatchJob", "run_patches"]

_UNITS_ON_SHEET = 24
_COUNTED = "all patches of"
_MEASURED = ("at every place", _COUNTED)
_CELL = 96


@dataclass(frozen=True)
class PatchJob:
    """Everything `onnxvis patches` was asked."""

    store: str
    out: Path
    layers: tuple[str, ...]
    options: PatchOptions
    model: Path | None = None
    gradients: str = "auto"
    quiet: bool = False


@dataclass
class _Drawn:
    """One layer: what is kept of it once its sheets are written."""

    layer: str
    cards: list[UnitCard] = field(default_factory=list)
    units: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    unverified: bool = False


def run_patches(job: PatchJob) -> int:
    """Draw, write, and say where. 0, or 130 when interrupted; what is finished is kept."""
    own_folder(job.out, "patches.json")
    store = open_store(job.store)
    good_rows(store)
    model = model_of(store, job.model, job.gradients)
    layers = choose_layers(store, job.layers, model.layer)
    units = {layer: choose_units(job.options.units, store.top(layer)) for layer in layers}
    cell = page_cell(sum(len(chosen) for chosen in units.values()))
    done: list[_Drawn] = []
    code = 0
    with progress_bar(job.quiet) as progress:
        try:
            for layer in layers:
                done.append(_Drawn(layer))
                _layer(job, store, model, units[layer], cell, done[-1], progress)
        except KeyboardInterrupt:
            err.print("\n[yellow]interrupted[/]: what is finished is kept")
            code = 130
    done = [one for one in done if one.units]
    if done:
        _write(job, store, model.name, done)
    return code


def _layer(
    job: PatchJob, store: Store, model: Model, units: list[int], cell: int, drawn: _Drawn, progress: Progress
) -> None:
    """A sheet after the other; only their cards and data stay in memory."""
    folder = job.out / slug(drawn.layer)
    for old in folder.glob("sheet-*.png"):  # those of an earlier run with more units
        old.unlink()
    starts = range(0, len(units), _UNITS_ON_SHEET)
    for number, start in enumerate(starts, start=1):
        progress(f"units of {drawn.layer}", start, len(units))
        part = units[start : start + _UNITS_ON_SHEET]
        found = layer_patches(store, model, drawn.layer, job.options, progress, part)
        drawn.cards += [card_of(drawing, cell) for drawing in found.units]
        drawn.units += [drawing.to_dict() for drawing in found.units]
        # What was counted or measured differs from sheet to sheet: each sheet says its own, the page counts all units
        # and has the agreement of the last.
        drawn.notes = dict.fromkeys([*(n for n in drawn.notes if not n.startswith(_MEASURED)), *found.notes])
        counted = equal_notes([[p["value"] for p in unit["patches"]] for unit in drawn.units])
        drawn.notes = dict.fromkeys([*(n for n in drawn.notes if not n.startswith(_COUNTED)), *counted])
        drawn.unverified |= found.unverified
        title = f"{model.name}: {drawn.layer}" + (f" ({number} of {len(starts)})" if len(starts) > 1 else "")
        _sheet(folder / f"sheet-{number:02}.png", title, found)
    progress(f"units of {drawn.layer}", len(units), len(units))


def _sheet(path: Path, title: str, found: LayerPatches) -> None:
    notes = [f"{note[0].upper()}{note[1:]}." for note in found.notes]
    if any(not p.inside.all() for d in found.units for p in d.unit.patches):
        notes.append(OUTSIDE_NOTE)
    if found.unverified:
        title += " - UNVERIFIED"
    sheet = tile_sheet(rows_of(found.units), title=title, notes=notes, cell=_cell(found.units))
    write_result(path, png_bytes(sheet, Title=title, Software=f"onnxvis {__version__}"))


def _write(job: PatchJob, store: Store, name: str, done: list[_Drawn]) -> None:
    options = job.options
    data: dict[str, Any] = {
        "onnxvis": __version__,
        "store": store.shown,
        "units": options.units,
        "projection": options.projection,
        "mask_share": options.top if options.masks else None,
        "layers": [
            {"layer": one.layer, "notes": list(one.notes), "unverified": one.unverified, "units": one.units}
            for one in done
        ],
    }
    text = json.dumps(data, indent=1, ensure_ascii=False)
    write_result(job.out / "patches.json", text.encode("utf-8", "backslashreplace"))
    page = UnitPage(
        title=f"{name}: what excites its units" + (" - UNVERIFIED" if any(one.unverified for one in done) else ""),
        facts=tuple(store_facts(store)),
        notes=(*layer_notes([(one.layer, one.notes) for one in done]), OUTSIDE_NOTE),
        cards=tuple(card for one in done for card in one.cards),
        made=made_line(),
    )
    write_result(job.out / "index.html", build_unit_page(page).encode("utf-8", "replace"))
    for one in done:
        _say(one)
    out.print(f"page:   {escape(str(job.out / 'index.html'))}")


def _cell(part: list[UnitDrawing]) -> int:
    """The size of a tile: where patches would be drawn at their own small size, twice that."""
    side = max((max(p.pixels.shape[:2]) for d in part for p in d.unit.patches), default=0)
    return 2 * side if 48 < side < 80 else _CELL


def _say(found: _Drawn) -> None:
    out.print(f"[bold]{escape(visible(found.layer))}[/]: {len(found.units)} units")
    for note in found.notes:
        out.print(escape(visible(f"  {note}")))
    if found.unverified:
        err.print("[yellow]unverified[/]: projections that failed their parity check were kept")
