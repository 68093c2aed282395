"""`onnxvis dissect`: concepts that units detect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from onnxvis._version import __version__
from onnxvis.behaviour.dissect_pass import DissectedLayer, DissectOptions, Drawn, dissect_layer, draw_detections, plain
from onnxvis.behaviour.dissection import Detection, Dissection, csv_lines
from onnxvis.behaviour.label_maps import LabelMaps
from onnxvis.behaviour.opening import model_of, pictures_of
from onnxvis.behaviour.stored import Pictures, choose_layers, good_rows
from onnxvis.behaviour.tiles import Tile, TileRow, tile_sheet, tile_uri
from onnxvis.behaviour.unit_page import UnitCard, UnitCell, UnitPage, UnitStrip, build_unit_page
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.cli.results import layer_notes, made_line, open_store, own_folder, store_facts, write_result
from onnxvis.errors import UsageError
from onnxvis.names import slug
from onnxvis.progress import Progress
from onnxvis.render import png_bytes

if TYPE_CHECKING:
    from onnxvis.behaviour.index.store import Store
    from onnxvis.model import Model

__all__ = ["DissectJob", "run_dissect"]

_CELL = 128
_SHOWN = 12
_LINES_NOTE = "Yellow line: the unit's mask (the rest is darkened); blue line: the concept in the label map."


@dataclass(frozen=True)
class DissectJob:
    """Everything `onnxvis dissect` was asked."""

    store: str
    masks: Path | None
    out: Path
    layers: tuple[str, ...] = ()
    top: float = 0.005
    iou: float = 0.04
    per_concept: int = 4
    per_unit: int = 6
    model: Path | None = None
    quiet: bool = False


def run_dissect(job: DissectJob) -> int:
    """Count, write, and say where. 0, or 130 when interrupted; finished layers are kept."""
    own_folder(job.out, "dissection.json")
    store = open_store(job.store)
    good_rows(store)
    options = DissectOptions(job.top, job.iou)
    maps = _label_maps(store, job.masks)
    model = model_of(store, job.model)
    layers = choose_layers(store, job.layers, model.layer)
    pictures = pictures_of(store, model)
    done: list[tuple[DissectedLayer, list[UnitCard]]] = []
    code = 0
    with progress_bar(job.quiet) as progress:
        try:
            for layer in layers:
                found = dissect_layer(store, model, pictures, layer, maps, options, progress)
                done.append((found, _gallery(job, store, model, pictures, maps, found, progress)))
        except KeyboardInterrupt:
            err.print("\n[yellow]interrupted[/]: finished layers are kept")
            code = 130
    if not done:
        return code
    _write(job, store, model.name, done)
    for found, _ in done:
        _say(found)
    out.print(f"page:   {escape(str(job.out / 'index.html'))}")
    return code


def _label_maps(store: Store, asked: Path | None) -> LabelMaps | None:
    if asked is not None:
        return LabelMaps.open(asked)
    known = store.manifest.get("masks")
    if not known:
        raise UsageError("the store was made without concepts: name a folder of label maps (dissect STORE MASKS).")
    folder = Path(str(known.get("folder", "")))
    return LabelMaps.open(folder) if folder.is_dir() else None


def _gallery(
    job: DissectJob,
    store: Store,
    model: Model,
    pictures: Pictures,
    maps: LabelMaps | None,
    found: DissectedLayer,
    progress: Progress,
) -> list[UnitCard]:
    """Cards of the best units of each concept; concepts with the best detector first. Also a sheet of the best."""
    result = found.result
    best = [result.of_concept(k, job.per_concept) for k in range(len(result.names))]
    detections = [d for units in sorted((b for b in best if b), key=lambda b: -b[0].iou) for d in units]
    drawn = draw_detections(store, model, pictures, maps, result, detections, job.per_unit, progress)
    rows = [_row(d, drawn[d.unit, d.concept]) for d in _one_each(detections)]
    if rows:
        title = f"{model.name}: {result.layer}, the best unit of each concept"
        notes = [_sentence(result, found.pictures), *(f"{n[0].upper()}{n[1:]}." for n in found.notes), _LINES_NOTE]
        sheet = tile_sheet(rows[: 2 * _SHOWN], title=title, notes=notes, cell=_CELL, heading_width=150)
        write_result(job.out / slug(result.layer) / "concepts.png", png_bytes(sheet, Title=title))
    return [_card(d, drawn[d.unit, d.concept], result) for d in detections]


def _one_each(detections: Sequence[Detection]) -> list[Detection]:
    seen: dict[str, Detection] = {}
    for detection in detections:
        seen.setdefault(detection.concept, detection)
    return list(seen.values())


def _row(detection: Detection, images: Sequence[Drawn]) -> TileRow:
    heading = f"{detection.concept}: unit {detection.unit}, IoU {detection.iou:.3f}"
    return TileRow(heading, [Tile(image.pixels, f"{image.value:.3g}") for image in images])


def _card(detection: Detection, images: Sequence[Drawn], result: Dissection) -> UnitCard:
    cells = [
        UnitCell(
            tile_uri(Tile(image.pixels), _CELL),
            f"{image.name} with the mask of unit {detection.unit} and the outline of {detection.concept}",
            f"{image.value:.3g}",
            (image.name, f"activation {image.value:.5g}", _LINES_NOTE),
        )
        for image in images
    ]
    detector = "detector" if detection.iou > result.limit else "below the limit"
    about = f"IoU {detection.iou:.3f}, {detector}; {detection.both:,} of {detection.either:,} pixels"
    return UnitCard(
        group=f"{detection.concept} ({result.layer})",
        heading=f"unit {detection.unit}",
        number=detection.unit,
        about=about,
        strips=(UnitStrip("strongest", tuple(cells)),),
        words=f"{detection.concept} {result.layer}",
    )


def _write(job: DissectJob, store: Store, name: str, done: Sequence[tuple[DissectedLayer, list[UnitCard]]]) -> None:
    results = [found.result for found, _ in done]
    write_result(job.out / "units.csv", csv_lines(results).encode("utf-8", "surrogateescape"))
    data = {"onnxvis": __version__, "store": store.shown, "layers": list(plain([found for found, _ in done]))}
    write_result(
        job.out / "dissection.json", json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    )
    facts = [*store_facts(store), *((f.result.layer, _sentence(f.result, f.pictures)) for f, _ in done)]
    page = UnitPage(
        title=f"{name}: concepts its units detect",
        facts=tuple(facts),
        notes=(*layer_notes([(f.result.layer, f.notes) for f, _ in done]), _LINES_NOTE),
        cards=tuple(card for _, cards in done for card in cards),
        made=made_line(),
    )
    write_result(job.out / "index.html", build_unit_page(page).encode("utf-8", "replace"))


def _sentence(result: Dissection, pictures: int) -> str:
    return (
        f"{len(result.detectors())} of {len(result.thresholds)} units detect {result.unique_detectors()} of "
        f"{len(result.names)} concepts (IoU above {result.limit:g}, {pictures} labeled pictures)"
    )


def _say(found: DissectedLayer) -> None:
    out.print(f"[bold]{escape(visible(found.result.layer))}[/]: {escape(_sentence(found.result, found.pictures))}")
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for d in found.result.ranked()[:_SHOWN]:
        table.add_row(f"{d.iou:.3f}", f"unit {d.unit}", escape(visible(d.concept)))
    out.print(table)
    for note in found.notes:
        out.print(escape(visible(f"  {note}")))
