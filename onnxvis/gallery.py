"""Explanations of one model gathered for people: a contact sheet per picture, one HTML page for all."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from onnxvis._version import __version__
from onnxvis.explanation import Explanation
from onnxvis.provenance import versions
from onnxvis.render import Scale, SheetCell, SheetColumn, SheetRow, contact_sheet, has_unseen, heat_layer
from onnxvis.render.page import PageCell, PageData, PageFact, PagePicture, PagePrediction

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["page_data", "page_picture", "sheet"]

_PAGE_PIXELS = 640 * 640


def sheet(by_method: Sequence[Sequence[Explanation]]) -> Image.Image:
    """A contact sheet of one picture: targets as rows, methods as columns, one scale per column.

    Args:
        by_method: for each method the explanations of the same targets, in the same order.
    """
    scales = [column[0].scale(column[1:]) for column in by_method]
    columns = [SheetColumn(c[0].method_title, s, c[0].pixelwise) for c, s in zip(by_method, scales, strict=True)]
    first = by_method[0]
    rows = []
    for number, explanation in enumerate(first):
        picture = explanation.drawable()[0]
        cells = [_sheet_cell(column[number], explanation.target) for column in by_method]
        rows.append(SheetRow(explanation.target, picture, cells, f"score {explanation.score:+.3f}"))
    picture_name = first[0].prepared.picture.name if first[0].prepared.picture else "array"
    notes = [first[0].logits_note]
    return contact_sheet(rows, columns, title=picture_name, notes=notes)


def _sheet_cell(explanation: Explanation, target: str) -> SheetCell:
    picture, values = explanation.drawable()
    own = "" if explanation.target == target else explanation.target
    return SheetCell(values, own, explanation.boxes(picture.shape[:2]))


def page_picture(by_method: Sequence[Sequence[Explanation]]) -> PagePicture:
    """One picture's part of the page: small drawings only, so that many pictures fit into memory."""
    first = by_method[0][0]
    image, _ = first.drawable(_PAGE_PIXELS)
    picture = first.prepared.picture
    full = picture.size if picture else (image.shape[1], image.shape[0])
    shown = (image.shape[1], image.shape[0])
    size = f"{full[0]} x {full[1]} pixels" + (f", shown at {shown[0]} x {shown[1]}" if shown != full else "")
    cells = []
    for column in by_method:
        scale = column[0].scale(column[1:])
        cells += [_cell(e, scale) for e in column]
    return PagePicture(
        name=picture.name if picture else "array",
        image=Image.fromarray(image),
        predictions=[PagePrediction(c.label, c.index, c.logit, c.probability) for c in first.prediction.top],
        cells=cells,
        notes=[first.prediction.note, *first.prepared.notes],
        size_note=size,
    )


def _cell(explanation: Explanation, scale: Scale) -> PageCell:
    _, values = explanation.drawable(_PAGE_PIXELS)
    parity = explanation.parity
    return PageCell(
        method=explanation.method_title,
        target=explanation.target,
        layer=heat_layer(values, scale),
        scale=scale,
        score=f"{explanation.score:+.3f}",
        target_layer=explanation.layer or "",
        layer_reason=explanation.layer_reason,
        parity=parity.sentence() if parity else "no gradient used: only the deployed file ran",
        verified=parity is None or parity.passed,
        notes=[*explanation.notes, explanation.caution],
        unseen=has_unseen(values),
    )


def page_data(model: Model, pictures: Sequence[PagePicture], notes: Sequence[str] = ()) -> PageData:
    """The page of one run."""
    spec = model.preprocessing
    what = model.describe()
    facts = [
        PageFact("File", what["path"] or "(in memory)", f"SHA-256 {model.sha256}"),
        PageFact("Producer", model.producer, f"opset {model.opset}"),
        PageFact("Input", ", ".join(what["inputs"])),
        PageFact("Explained", model.logits.tensor, model.logits.reason),
        PageFact(
            "Preprocessing", spec.summary() if spec else "none: arrays used as they are", spec.source if spec else ""
        ),
        PageFact("Labels", model.labels.source),
        PageFact("Provider", model.provider.name, model.provider.reason),
        PageFact("Versions", ", ".join(f"{k} {v}" for k, v in versions().items())),
    ]
    made = f"onnxvis {__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    return PageData(f"{model.name}: explanations", facts, pictures, list(notes), made)
