"""Makes the pictures of the documentation: ``python docs/make_pictures.py [NAME ...]``.

EfficientNet-Lite0 with its ImageNet weights explains two photos of scikit-image (chelsea: CC0; coffee: CC0).
Needs the ``demo`` extra. Each figure is one row of :data:`FIGURES`; without names all of them are made.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import onnxvis
from onnxvis.demo import lite0, photo
from onnxvis.render import SheetCell, SheetColumn, SheetRow, contact_sheet
from onnxvis.render.colormap import DIVERGING, SEQUENTIAL

FOLDER = Path(__file__).parent / "images"
LARGEST = 300_000
CELL = 216


@dataclass(frozen=True)
class Panel:
    """One map of a figure.

    Attributes:
        method: name of the method.
        title: over its column, the method's own title if left out.
        options: of the method; ``layer`` may be among them.
    """

    method: str
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One picture file: maps as columns, (photo, target) as rows.

    Attributes:
        name: file name without ending.
        panels: the columns.
        rows: what is explained on which photo; columns of one method share a scale over all rows.
    """

    name: str
    panels: Sequence[Panel]
    rows: Sequence[tuple[str, str]] = (("chelsea.png", "top1"), ("coffee.png", "top1"))


FIGURES = (
    Figure(
        "gradients",
        (
            Panel("saliency"),
            Panel("smoothgrad"),
            Panel("integrated-gradients", options={"baseline": "blur", "steps": 64}),
        ),
    ),
    Figure(
        "units",
        (
            Panel("zfnet-deconvnet", "After block 3, 56 x 56", {"layer": "add_140"}),
            Panel("zfnet-deconvnet", "After block 5, 28 x 28", {"layer": "add_236"}),
            Panel("zfnet-deconvnet", "After block 7, 14 x 14", {"layer": "add_332"}),
        ),
    ),
    Figure(
        "cam",
        (
            Panel("cam", options={"box": True}),
            Panel("grad-cam++"),
            Panel("layer-cam"),
            Panel("score-cam"),
            Panel("ablation-cam"),
        ),
    ),
    Figure(
        "cam-classes",
        (Panel("cam"), Panel("grad-cam++"), Panel("eigen-cam")),
        (("coffee.png", "espresso"), ("coffee.png", "wooden spoon"), ("coffee.png", "espresso - cup")),
    ),
    Figure(
        "cam-layers",
        tuple(
            Panel(method, f"{title}, 14 x 14", {"layer": "hardtanh_21"})
            for method, title in (("grad-cam", "Grad-CAM"), ("hires-cam", "HiResCAM"), ("layer-cam", "LayerCAM"))
        ),
    ),
    Figure(
        "occlusion",
        (
            Panel("occlusion", "Window 64, black", {"window": 64, "stride": 8, "baseline": -0.992}),
            Panel("occlusion", "Window 32, black", {"window": 32, "stride": 8, "baseline": -0.992}),
            Panel("occlusion", "Window 32, rim mean", {"window": 32, "stride": 8, "baseline": "local-mean"}),
            Panel("occlusion", "Window 16, rim mean", {"window": 16, "stride": 8, "baseline": "local-mean"}),
        ),
    ),
    Figure("rules", (Panel("saliency"), Panel("guided-backprop"), Panel("deconvnet"))),
    Figure(
        "guided-grad-cam",
        (Panel("guided-backprop"), Panel("grad-cam", options={"relu": True}), Panel("guided-grad-cam")),
    ),
)


def explanations(model: onnxvis.Model, figure: Figure) -> list[list[onnxvis.Explanation]]:
    """For each row of the figure one explanation of each panel."""
    photos = [photo(name) for name, _ in figure.rows]
    targets = [target for _, target in figure.rows]
    columns = [onnxvis.explain(model, photos, panel.method, targets, **panel.options) for panel in figure.panels]
    return [list(row) for row in zip(*columns, strict=True)]


def draw(figure: Figure, rows: Sequence[Sequence[onnxvis.Explanation]]) -> Image.Image:
    """The part of each photo that the model sees: photos as rows, methods as columns, one scale per column."""
    columns = []
    for number, panel in enumerate(figure.panels):
        column = [row[number] for row in rows]
        columns.append(
            SheetColumn(panel.title or column[0].method_title, column[0].scale(column[1:]), column[0].pixelwise)
        )
    drawn = []
    for row, (name, _) in zip(rows, figure.rows, strict=True):
        one_target = len({one.target for one in row}) == 1
        heading, caption = (row[0].target, f"score {row[0].score:+.2f}") if one_target else (name, "")
        cells = [_cell(one, "" if one_target else one.target) for one in row]
        drawn.append(SheetRow(heading, _seen(row[0].drawable()[0], row[0]), cells, caption))
    return contact_sheet(drawn, columns, cell=CELL, most_columns=len(columns))


def _cell(one: onnxvis.Explanation, caption: str) -> SheetCell:
    picture, values = one.drawable()
    left, top = one.prepared.geometry.visible_box[:2]
    boxes = [(x0 - left, y0 - top, x1 - left, y1 - top) for x0, y0, x1, y1 in one.boxes(picture.shape[:2])]
    return SheetCell(_seen(values, one), caption, boxes)


def _seen(array: np.ndarray, one: onnxvis.Explanation) -> np.ndarray:
    x0, y0, x1, y1 = (round(edge) for edge in one.prepared.geometry.visible_box)
    return array[y0:y1, x0:x1]


def save(image: Image.Image, path: Path) -> int:
    """Write a PNG, with a palette where it would be too large otherwise; its size in bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    if buffer.tell() > LARGEST:
        buffer = io.BytesIO()
        _with_palette(image).save(buffer, "PNG", optimize=True)
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


def _with_palette(image: Image.Image) -> Image.Image:
    """The image in 256 colors: its own, and enough of the two color scales to keep their bars smooth."""
    scales = [colors[::10] for colors in (DIVERGING.opaque, SEQUENTIAL.opaque)]
    photos = image.crop((0, 60, 430, image.height)).quantize(100).getpalette()
    whole = image.quantize(103).getpalette()
    own = np.array([*(photos or []), *(whole or [])]).reshape(-1, 3)
    palette = np.concatenate([np.full((1, 3), 255), *scales, own])[:256].astype(np.int64)
    colors, places = np.unique(np.asarray(image).reshape(-1, 3), axis=0, return_inverse=True)
    # |a - b|^2 without the term of a alone, which does not change which b is nearest.
    nearest = ((palette**2).sum(axis=1) - 2 * colors.astype(np.int64) @ palette.T).argmin(axis=1)
    drawn = Image.fromarray(nearest[places].reshape(image.height, image.width).astype(np.uint8), "P")
    drawn.putpalette(palette.astype(np.uint8).tobytes())
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the figures that were named, or all."""
    names = [figure.name for figure in FIGURES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"figures to make: {', '.join(names)} (all)")
    wanted = parser.parse_args(arguments).names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        parser.error(f"there is no figure {unknown[0]!r}; the figures: {', '.join(names)}")
    FOLDER.mkdir(exist_ok=True)
    model = onnxvis.load(lite0())
    for figure in FIGURES:
        if wanted and figure.name not in wanted:
            continue
        path = FOLDER / f"{figure.name}.png"
        size = save(draw(figure, explanations(model, figure)), path)
        sys.stdout.write(f"{path.relative_to(FOLDER.parent)}: {size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
