"""Makes the pictures of docs/behaviour on filters, activations and visualization: ``python docs/make_behaviour.py``.

SqueezeNet 1.1 and EfficientNet-Lite0 with their ImageNet weights; photos of scikit-image (chelsea, coffee: CC0).
Needs the ``test`` extra. Names of figures make only those.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import onnxvis
from onnxvis.behaviour.activations import activations
from onnxvis.behaviour.filters import filters
from onnxvis.behaviour.visual_tiles import Tile, TileRow, tile_sheet
from onnxvis.behaviour.visualization import Stage, Visualization, visualize
from onnxvis.demo import imagenet_labels, lite0, photo

ROOT = Path(__file__).resolve().parent
FOLDER = ROOT / "images"
LARGEST = 300_000
SIDE = 176
CLASSES = {
    "SqueezeNet 1.1": ("goldfinch", "pineapple", "flamingo", "monarch", "zebra"),
    "EfficientNet-Lite0": ("volcano", "zebra", "pineapple", "lemon", "monarch"),
}
UNITS = ("/Concat_1_output_0:{}", "/Concat_3_output_0:{}", "/Concat_5_output_0:{}")


def squeezenet() -> onnxvis.Model:
    """The trained network, blue-green-red inputs."""
    sys.path.insert(0, str(ROOT.parent / "tests"))
    from support.squeezenet import PREPROCESSING, export

    return onnxvis.load(export(), preprocessing=PREPROCESSING, labels=imagenet_labels(), gradients="onnx")


MODELS: Mapping[str, Callable[[], onnxvis.Model]] = {
    "SqueezeNet 1.1": squeezenet,
    "EfficientNet-Lite0": lambda: onnxvis.load(lite0(), gradients="onnx"),
}


def first_layer() -> Image.Image:
    """SqueezeNet's first filters, likes beside each other."""
    return filters(squeezenet()).sheet("cluster")


def depthwise() -> Image.Image:
    """A depthwise layer of EfficientNet-Lite0 with kernels of 5 x 5, strongest first."""
    return filters(onnxvis.load(lite0()), "getitem_30").sheet("norm", most=68)


def maps() -> Image.Image:
    """The cat in SqueezeNet's first layer."""
    return activations(squeezenet(), photo("chelsea.png"), "/conv1/Conv_output_0").sheet(top=21)


def compared() -> Image.Image:
    """The strongest units of the last feature layer on two photos."""
    return activations(squeezenet(), [photo("chelsea.png"), photo("coffee.png")], "/Concat_7_output_0").sheet(top=9)


def unit_overlay() -> Image.Image:
    """The strongest of them over the cat."""
    found = activations(squeezenet(), photo("chelsea.png"), "/Concat_7_output_0")
    return found.overlay(found.strongest(1)[0])


def classes() -> Image.Image:
    """One climb of the default recipe for each class: nothing is chosen by hand but the classes."""
    rows = []
    for name, targets in CLASSES.items():
        found = visualize(MODELS[name](), targets)
        tiles = [_tile(one.best.picture, f"{_short(one)} {one.score:+.0f}") for one in found]
        rows.append(TileRow(tiles, name))
    return tile_sheet(rows, columns=5, notes=["Default recipe, seed 0; the number is the deployed file's logit."])


def stages() -> Image.Image:
    """Both recipes on the way to one class."""
    rows = []
    for name in ("legible", "simonyan"):
        found = visualize(squeezenet(), "goldfinch", recipe=name)[0]
        rows.append(TileRow([_stage(stage) for stage in found.best.stages[1:]], f"{name}, {found.recipe.steps} steps"))
    return tile_sheet(rows, columns=5)


def units() -> Image.Image:
    """Units of three depths: from textures to parts."""
    model = squeezenet()
    rows = []
    for pattern in UNITS:
        layer = pattern.partition(":")[0]
        strongest = activations(model, [photo("chelsea.png"), photo("coffee.png")], layer).strongest(5)
        found = visualize(model, [pattern.format(unit) for unit in strongest], steps=96)
        rows.append(TileRow([_tile(v.best.picture, f"unit {u}") for u, v in zip(strongest, found, strict=True)], layer))
    return tile_sheet(rows, columns=5)


def _short(found: Visualization) -> str:
    return found.target.partition(",")[0]


def _stage(stage: Stage) -> Tile:
    return _tile(stage.picture, f"step {stage.step}: {stage.score:+.0f}")


def _tile(picture: np.ndarray, caption: str) -> Tile:
    return Tile(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS), caption)


FIGURES: Mapping[str, Callable[[], Image.Image]] = {
    "behaviour-first-layer.png": first_layer,
    "behaviour-depthwise.png": depthwise,
    "behaviour-maps.jpg": maps,
    "behaviour-compared.png": compared,
    "behaviour-unit.jpg": unit_overlay,
    "behaviour-classes.jpg": classes,
    "behaviour-stages.jpg": stages,
    "behaviour-units.jpg": units,
}


def save(image: Image.Image, path: Path) -> int:
    """Write a PNG, or a JPEG of the highest quality that is small enough; its size in bytes."""
    for quality in range(92, 40, -4):
        buffer = io.BytesIO()
        if path.suffix == ".png":
            image.save(buffer, "PNG", optimize=True)
        else:
            image.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
        if path.suffix == ".png" or buffer.tell() <= LARGEST:
            break
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the figures that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"figures to make: {', '.join(FIGURES)} (all)")
    wanted = parser.parse_args(arguments).names
    unknown = [name for name in wanted if name not in FIGURES]
    if unknown:
        parser.error(f"there is no figure {unknown[0]!r}; the figures: {', '.join(FIGURES)}")
    FOLDER.mkdir(exist_ok=True)
    for name in wanted or FIGURES:
        path = FOLDER / name
        size = save(FIGURES[name](), path)
        sys.stdout.write(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
