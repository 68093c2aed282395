"""Makes the pictures of docs/audit: ``python docs/audit/make_pictures.py [NAME ...]``.

EfficientNet-Lite0 with its ImageNet weights, on photos of scikit-image (chelsea, coffee: CC0; astronaut, rocket:
public domain). Needs the ``demo`` extra; ``compare`` also needs Chromium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import onnxvis
from onnxvis.audit.metrics import measure
from onnxvis.audit.randomization import randomized, stages_of
from onnxvis.cli.console import run
from onnxvis.demo import lite0, photo
from onnxvis.graph.randomize import weight_layers
from onnxvis.methods import get_method
from onnxvis.render import Scale, SheetCell, SheetColumn, SheetRow, contact_sheet

FOLDER = Path(__file__).parents[1] / "images"
LARGEST = 300_000
METHODS = ("grad-cam", "saliency", "guided-backprop", "deconvnet")
COLORS = {"grad-cam": "#1f5fae", "saliency": "#b3541e", "integrated-gradients": "#3b8a5a", "random order": "#888888"}


def randomization() -> Image.Image:
    """Rows: how much of the network is random; columns: methods. Each map divided by its own largest value."""
    model = onnxvis.load(lite0())
    picture: Any = onnxvis.explain(model, photo("chelsea.png"), "grad-cam")
    index = picture.target_index
    layers = weight_layers(model.file.proto, model.logits.tensor)
    groups = stages_of(layers, 5)
    rows = [_maps("trained", model, index)]
    for number in range(1, len(groups) + 1):
        chosen = [layer for group in groups[:number] for layer in group]
        part = len(chosen) / len(layers)
        other = randomized(model, [t for layer in chosen for t in layer.tensors], 0, "permute")
        rows.append(_maps("last layer random" if number == 1 else f"last {part:.0%} random", other, index))
    columns = []
    for name in METHODS:
        cam = name == "grad-cam"
        scale = Scale.for_maps([np.ones((2, 2))], signed=cam, units="part of the largest")
        columns.append(SheetColumn(get_method(name).title, scale, alone=not cam))
    notes = ["each map divided by its own 99.5th percentile", "weights permuted from the last layer down"]
    return contact_sheet(rows, columns, title="The same class, other weights", notes=notes, cell=150)


def _maps(heading: str, model: onnxvis.Model, index: int) -> SheetRow:
    made: list[Any] = [onnxvis.explain(model, photo("chelsea.png"), name, index) for name in METHODS]
    seen, _ = made[0].drawable(200 * 200)
    cells = []
    for one in made:
        values = one.drawable(200 * 200)[1]
        top = float(np.nanpercentile(np.abs(values), 99.5))
        cells.append(SheetCell(np.clip(values / max(top, 1e-30), -1, 1)))
    return SheetRow(heading, seen, cells)


def deletion() -> Image.Image:
    """Insertion and deletion curves of three methods and of a random order."""
    model = onnxvis.load(lite0())
    size, margin = (380, 260), 46
    sheet = Image.new("RGB", (2 * size[0] + 3 * margin, size[1] + 2 * margin + 76), "white")
    draw = ImageDraw.Draw(sheet)
    curves = _curves(model)
    for panel, name in enumerate(("deletion", "insertion")):
        left, top = margin + panel * (size[0] + margin), margin
        draw.rectangle((left, top, left + size[0], top + size[1]), outline="#bbbbbb")
        draw.text((left, top - 22), f"{name}: probability over the part of the pixels", fill="black", font_size=15)
        for x in (0.0, 0.5, 1.0):
            draw.text((left + x * size[0] - 8, top + size[1] + 6), f"{x:g}", fill="#555555", font_size=13)
            draw.text((left - 30, top + (1 - x) * size[1] - 8), f"{x:g}", fill="#555555", font_size=13)
        for k, (label, found) in enumerate(curves.items()):
            points = [(left + x * size[0], top + (1 - y) * size[1]) for x, y in found[name].curve]
            draw.line(points, fill=COLORS[label], width=3)
            place = (left, top + size[1] + 30 + 20 * k)
            draw.text(place, f"{label}: area {found[name].value:.3f}", fill=COLORS[label], font_size=14)
    return sheet


def _curves(model: onnxvis.Model) -> dict[str, Any]:
    import dataclasses

    names = [name for name in COLORS if name != "random order"]
    made: list[Any] = [onnxvis.explain(model, photo("coffee.png"), name) for name in names]
    flat = dataclasses.replace(made[0], attribution=np.ones_like(made[0].attribution))
    found = measure(model, [*made, flat], ["deletion", "insertion"])
    return dict(zip([*names, "random order"], found, strict=True))


def compare() -> Image.Image:
    """The page of `onnxvis compare`: the same file under two preprocessings, seen in Chromium."""
    browser = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if browser is None:
        raise SystemExit("no Chromium was found, which draws this picture")
    with tempfile.TemporaryDirectory() as scratch:
        photos, link = Path(scratch) / "photos", Path(scratch) / "model"
        photos.mkdir()
        for name in ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg"):
            shutil.copy(photo(name), photos / name)
        shutil.copytree(lite0().parent, link)
        file = str(link / "efficientnet-lite0.onnx")
        run(["compare", file, file, str(photos), "--preprocessing-b", "imagenet", "-o", f"{scratch}/out", "-q"])
        page = Path(scratch) / "out" / "index.html"
        text = page.read_text(encoding="utf-8").replace(scratch + "/model/", "")
        page.write_text(text, encoding="utf-8")
        shot = Path(scratch) / "shot.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1180,1790"]
        subprocess.run([browser, *options, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)  # noqa: S603
        return Image.open(shot).convert("RGB").resize((780, 1183), Image.Resampling.LANCZOS)


FIGURES: dict[str, Callable[[], Image.Image]] = {
    "randomization": randomization,
    "deletion": deletion,
    "compare": compare,
}


def save(image: Image.Image, path: Path) -> int:
    """Write a PNG, with a palette where it would be too large otherwise; its size in bytes."""
    for drawn in (image, image.quantize(256), image.quantize(96)):
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


def main(names: list[str]) -> None:
    """Make the pictures that were named, or all."""
    for name in names or list(FIGURES):
        size = save(FIGURES[name](), FOLDER / f"audit-{name}.png")
        print(f"audit-{name}.png {size / 1e3:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
