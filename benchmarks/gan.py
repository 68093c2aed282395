"""What the units of a trained generator cause: the tables and pictures of docs/behaviour/gan.md.

Run ``python benchmarks/gan.py [--samples N] [--measured N]`` (minutes on one core). The generator is a DCGAN at
64 x 64 pixels that draws synthetic faces (package ``gan-face-generate``, MIT), exported by both exporters of torch; the
classifier is EfficientNet-Lite0 on the photos of the package ``ai-benchmark``. Every number between the marks of the
page is written again, with the pictures beside it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.fetch import _download  # noqa: E402
from support.gan import export_faces  # noqa: E402

import onnxvis  # noqa: E402
from onnxvis.behaviour.gan import (  # noqa: E402
    Dissection,
    Effects,
    Generator,
    Interventions,
    Region,
    averaged,
    built_in,
    dissect,
    measure,
    open_generator,
    optimized_set,
    random_effects,
    repair,
    trunks,
    unit_ablation,
)
from onnxvis.behaviour.gan.drawing import before_after, picture_grid  # noqa: E402
from onnxvis.behaviour.gan.effects import mean_and_error  # noqa: E402
from onnxvis.behaviour.gan.gallery import unit_rows  # noqa: E402
from onnxvis.demo import cache_folder, imagenet_labels, lite0  # noqa: E402
from onnxvis.machine import describe_machine, peak_memory_mb  # noqa: E402
from onnxvis.render import png_bytes  # noqa: E402

PAGE = ROOT / "docs" / "behaviour" / "gan.md"
IMAGES = ROOT / "docs" / "images"
LARGEST = 300_000
CONCEPTS = ("dark", "bright", "skin-colored", "green", "blue")
UNITS, SETS = 8, 8


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([line(head), line(["---", *["---:"] * (len(head) - 1)]), *map(line, rows)])


def pair(found: tuple[float, float]) -> str:
    return f"{100 * found[0]:+.2f} ± {100 * found[1]:.2f}"


def neutral() -> str:
    """How far the edited graph with a neutral mask is from the file, at every layer of either exporter's file."""
    rows = []
    for exporter in ("legacy", "dynamo"):
        generator = open_generator(export_faces(exporter))  # type: ignore[arg-type]
        gaps: dict[str, list[float]] = {}
        for layer in generator.layers:
            gaps.setdefault(layer.op_type, []).append(Interventions(generator, layer).difference)
        for operator, found in gaps.items():
            how = "the same bits" if max(found) == 0 else f"up to {max(found):.0e} of the largest value"
            rows.append([f"{exporter}: behind {operator}", str(len(found)), how])
    return table(("exporter, place", "layers", "edited graph, neutral mask"), rows)


