"""`onnxvis gan`: dissect a generator, switch its units off or on, repair it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table as Screen

from onnxvis.behaviour.gan.dissecting import dissect
from onnxvis.behaviour.gan.dissection import Dissection
from onnxvis.behaviour.gan.drawing import GridRow, before_after, picture_grid
from onnxvis.behaviour.gan.effects import Effects, averaged, measure, random_effects, trunks
from onnxvis.behaviour.gan.gallery import concept_sheet, effects_table, generator_facts, save_page
from onnxvis.behaviour.gan.generator import Generator, open_generator
from onnxvis.behaviour.gan.interventions import Interventions, Region, parse_region
from onnxvis.behaviour.gan.pages import Figure, Section, Table
from onnxvis.behaviour.gan.picking import Picked, pick_units
from onnxvis.behaviour.gan.repairing import artifact_units, repair
from onnxvis.behaviour.gan.segmenters import chosen_segmenter
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.cli.options import parse_numbers, parse_pairs
from onnxvis.cli.results import own_folder
from onnxvis.errors import UsageError
from onnxvis.progress import Progress

__all__ = ["Marking", "Opening", "Wish", "run_dissect", "run_intervention", "run_repair", "show_layers"]

_SHOWN = 8
_DISSECTED = 600
_RANDOM_SETS = 8
_PICKABLE = 64
_NOTICED = 2.0


@dataclass(frozen=True)
class Opening:
    """How the generator is opened."""

    path: Path
    value_range: str | None
    truncation: float | None
    inputs: list[str]
    latent_shape: str | None
    output: str | None
    provider: str | None
    batch_size: int

    def open(self) -> Generator:
        """The generator."""
        shape = parse_numbers(self.latent_shape, "latent-shape")
        return open_generator(
            self.path,
            inputs={name: _array(value) for name, value in _named(self.inputs).items()},
            latent_shape=None if shape is None else [int(n) for n in shape],
            output=self.output,
            value_range=self.value_range,
            truncation=self.truncation,
            provider=self.provider,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class Marking:
    """Who marks concepts."""

    segmenter: str | None
    concepts: str | None
    clusters: int
    preprocessing: str | None
    labels: str | None
    seed: int

    def segmenter_for(self, generator: Generator) -> Any:
        """The segmenter."""
        names = [name.strip() for name in (self.concepts or "").split(",") if name.strip()]
        return chosen_segmenter(
            generator,
            self.segmenter,
            names,
            clusters=self.clusters,
            preprocessing=self.preprocessing,
            labels=self.labels,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Wish:
    """Which units, where, and measured on what."""

    layer: str | None
    units: str | None
    concept: str | None
    top: int
    by: str
    dissection: Path | None
    region: str | None
    samples: int
    value: float | None = None


def show_layers(opening: Opening) -> int:
    """List the feature maps, the chosen one marked."""
    generator = opening.open()
    chosen = generator.layer()
    table = Screen(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "tensor", "units", "places", "operator"):
        table.add_column(heading)
    for row in generator.layers:
        mark = "*" if row.tensor == chosen.tensor else ""
        table.add_row(mark, escape(visible(row.tensor)), str(row.units), f"{row.size[0]} x {row.size[1]}", row.op_type)
    out.print(table)
    out.print(f"* chosen by itself: {escape(chosen.reason)}")
    return 0


def run_dissect(opening: Opening, marking: Marking, layer: str | None, samples: int, folder: Path, quiet: bool) -> int:
    """Dissect, write the page, and list the best units."""
    own_folder(folder, "dissection.json")
    generator = opening.open()
    segmenter = marking.segmenter_for(generator)
    with progress_bar(quiet) as progress:
        found = dissect(
            generator, segmenter, layer, samples=samples, seed=marking.seed, folder=folder, progress=progress
        )
        found.save(folder)
        page = _dissection_page(generator, found, folder, progress)
    _say_ranking(found)
    labeled = len(found.labels())
    out.print(f"{labeled} of {found.units} units agree with a concept above chance (z > {found.needed_z:.1f})")
    out.print(f"page:   {escape(str(page))}")
    return 0


def _dissection_page(generator: Generator, found: Dissection, folder: Path, progress: Progress) -> Path:
    sections = []
    for number, concept in enumerate(found.concepts):
        k = found.concept(concept)
        rows = [
            [f"unit {r.unit}", f"{r.iou:.3f}", f"{r.chance:.3f}", f"{r.z:+.1f}", f"{r.threshold:.3g}",
             f"{r.quantile:.1%}", f"{r.quality:.3f}", "yes" if r.above_chance else "no"]
            for r in found.ranked(concept, 10)
        ]  # fmt: skip
        head = ("unit", "IoU", "chance", "z", "threshold", "quantile", "information quality", "above chance")
        chance = "another sample's concept" if found.varies[k] else "independent masks of the same areas"
        notes = [
            found.facts["segmenter"]["concepts"].get(concept, ""),
            f"Marked: {found.area[k]:.1%} of all pixels. Chance: {chance}.",
        ]
        figures = [Figure(concept_sheet(generator, found, concept), f"The best units for {concept}")]
        sections.append(Section(concept, [n for n in notes if n], [Table(head, rows)], figures))
        progress("galleries", number + 1, len(found.concepts))
    notes = [
        "A unit agrees with a concept where its IoU on held-out samples is above chance at the 1 % level, corrected "
        "for all units and concepts. Agreement is no cause: ablate and insert measure that.",
        f"Segmenter: {found.facts['segmenter']['segmenter']}.",
    ]
    facts = generator_facts(generator, {"Layer": _layer_words(found.facts), "Samples": _sample_words(found.facts)})
    return save_page(folder, f"{generator.name}: dissection", facts, sections, found.manifest(), notes)


def _layer_words(facts: Any) -> str:
    layer = facts["layer"]
    return f"{layer['tensor']}, {layer['units']} units; {layer['reason'] or 'asked for'}"


def _sample_words(facts: Any) -> str:
    first, second = facts["samples"]["thresholds"], facts["samples"]["held_out"]
    held_out = f"{second[0]} to {second[1] - 1} are held out"
    return f"{first[0]} to {first[1] - 1} choose thresholds, {held_out}; seed {facts['seed']}; {facts['counted']}"


def _say_ranking(found: Dissection) -> None:
    table = Screen(box=None, padding=(0, 2, 0, 0))
    for heading in ("concept", "area", "units above chance", "best units (IoU, chance)"):
        table.add_column(heading)
    for k, concept in enumerate(found.concepts):
        best = ", ".join(f"{r.unit} ({r.iou:.2f}, {r.chance:.2f})" for r in found.ranked(concept, 3) if r.above_chance)
        count = int(found.above_chance[:, k].sum())
        table.add_row(escape(visible(concept)), f"{found.area[k]:.1%}", str(count), best or "none")
    out.print(table)


def run_intervention(kind: str, opening: Opening, marking: Marking, wish: Wish, folder: Path, quiet: bool) -> int:
    """Ablate or insert units: measure, compare with random units, write the page."""
    if (wish.units is None) == (wish.concept is None):
        raise UsageError("say which units: either --units NUMBERS or --concept NAME.")
    if wish.value is not None and not np.isfinite(wish.value):
        raise UsageError(f"--value takes a finite number, not {wish.value}.")
    own_folder(folder, "manifest.json")
    region = parse_region(wish.region)
    generator = opening.open()
    segmenter = marking.segmenter_for(generator)
    with progress_bar(quiet) as progress:
        found = _dissection(generator, segmenter, marking, wish, kind, folder, progress)
        layer = generator.layer(found.layer if found is not None else wish.layer)
        interventions = Interventions(generator, layer)
        first = int(found.facts["samples"]["held_out"][1]) if found is not None else 0
        picked = _picked(interventions, segmenter, found, wish, marking.seed, region, first + wish.samples, progress)
        values = _values(found, wish, layer.units) if kind == "insert" else None
        ids = range(first, first + wish.samples)
        progress("measuring", 0, 2)
        samples = trunks(interventions, segmenter, ids, marking.seed, region)
        chosen = measure(interventions, segmenter, picked.units, samples, values)
        progress("measuring", 1, 2)
        others = None
        if len(picked.units) <= layer.units - len(picked.units):
            others = averaged(
                random_effects(
                    interventions, segmenter, picked.units, samples, values, sets=_RANDOM_SETS, seed=marking.seed
                )
            )
        progress("measuring", 2, 2)
    page = _intervention_page(kind, interventions, picked, chosen, others, values, ids, marking, wish, folder)
    for note in interventions.notes:
        err.print(escape(note))
    out.print(f"units:  {', '.join(map(str, picked.units))}")
    _say_effects(kind, chosen, others, wish.concept)
    out.print(f"page:   {escape(str(page))}")
    return 0


def _dissection(
    generator: Generator, segmenter: Any, marking: Marking, wish: Wish, kind: str, folder: Path, progress: Progress
) -> Dissection | None:
    """The finished one, or a new one where the wish needs it."""
    needed = wish.concept is not None
    if kind == "insert" and wish.value is None and not needed and wish.dissection is None:
        raise UsageError("insertion needs a value: --value NUMBER, or --concept (its conditional means).")
    if wish.dissection is not None:
        found = Dissection.load(wish.dissection)
        theirs = found.facts["generator"]["sha256"]
        if theirs != generator.file.sha256:
            raise UsageError(f"{wish.dissection} is a dissection of another file (SHA-256 {theirs[:12]}...).")
        if wish.concept is not None and wish.concept not in segmenter.concepts:
            raise UsageError(
                f"the segmenter marks {', '.join(segmenter.concepts)}, not {wish.concept!r}. Give the options of the "
                f"dissection again (it was made with {found.facts['segmenter']['segmenter']})."
            )
        if wish.layer is not None and generator.layer(wish.layer).tensor != found.layer:
            raise UsageError(f"{wish.dissection} is a dissection of layer {found.layer!r}; leave --layer out.")
        return found
    if not needed:
        return None
    made = dissect(
        generator, segmenter, wish.layer, samples=_DISSECTED, seed=marking.seed, folder=folder, progress=progress
    )
    made.save(folder)
    return made


def _picked(
    interventions: Interventions, segmenter: Any, found: Dissection | None, wish: Wish, seed: int, region: Region,
    free: int, progress: Progress,
) -> Picked:  # fmt: skip
    if wish.units is not None:
        return Picked(tuple(_whole_numbers(wish.units, "units")), "as given")
    assert found is not None
    assert wish.concept is not None
    ids = range(free, free + _PICKABLE)  # others than those that the effect is measured on
    return pick_units(
        interventions, segmenter, found, wish.concept, wish.top, wish.by, ids=ids, seed=seed, region=region,
        progress=progress,
    )  # fmt: skip


def _values(found: Dissection | None, wish: Wish, units: int) -> np.ndarray:
    if wish.value is not None:
        return np.full(units, wish.value)
    assert found is not None
    if wish.concept is None:
        raise UsageError("say with --concept whose conditional means are inserted, or give --value.")
    return found.values(wish.concept)


def _intervention_page(
    kind: str, interventions: Interventions, picked: Picked, chosen: Effects, others: Effects | None,
    values: np.ndarray | None, ids: range, marking: Marking, wish: Wish, folder: Path,
) -> Path:  # fmt: skip
    generator, shown = interventions.generator, list(ids[:_SHOWN])
    mask = interventions.mask(picked.units, chosen.region)
    sections = []
    states = [("off", interventions.values())]
    if values is not None:
        states.append(("on", interventions.values(values)))
    for state, value in reversed(states):
        before, after = interventions.pictures(shown, marking.seed, mask, value)
        title = f"{len(picked.units)} units {state}" + (f": {wish.concept}" if wish.concept else "")
        where = "" if chosen.region.whole else f" in the region {chosen.region}"
        sheet = before_after(
            before, after, shown, title, [f"Units {', '.join(map(str, picked.units))} {state}{where}."]
        )
        sections.append(Section(title, figures=[Figure(sheet, f"Before, after, difference: units {state}{where}")]))
    concepts = [wish.concept, *(c for c in chosen.concepts if c != wish.concept)] if wish.concept else chosen.concepts
    table = effects_table(chosen, others, [c for c in concepts if c is not None])
    notes = ["Random units: as many others, averaged over 8 sets drawn by seed."] if others is not None else []
    sections.insert(0, Section("What changed", notes, [table]))
    facts = generator_facts(
        generator,
        {
            "Layer": f"{interventions.layer}; {interventions.layer.reason or 'as dissected or asked for'}",
            "Units": f"{', '.join(map(str, picked.units))}: {picked.reason}",
            "Samples": f"{ids[0]} to {ids[-1]}, seed {marking.seed}",
            "Region": f"{chosen.region} (top, left, bottom, right)",
        },
    )
    manifest = {
        "kind": kind, "generator": generator.describe(), "layer": interventions.layer.tensor, "picked": picked.reason,
        "seed": marking.seed, "samples": [ids[0], ids[-1] + 1], "chosen": chosen.to_dict(),
        "random": others.to_dict() if others is not None else None,
        "values": None if values is None else [float(v) for v in values],
    }  # fmt: skip
    return save_page(folder, f"{generator.name}: {kind}", facts, sections, manifest, interventions.notes)


def _say_effects(kind: str, chosen: Effects, others: Effects | None, concept: str | None) -> None:
    table = Screen(box=None, padding=(0, 2, 0, 0))
    columns: list[tuple[str, Callable[[Effects, str], tuple[float, float]]]] = [("loss", Effects.drop)]
    if kind == "insert":
        columns = [("gain", Effects.gain), ("ACE", Effects.ace)]
    for heading in ("concept", "presence", *(h for name, _ in columns for h in (name, f"{name}, random units"))):
        table.add_column(heading)
    for name in [concept] if concept else chosen.concepts:
        k = chosen.concepts.index(name)
        row = [escape(visible(name)), f"{chosen.base[:, k].mean():.4f}"]
        for _, read in columns:
            for effects in (chosen, others):
                row.append("" if effects is None else "{:+.4f} ± {:.4f}".format(*read(effects, name)))
        table.add_row(*row)
    out.print(table)


def run_repair(
    opening: Opening, layer: str | None, bad: str | None, units: str | None, top: int, region: str | None, seed: int,
    target: Path, quiet: bool,
) -> int:  # fmt: skip
    """Write the repaired generator, or numbered samples to pick spoiled ones from."""
    if bad is not None and units is not None:
        raise UsageError("say either --bad (samples) or --units.")
    if target.exists() and opening.path.exists() and target.resolve() == opening.path.resolve():
        raise UsageError(f"{target} is the generator itself; choose another file with --out.")
    generator = opening.open()
    folder = target.with_name(f"{target.stem}-pictures")
    if bad is None and units is None:
        return _show_samples(generator, seed, folder)
    chosen = generator.layer(layer)
    tables = []
    numbers = _whole_numbers(bad, "bad") if bad is not None else []
    if bad is not None:
        ranked = artifact_units(generator, chosen.tensor, numbers, seed=seed)[:top]
        taken = [row.unit for row in ranked if row.z > _NOTICED]
        if not taken:
            raise UsageError(
                f"no unit fires more in these samples than in others (largest z {ranked[0].z:.1f}): pick more of them, "
                "or another layer."
            )
        rows = [[f"unit {r.unit}", f"{r.bad:.4g}", f"{r.good:.4g}", f"{r.z:+.1f}"] for r in ranked]
        tables = [Table(("unit", "mean in spoiled", "mean in others", "z"), rows, "How much more units fire")]
    else:
        taken = _whole_numbers(str(units), "units")
    with progress_bar(quiet) as progress:
        progress("repairing", 0, 1)
        repaired = repair(generator, chosen.tensor, taken, region=parse_region(region), seed=seed)
        path = repaired.save(target)
    sections = [Section("Units switched off", [", ".join(map(str, taken))], tables)]
    interventions = Interventions(generator, chosen)
    mask = interventions.mask(taken, parse_region(region))
    shown = {
        "Spoiled samples": numbers[:_SHOWN],
        "Other samples": [i for i in range(_PICKABLE) if i not in numbers][:_SHOWN],
    }
    for heading, ids in shown.items():
        if ids:
            before, after = interventions.pictures(ids, seed, mask, interventions.values())
            sheet = before_after(before, after, ids, heading)
            sections.append(Section(heading, figures=[Figure(sheet, f"{heading}: before, after, difference")]))
    same = "the same bits" if repaired.difference == 0 else f"the same up to {repaired.difference:.1e}"
    note = f"The repaired file gives {same} as the intervention (8 samples)."
    facts = generator_facts(generator, {"Layer": str(chosen), "Repaired file": str(path)})
    manifest = {"kind": "repair", "generator": generator.describe(), **repaired.record, "bad": numbers}
    page = save_page(folder, f"{generator.name}: repair", facts, sections, manifest, [note])
    out.print(f"written: {escape(str(path))} ({path.stat().st_size / 1e6:.1f} MB), {len(taken)} units off: {taken}")
    out.print(note)
    out.print(f"page:   {escape(str(page))}")
    return 0


def _show_samples(generator: Generator, seed: int, folder: Path) -> int:
    pictures = np.concatenate([s.pictures for s in generator.stream(range(_PICKABLE), seed)])
    rows = [
        GridRow(f"{i} to {i + 7}", list(pictures[i : i + 8]), [str(n) for n in range(i, i + 8)])
        for i in range(0, len(pictures), 8)
    ]
    sheet = picture_grid(rows, f"Samples of {generator.name}, seed {seed}")
    section = Section(
        "Samples", ["Pick spoiled ones by their numbers: --bad 3,17,92"], figures=[Figure(sheet, "Numbered samples")]
    )
    manifest = {"kind": "samples", "generator": generator.describe(), "seed": seed}
    page = save_page(folder, f"{generator.name}: samples", generator_facts(generator, {}), [section], manifest)
    out.print(f"no samples were picked yet: look at {escape(str(page))} and call again with --bad NUMBERS")
    return 0


def _whole_numbers(text: str, name: str) -> list[int]:
    numbers = parse_numbers(text, name) or ()
    if any(n != int(n) or n < 0 for n in numbers):
        raise UsageError(f"--{name} takes whole numbers separated by commas, not {text!r}.")
    return [int(n) for n in dict.fromkeys(numbers)]


def _named(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` of inputs, whose names are kept as they are."""
    names = [pair.partition("=")[0].strip() for pair in pairs]
    return dict(zip(names, parse_pairs(pairs).values(), strict=True)) if pairs else {}


def _array(value: Any) -> Any:
    """A number, or numbers separated by commas."""
    if isinstance(value, str):
        numbers = parse_numbers(value, "input") or ()
        return np.array(numbers)
    return value
