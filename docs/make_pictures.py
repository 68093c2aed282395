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

from PIL import Image

import onnxvis
from onnxvis.demo import lite0, photo
from onnxvis.render import SheetCell, SheetColumn, SheetRow, contact_sheet

FOLDER = Path(__file__).parent / "images"
LARGEST = 300_000


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
    Figure("rules", (Panel("saliency"), Panel("guided-backprop"), Panel("deconvnet"))),
    Figure(
        "guided-grad-cam",
        (Panel("guided-backprop"), Panel("grad-cam", options={"relu": True}), Panel("guided-grad-cam")),
        (("coffee.png", "espresso"), ("coffee.png", "wooden spoon")),
    ),
)


def explanations(model: onnxvis.Model, figure: Figure) -> list[list[onnxvis.Explanation]]:
    """For each row of the figure one explanation of each panel."""
    photos = [photo(name) for name, _ in figure.rows]
    targets = [target for _, target in figure.rows]
    columns = [onnxvis.explain(model, photos, panel.method, targets, **panel.options) for panel in figure.panels]
    return [list(row) for row in zip(*columns, strict=True)]


def draw(figure: Figure, rows: Sequence[Sequence[onnxvis.Explanation]]) -> Image.Image:
    """The figure: photos as rows, methods as columns, one scale per column."""
    columns = []
    for number, panel in enumerate(figure.panels):
        column = [row[number] for row in rows]
        columns.append(SheetColumn(panel.title or column[0].method_title, column[0].scale(column[1:])))
    drawn = []
    for row, (name, _) in zip(rows, figure.rows, strict=True):
        target = row[0].target
        cells = []
        for one in row:
            picture, values = one.drawable()
            own = "" if one.target == target else one.target
            cells.append(SheetCell(values, own, one.boxes(picture.shape[:2])))
        drawn.append(SheetRow(target, row[0].drawable()[0], cells, f"score {row[0].score:+.2f}, {name}"))
    return contact_sheet(drawn, columns)


def save(image: Image.Image, path: Path) -> int:
    """Write a PNG, with a palette where it would be too large otherwise; its size in bytes."""
    for attempt in (image, image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)):
        buffer = io.BytesIO()
        attempt.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


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