def cost(generator: Generator, interventions: Interventions) -> str:
    """Processor time of the edited graph and of its tail, beside that of the file."""
    feeds = generator.feeds(range(16), 0)
    mask, value = interventions.mask([3]), interventions.values()
    activation = interventions.trunk(feeds)
    calls = {
        "file": lambda: generator.run(generator.sessions, feeds, (generator.output,)),
        "edited": lambda: interventions.raw(feeds, mask, value),
        "tail": lambda: interventions.tail(activation, feeds, mask, value),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(25):
        for name, call in calls.items():
            began = time.process_time()
            call()
            times[name].append(time.process_time() - began)
    file, edited, tail = (float(np.median(times[name][1:])) for name in calls)
    return (
        f"An intervention through the whole edited graph takes {edited / file:.2f} of the file's own time here, "
        f"through the part behind the layer {tail / file:.2f}."
    )


def agreement(found: Dissection) -> str:
    rows = []
    for name in found.concepts:
        k = found.concept(name)
        best = ", ".join(f"{r.unit} ({r.iou:.2f} / {r.chance:.2f})" for r in found.ranked(name, 3) if r.above_chance)
        rows.append([name, f"{found.area[k]:.1%}", str(int(found.above_chance[:, k].sum())), best or "none"])
    return table(("concept", "area", "units above chance", "best units (IoU / chance)"), rows)


def sets_of(
    found: Dissection, interventions: Interventions, measured: int
) -> tuple[dict[str, dict[str, Effects]], dict[str, tuple[int, ...]]]:
    """Effects of the units of each concept by agreement, by search, and of random ones, on samples of their own."""
    segmenter = built_in(CONCEPTS)
    first = int(found.facts["samples"]["held_out"][1])
    samples = trunks(interventions, segmenter, range(first, first + measured), 0)
    searched = range(first + measured, first + measured + 64)
    effects, optimized = {}, {}
    for name in CONCEPTS:
        values = found.conditional_mean[:, found.concept(name)]
        units = found.top_units(name, UNITS)
        search = optimized_set(interventions, segmenter, name, values, ids=searched, count=UNITS)
        optimized[name] = search.units
        others = random_effects(interventions, segmenter, units, samples, values, sets=SETS)
        effects[name] = {
            "by IoU": measure(interventions, segmenter, units, samples, values),
            "optimized": measure(interventions, segmenter, search.units, samples, values),
            "random": averaged(others),
        }
        print(name, {who: e.ace(name) for who, e in effects[name].items()}, flush=True)
    return effects, optimized


def causes(effects: dict[str, dict[str, Effects]]) -> str:
    rows = []
    for name, sets in effects.items():
        k = sets["random"].concepts.index(name)
        presence = pair(mean_and_error(sets["random"].base[:, k])).lstrip("+")
        rows.append([name, presence, *(pair(sets[who].drop(name)) for who in ("by IoU", "optimized", "random"))])
    lost = table(("ablated", "presence", f"loss: {UNITS} by IoU", f"{UNITS} optimized", f"{UNITS} random"), rows)
    rows = []
    for name, sets in effects.items():
        gains = [pair(sets[who].gain(name)) for who in ("by IoU", "optimized", "random")]
        rows.append([name, *gains, *(pair(sets[who].ace(name)) for who in ("by IoU", "optimized"))])
    head = (
        "inserted",
        f"gain: {UNITS} by IoU",
        f"{UNITS} optimized",
        f"{UNITS} random",
        "ACE, by IoU",
        "ACE, optimized",
    )
    return f"{lost}\n\n{table(head, rows)}"


def growth(found: Dissection, interventions: Interventions, measured: int) -> str:
    """Loss by ablation as the set grows."""
    segmenter = built_in(CONCEPTS)
    first = int(found.facts["samples"]["held_out"][1])
    samples = trunks(interventions, segmenter, range(first, first + measured), 0)
    rows = []
    for count in (1, 2, 4, 8, 16, 32):
        row = [str(count)]
        for name in ("dark", "bright", "green"):
            units = found.top_units(name, count)
            base = samples.base[:, CONCEPTS.index(name)].mean()
            own = measure(interventions, segmenter, units, samples).drop(name)[0] / base
            others = random_effects(interventions, segmenter, units, samples, sets=4)
            row.append(f"{own:.0%} / {averaged(others).drop(name)[0] / base:+.0%}")
        rows.append(row)
    return table(("units off", "dark: top / random", "bright", "green"), rows)


def save(name: str, image: Image.Image) -> None:
    """Fewer colors where the file would be large; the pictures are small, so nobody sees it."""
    data = png_bytes(image)
    if len(data) > LARGEST:
        data = png_bytes(image.quantize(256, dither=Image.Dither.NONE))
    assert len(data) <= LARGEST, (name, len(data))
    (IMAGES / name).write_bytes(data)


def draw(
    generator: Generator, found: Dissection, interventions: Interventions, optimized: dict[str, tuple[int, ...]]
) -> None:
    rows = []
    for name in ("bright", "green", "blue", "dark"):
        row = unit_rows(generator, found, name, 1, 6)[0]
        rows.append(replace(row, heading=f"{name}: {row.heading}"))
    notes = ["Each unit's strongest held-out samples, outlined where it is above its threshold."]
    save("gan-units.png", picture_grid(rows, "Units that agree with a color", notes))
    first = int(found.facts["samples"]["held_out"][1])
    ids = list(range(first, first + 200))
    green = built_in(["green"])
    marked = np.concatenate([green(s.pictures).mean(axis=(1, 2, 3)) for s in generator.stream(ids, 0)])
    most = [ids[i] for i in np.argsort(-marked, kind="stable")[:8]]
    units = found.top_units("green", UNITS)
    before, after = interventions.pictures(most, 0, interventions.mask(units), interventions.values())
    words = [f"Units {', '.join(map(str, units))} off; the 8 of 200 samples with most green."]
    save("gan-ablate.png", before_after(before, after, most, "Green units off", words))
    some = ids[:8]
    values = interventions.values(found.conditional_mean[:, found.concept("green")])
    mask = interventions.mask(optimized["green"], Region(0, 0, 0.5, 1))
    before, after = interventions.pictures(some, 0, mask, values)
    words = [f"Units {', '.join(map(str, optimized['green']))} on in the upper half; the first 8 samples."]
    save("gan-insert.png", before_after(before, after, some, "Green units on, in the upper half", words))


def classifier(photos: int) -> str:
    """Which units EfficientNet-Lite0 needs for which class."""
    folder = photo_folder()
    files = sorted(folder.glob("*.*"))[:photos]
    model = onnxvis.load(lite0(), preprocessing="efficientnet-lite", labels=imagenet_labels(), provider="cpu")
    began = time.perf_counter()
    found = unit_ablation(model, [model.prepare(file) for file in files])
    seconds = time.perf_counter() - began
    rows = []
    for i in found.ranked(8):
        worst = found.by_class(i)[0]
        rows.append(
            [
                str(found.units[i]),
                f"{found.mean_drop[i]:+.3f} ± {found.drop_error[i]:.3f}",
                f"{worst.label.split(',')[0]} ({worst.drop:+.2f}, {worst.pictures} picture(s))",
                f"{found.accuracy_loss[i]:.1%}",
            ]
        )
    small = np.abs(found.mean_drop) < 0.02
    tail = float((found.drops.max(axis=0)[small] > 0.2).mean())
    text = (
        f"{len(found.units)} units at `{found.layer.tensor}`, {len(files)} photos, {len(found.labels)} predicted "
        f"classes, {seconds:.0f} s. Of the {int(small.sum())} units whose mean drop is below 0.02, {tail:.0%} cost "
        "some picture more than 0.2 of its class's logit."
    )
    head = ("unit", "mean drop", "class that loses most", "answers changed")
    return f"{textwrap.fill(text, 120)}\n\n{table(head, rows)}"


def photo_folder() -> Path:
    """The photos of ``ai-benchmark``, unpacked once."""
    folder = cache_folder() / "ai-benchmark-photos"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            with zipfile.ZipFile(_download("ai-benchmark==0.1.2", Path(scratch), [])) as wheel:
                photos = [n for n in wheel.namelist() if "/data/classification/" in n and not n.endswith("/")]
                for name in photos:
                    (Path(scratch) / Path(name).name).write_bytes(wheel.read(name))
            folder.mkdir(parents=True)
            for name in photos:
                shutil.copy(Path(scratch) / Path(name).name, folder)
    return folder


def write(blocks: dict[str, str]) -> None:
    """Put each block between its marks in the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(start, 1)
        text = f"{before}{start}\n{block}\n{end}{rest.split(end, 1)[1]}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--measured", type=int, default=256)
    parser.add_argument("--photos", type=int, default=60)
    given = parser.parse_args()
    generator = open_generator(export_faces())
    dissect(generator, built_in(), samples=300)
    before, began = peak_memory_mb(), time.perf_counter()
    found = dissect(generator, built_in(), samples=given.samples)
    seconds, after = time.perf_counter() - began, peak_memory_mb()
    interventions = Interventions(generator, generator.layer())
    effects, optimized = sets_of(found, interventions, given.measured)
    fixed = repair(generator, None, found.top_units("green", UNITS))
    draw(generator, found, interventions, optimized)
    machine = describe_machine()
    run = (
        f"{given.samples} samples dissected in {seconds:.0f} s ({seconds / given.samples * 1e3:.0f} ms each; "
        f"{machine['processor']}, load {machine.get('load_average')}). Peak memory of the process after 300 samples "
        f"{before or 0:.0f} MB, after {given.samples} {after or 0:.0f} MB. {len(found.labels())} of {found.units} "
        f"units agree with some concept above chance (z > {found.needed_z:.1f}). The generator repaired of its {UNITS} "
        f"green units gives {'the same bits as' if fixed.difference == 0 else 'other bits than'} the intervention."
    )
    write(
        {
            "run": textwrap.fill(run, 120),
            "agreement": agreement(found),
            "causes": causes(effects),
            "growth": growth(found, interventions, given.measured),
            "neutral": neutral(),
            "cost": textwrap.fill(cost(generator, interventions), 120),
            "classifier": classifier(given.photos),
        }
    )
    print(run)


if __name__ == "__main__":
    main()
