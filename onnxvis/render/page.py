"""One self-contained HTML page: the explanations of some pictures, with all that is needed to judge them.

The page loads nothing, runs only its own script (named by its hash in the content security policy) and treats
every string it is given as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from onnxvis.render.colormap import DIVERGING, SEQUENTIAL
from onnxvis.render.html import house_style, html_environment, own_code, packaged
from onnxvis.render.png import data_uri
from onnxvis.render.scale import Scale, format_value, nice_ticks

__all__ = ["PageCell", "PageData", "PageFact", "PagePicture", "PagePrediction", "build_page"]


@dataclass(frozen=True)
class PageFact:
    """A line of the header: what, its value, and where the value comes from (or another remark)."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class PagePrediction:
    """A line of the table of predictions; ``probability`` in 0..1, None where the model has none."""

    label: str
    index: int
    score: float
    probability: float | None = None


@dataclass(frozen=True, eq=False)
class PageCell:
    """One explanation.

    Attributes:
        method: name of the method; cells of one method stand together.
        target: label of the target.
        layer: an RGBA picture from ``heat_layer``, of the proportions of the picture.
        scale: the scale the layer was drawn on.
        score: the target's score as text, with its units.
        target_layer: the layer the method looked at, or empty.
        layer_reason: why that layer was chosen.
        parity: how well the differentiated model agrees with the deployed one, or why that was not needed.
        verified: False marks the explanation as not to be trusted.
        notes: whatever else must be said.
        unseen: the layer has hatched places.
    """

    method: str
    target: str
    layer: Image.Image
    scale: Scale
    score: str = ""
    target_layer: str = ""
    layer_reason: str = ""
    parity: str = ""
    verified: bool = True
    notes: Sequence[str] = ()
    unseen: bool = False


@dataclass(frozen=True, eq=False)
class PagePicture:
    """A picture with its predictions and explanations; ``size_note`` says if it is shown reduced."""

    name: str
    image: Image.Image
    predictions: Sequence[PagePrediction] = ()
    cells: Sequence[PageCell] = ()
    notes: Sequence[str] = ()
    size_note: str = ""


@dataclass(frozen=True)
class PageData:
    """All of a page.

    Attributes:
        title: heading, for example the file name of the model.
        facts: model, hash, producer, opset, input, preprocessing and its source, provider, versions.
        pictures: in the order they are shown.
        notes: remarks on the whole run.
        made: when and with what the page was made.
    """

    title: str
    facts: Sequence[PageFact] = ()
    pictures: Sequence[PagePicture] = ()
    notes: Sequence[str] = ()
    made: str = ""
    language: str = field(default="en")


@dataclass(frozen=True)
class _Tick:
    x: float
    label: str


def _percent(value: float) -> str:
    if 0 < value < 0.0005:
        return "< 0.05 %"
    return f"{100 * value:.1f} %"


def _ticks(scale: Scale) -> list[_Tick]:
    span = scale.hi - scale.lo
    return [
        _Tick(
            round(20 + 260 * (value - scale.lo) / span, 2),
            format_value(value, signed=scale.kind == "diverging"),
        )
        for value in nice_ticks(scale.lo, scale.hi, 5)
    ]


def _by_method(cells: Sequence[PageCell]) -> list[tuple[str, list[PageCell]]]:
    groups: dict[str, list[PageCell]] = {}
    for cell in cells:
        groups.setdefault(cell.method, []).append(cell)
    return list(groups.items())


def _strip_uri(name: str) -> str:
    """The colors of a scale, 256 x 1, for the color bar."""
    color_map = DIVERGING if name == "diverging" else SEQUENTIAL
    return data_uri(Image.fromarray(color_map.opaque[None]))


def _end(kind: str, end: int) -> str:
    color_map = DIVERGING if kind == "diverging" else SEQUENTIAL
    return "#{:02x}{:02x}{:02x}".format(*color_map.opaque[end])


def _background(index: int, picture: PagePicture) -> str:
    return f".picture-{index} {{ background-image: url({data_uri(picture.image.convert('RGB'))}); }}"


def build_page(data: PageData) -> str:
    """The page as one string of HTML, to be written as UTF-8.

    A content security policy in the page forbids every connection, every script and style but its own two
    (named by their hashes), and every picture that is not part of the page.
    """
    style = "\n".join([house_style(), *(_background(k, p) for k, p in enumerate(data.pictures))])
    values: dict[str, Any] = {
        **own_code(style, packaged("page.js")),
        "title": data.title,
        "language": data.language,
        "data": data,
        "groups": [_by_method(picture.cells) for picture in data.pictures],
        "strips": {kind: _strip_uri(kind) for kind in ("diverging", "sequential")},
        "end": _end,
        "layer_uri": data_uri,
    }
    environment = html_environment(percent=_percent, value=format_value, ticks=_ticks)
    return environment.get_template("page.html").render(values)
