"""Makes the pictures of docs/behaviour about what is answered from a store: ``python docs/make_behaviour_store.py``.

The data set is cut from four photos of scikit-image (chelsea, coffee, rocket: CC0; astronaut: public domain): crops of
several sizes, which EfficientNet-Lite0 with its ImageNet weights is shown one by one. Concepts are ranges of color.
Needs the ``demo`` and ``index`` extras, and Chromium for the picture of the scatter page.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from onnxvis.cli import main as onnxvis
from onnxvis.demo import lite0

FOLDER = Path(__file__).parent / "images"
LARGEST = 300_000
PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg", "astronaut": "astronaut.png"}
LAYERS = ("hardtanh_4", "add_236", "auto")
COLORS = {1: "dark", 2: "white", 3: "red", 4: "orange", 5: "blue"}


def write_crops(folder: Path) -> None:
    """About fifty crops of each photo, in a folder of its own, with a little overlap."""
    import skimage

    source = Path(skimage.__file__).parent / "data"
    for name, file in PHOTOS.items():
        photo = Image.open(source / file).convert("RGB")
        target = folder / name
        target.mkdir(parents=True)
        for part in (0.9, 0.6, 0.42, 0.3):
            side = round(part * min(photo.size))
            xs, ys = (np.unique(np.arange(0, n - side + 1, max(1, round(side * 0.75)))) for n in photo.size)
            for x in xs:
                for y in ys:
                    photo.crop((x, y, x + side, y + side)).save(target / f"{name}-{side}-{y}-{x}.png")


def write_masks(photos: Path, folder: Path) -> None:
    """A label map for each crop: ranges of hue, saturation and value."""
    for path in photos.rglob("*.png"):
        hue, saturation, value = (np.asarray(c).astype(int) for c in Image.open(path).convert("HSV").split())
        labels = np.zeros(hue.shape, np.uint8)
        labels[value < 50] = 1
        labels[(value > 215) & (saturation < 40)] = 2
        strong = (saturation > 90) & (value >= 60)
        for number, low, high in ((3, -12, 9), (4, 9, 35), (5, 130, 190)):
            turned = np.where(hue > 240, hue - 256, hue)
            labels[strong & (turned >= low) & (turned < high)] = number
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).filter(ImageFilter.MedianFilter(7)).save(target)
    (folder / "concepts.txt").write_text("".join(f"{n} {name}\n" for n, name in COLORS.items()))


def save(image: Image.Image, name: str) -> None:
    """Write a PNG, with fewer colors where it would be too large otherwise."""
    image = image.convert("RGB")
    for colors in (None, 256, 128, 64):
        buffer = io.BytesIO()
        small = image if colors is None else image.quantize(colors, dither=Image.Dither.FLOYDSTEINBERG)
        small.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    (FOLDER / f"{name}.png").write_bytes(buffer.getvalue())
    sys.stdout.write(f"images/{name}.png: {buffer.tell() / 1000:.0f} kB\n")


def run(*arguments: object) -> None:
    """A command of onnxvis, which must succeed."""
    code = onnxvis([str(a) for a in arguments])
    if code:
        raise SystemExit(code)


def photograph(page: Path, name: str, size: tuple[int, int]) -> None:
    """A picture of a page, if there is a browser."""
    browser = next((path for n in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(n))), None)
    if browser is None:
        sys.stdout.write(f"images/{name}.png is left as it was: no Chromium here\n")
        return
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "page.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={scratch}/profile", f"--window-size={size[0]},{size[1]}"]
        command += ["--virtual-time-budget=4000", f"--screenshot={target}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603 - a browser and our own page
        save(Image.open(target), name)


def main() -> int:
    """Index, ask, and keep the pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        photos, masks, store, out = room / "photos", room / "masks", room / "photos.store", room / "out"
        write_crops(photos)
        write_masks(photos, masks)
        layers = [argument for layer in LAYERS for argument in ("--layers", layer)]
        run("index", lite0(), photos, *layers, "--out", store)
        common = ("--per-unit", 7, "--layer", "add_236", "--units", "12,0,16,1,11", "-q")
        run("patches", store, *common, "--out", out / "patches")
        save(Image.open(out / "patches/add_236/sheet-01.png"), "store-patches")
        run("patches", store, "--per-unit", 7, "--layer", "hardtanh_4", "--units", "6,8,9,18", "--masks",
            "--projection", "none", "--out", out / "masks", "-q")  # fmt: skip
        save(Image.open(out / "masks/hardtanh_4/sheet-01.png"), "store-masks")
        run("neighbors", store, photos / "cat" / sorted(p.name for p in (photos / "cat").iterdir())[8], "-k", 7,
            "--out", out / "near", "-q")  # fmt: skip
        save(Image.open(next((out / "near").glob("*.png"))), "store-neighbors")
        run("project", store, "--out", out / "plane", "-q")
        photograph(out / "plane/index.html", "store-scatter", (1180, 780))
        save(Image.open(out / "plane/grid.png"), "store-grid")
        run("dissect", store, masks, "--layer", "hardtanh_4", "--out", out / "dissect", "-q")
        save(Image.open(out / "dissect/hardtanh_4/concepts.png"), "store-dissect")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
