"""Results of dissections and interventions as pictures, pages and files."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onnxvis._version import __version__
from onnxvis.behaviour.gan.dissection import Dissection, RankedUnit
from onnxvis.behaviour.gan.drawing import GridRow, outlined, picture_grid
from onnxvis.behaviour.gan.effects import Effects
from onnxvis.behaviour.gan.generator import Generator
from onnxvis.behaviour.gan.pages import Section, Table, build_gallery
from onnxvis.errors import OutputError
from onnxvis.files import write_atomic
from onnxvis.provenance import versions
from onnxvis.render.png import png_bytes

__all__ = ["concept_sheet", "effects_table", "generator_facts", "made_with", "save_page", "unit_rows", "write_files"]


def made_with() -> str:
    """When and with what something was made."""
    return f"onnxvis {__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def generator_facts(generator: Generator, more: Mapping[str, str]) -> dict[str, str]:
    """The header of a page."""
    what = generator.describe()
    truncation = f"; latents cut at {generator.truncation:g}" if generator.truncation else ""
    return {
        "File": f"{what['path'] or '(in memory)'}, SHA-256 {what['sha256']}",
        "Inputs": "; ".join(what["inputs"]) + truncation,
        "Pictures": f"{generator.output}, {_sides(generator)} {generator.layout}; {generator.range}",
        "Batch": generator.batch_note,
        "Provider": f"{generator.provider.name}: {generator.provider.reason}",
        **more,
        "Versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
    }


def _sides(generator: Generator) -> str:
    return f"{generator.size[1]} x {generator.size[0]}"


def unit_rows(
    generator: Generator, dissection: Dissection, concept: str, count: int = 4, pictures: int = 6, cell: int = 128
) -> list[GridRow]:
    """The strongest held-out samples of the best units of a concept, each with the unit's mask outlined."""
    seed = int(dissection.facts["seed"])
    layer = generator.layer(dissection.layer)
    rows = []
    for ranked in dissection.ranked(concept, count):
        ids = [int(i) for i in dissection.top_ids[ranked.unit][:pictures] if i >= 0]
        found = generator.sample(ids, seed, (layer.tensor,))
        maps = layer.units_first(found.tensors[layer.tensor])[:, ranked.unit]
        drawn = [outlined(p, m, ranked.threshold, cell) for p, m in zip(found.pictures, maps, strict=True)]
        rows.append(GridRow(f"unit {ranked.unit}", drawn, [f"sample {i}" for i in ids], _words(ranked)))
    return rows


def _words(ranked: RankedUnit) -> str:
    chance = "" if ranked.above_chance else "; not above chance"
    return f"IoU {ranked.iou:.3f} (chance {ranked.chance:.3f}, {ranked.z:+.1f} standard errors){chance}"


def concept_sheet(generator: Generator, dissection: Dissection, concept: str, count: int = 4) -> Image.Image:
    """A contact sheet of the best units of a concept."""
    rows = unit_rows(generator, dissection, concept, count)
    meaning = dissection.facts["segmenter"]["concepts"].get(concept, "")
    notes = [
        f"{concept}: {meaning}." if meaning else "",
        "Each unit's strongest held-out samples; outlined: above its threshold.",
    ]
    return picture_grid(rows, f"Units for {concept!r} at {dissection.layer}", [n for n in notes if n])


def effects_table(chosen: Effects, others: Effects | None, concepts: Sequence[str]) -> Table:
    """Presence as it is and the changes by a set, beside those by random units, for some concepts."""
    inserted = chosen.on is not None
    head = ["concept", "presence", "loss by ablation", *(["loss, random units"] if others else [])]
    if inserted:
        head += ["gain by insertion", *(["gain, random units"] if others else []), "ACE"]
    rows = []
    for name in concepts:
        k = chosen.place(name)
        if name != concepts[0] and np.ptp(chosen.base[:, k]) == 0 and not _changed(chosen, k):
            continue  # a place: it is what it is whatever the generator draws
        row = [name, f"{chosen.base[:, k].mean():.4f}", _pair(chosen.drop(name))]
        row += [_pair(others.drop(name))] if others else []
        if inserted:
            row += [_pair(chosen.gain(name)), *([_pair(others.gain(name))] if others else []), _pair(chosen.ace(name))]
        rows.append(row)
    caption = f"Parts of the region's pixels, mean over {len(chosen.base)} samples with its standard error"
    return Table(head, rows, caption)


def _changed(effects: Effects, k: int) -> bool:
    states = [effects.off] if effects.on is None else [effects.off, effects.on]
    return any(not np.array_equal(effects.base[:, k], state[:, k]) for state in states)


def _pair(pair: tuple[float, float]) -> str:
    return f"{pair[0]:+.4f} \N{PLUS-MINUS SIGN} {pair[1]:.4f}"


def save_page(
    folder: Path,
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    manifest: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Path:
    """Write ``index.html``, each figure as a PNG file, and ``manifest.json``, which comes last.

    Raises:
        OutputError: the folder cannot be written.
    """
    files: dict[str, bytes] = {}
    for section in sections:
        for number, figure in enumerate(section.figures):
            files[_file_name(section, number)] = png_bytes(figure.image, Title=figure.caption[:200])
    page = build_gallery(title, facts, sections, notes, made_with())
    files["index.html"] = page.encode("utf-8", "replace")
    listed = {**manifest, "notes": list(notes), "files": sorted(files), "versions": versions()}
    text = json.dumps(listed, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    files["manifest.json"] = text.encode("utf-8", "surrogatepass")
    write_files(folder, files)
    return folder / "index.html"


def _file_name(section: Section, number: int) -> str:
    from onnxvis.names import slug

    base = slug(section.heading)
    return f"{base}.png" if len(section.figures) == 1 else f"{base}-{number + 1}.png"


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomic(folder / name, data)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
