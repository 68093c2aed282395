"""Makes the pictures of ``docs/audit/report.md``: a report on photos of scikit-image, opened in headless Chromium.

EfficientNet-Lite0 with its ImageNet weights on chelsea, coffee (CC0), rocket and astronaut (public domain). Needs the
``demo`` and ``test`` extras and a Chromium: ``PYTHONPATH=tests python docs/audit/report_pictures.py [FOLDER]``.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from support.browser import Page, open_page

import onnxvis
from onnxvis.audit.objects import read_objects
from onnxvis.audit.report import AuditPlan, audit
from onnxvis.demo import lite0, photo

IMAGES = Path(__file__).parent.parent / "images"
LABELS = {"chelsea.png": "tabby", "coffee.png": "espresso", "rocket.jpg": "missile"}
BOXES = {"chelsea.png": [105, 20, 420, 290], "coffee.png": [165, 60, 470, 335]}
METHODS = ("grad-cam", "integrated-gradients", "occlusion")
LARGEST = 290_000


def make(folder: Path) -> Path:
    """The report; an unfinished one in the folder is continued."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for name in (*LABELS, "astronaut.png"):
        (pictures / name).write_bytes(photo(name).read_bytes())
    rows = "\n".join(f'pictures/{name},"{label}"' for name, label in LABELS.items())
    (folder / "labels.csv").write_text(f"path,label\n{rows}\n", encoding="utf-8")
    (folder / "boxes.json").write_text(json.dumps(BOXES), encoding="utf-8")
    plan = AuditPlan(METHODS, objects=read_objects(folder / "boxes.json"))
    given = [str(folder / "labels.csv"), str(pictures / "astronaut.png")]
    command = "onnxvis audit efficientnet-lite0.onnx labels.csv pictures/astronaut.png --boxes boxes.json --out report"
    return audit(onnxvis.load(lite0()), given, folder / "report", plan, command=command).page


def keep(page: Page, name: str, width: int) -> None:
    """A photograph of the window with few colors, so that it stays small."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Image.open(page.screenshot(Path(scratch) / "shot.png")).convert("RGB")
        image.load()
    image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    for colors in (256, 160, 96, 64):
        buffer = io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    (IMAGES / name).write_bytes(buffer.getvalue())


def main() -> None:
    """Make all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    with open_page(make(folder), 1240, 900) as page:
        page.wait("document.getElementById('controls')")
        keep(page, "audit-report-top.png", 1000)
        page.evaluate("document.getElementById('pictures').scrollIntoView()")
        page.wait("document.querySelector('.card[data-drawn]')")
        page.evaluate("new Promise(done => setTimeout(done, 800))")
        keep(page, "audit-report-pictures.png", 1000)
        page.click('.card .map[data-method="0"] button')
        page.key("3")
        page.evaluate("new Promise(done => setTimeout(done, 800))")
        keep(page, "audit-report-zoom.png", 1000)


if __name__ == "__main__":
    main()
