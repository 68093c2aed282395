"""A SCOUTER file on labelled pictures: accuracy, size of the explanations, and how much of them lies on the object."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.behaviour.scouter.data import Samples
from onnxvis.errors import PictureError, UsageError
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.methods.scouter import class_maps, find_slot_attention
from onnxvis.prediction import logits_of
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["Evaluation", "evaluate", "read_boxes"]

Boxes = Mapping[str, tuple[float, float, float, float]]


@dataclass(frozen=True)
class Evaluation:
    """What was measured. Areas are mean attention of a slot at a place, 0 to 1.

    Attributes:
        pictures: how many were read.
        accuracy: part whose highest logit is the label's.
        per_class: for each class its number of pictures and its accuracy.
        area_label: of the labelled class.
        area_predicted: of the predicted class.
        area_least: of the class with the lowest logit.
        area_all: over all classes.
        precision: part of the attention that lies in the picture's box, as in the paper: of the labelled class, or
            for negative explanations of the class with the lowest logit; ``None`` without boxes.
        precision_chance: what attention spread evenly would have.
        boxed: pictures with a box.
        problems: pictures that could not be read, one sentence each.
    """

    pictures: int
    accuracy: float
    per_class: Mapping[str, tuple[int, float]]
    area_label: float
    area_predicted: float
    area_least: float
    area_all: float
    precision: float | None
    precision_chance: float | None
    boxed: int
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def read_boxes(path: str | os.PathLike[str]) -> dict[str, tuple[float, float, float, float]]:
    """Boxes from a CSV file of lines ``path,x0,y0,x1,y1``: pixels of the picture, paths relative to the file.

    Raises:
        UsageError: the file is missing or malformed.
    """
    file = Path(path)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the boxes {file} cannot be read ({error}).") from None
    if rows and rows[0][0].strip().lower() == "path":
        rows = rows[1:]
    found = {}
    for number, row in enumerate(rows, 1):
        try:
            name, (x0, y0, x1, y1) = row[0].strip(), (float(cell) for cell in row[1:])
        except ValueError:
            raise UsageError(f"{file}, entry {number}: {','.join(row)!r} is not path,x0,y0,x1,y1.") from None
        if not (x0 < x1 and y0 < y1):
            raise UsageError(f"{file}, entry {number}: the box {x0:g},{y0:g},{x1:g},{y1:g} is empty.")
        found[str((file.parent / name).resolve())] = (x0, y0, x1, y1)
    return found


@dataclass
class _Sums:
    """Running sums, so that any number of pictures fits in memory."""

    hits: np.ndarray
    seen: np.ndarray
    areas: np.ndarray
    inside: float = 0.0
    chance: float = 0.0
    boxed: int = 0


def evaluate(
    model: Model,
    samples: Samples,
    boxes: Boxes | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a SCOUTER file.

    Args:
        model: the file, opened.
        samples: labelled pictures; classes are matched to the model's labels by name.
        boxes: by resolved path the object's box in pixels of the picture.
        batch_size: pictures at once.
        progress: called with (stage, done, total).

    Raises:
        ModelError: the file has no slot attention.
        UsageError: a class is not one of the model's.
        PictureError: no picture can be read.
    """
    found = find_slot_attention(model)
    index = _class_index(model, samples, found.classes)
    sums = _Sums(np.zeros(found.classes), np.zeros(found.classes), np.zeros(4))
    problems: list[str] = []
    total = len(samples)
    for start in range(0, total, batch_size):
        progress("pictures", start, total)
        prepared: list[Prepared] = []
        rows = []
        for row in range(start, min(start + batch_size, total)):
            try:
                prepared.append(model.prepare(samples.pictures[row]))
                rows.append(row)
            except PictureError as error:
                problems.append(f"{samples.name(row)}: {error}")
        if not rows:
            continue
        x = np.concatenate([one.tensor for one in prepared])
        tensors = model.engine.forward(x, (model.logits.tensor, found.attention), batch_size)
        attention = tensors[found.attention]
        maps = class_maps(found, attention) / found.slots
        logits = logits_of(model, tensors, len(rows))
        for i, row in enumerate(rows):
            negative = (found.sign or (-1 if logits.max() <= 0 else 1)) < 0
            _count(sums, logits[i], maps[i], index[samples.labels[row]])
            box = (boxes or {}).get(str(Path(str(samples.pictures[row])).resolve())) if boxes else None
            if box is not None:
                chosen = int(logits[i].argmin()) if negative else index[samples.labels[row]]
                _in_box(sums, maps[i, chosen], prepared[i], box)
    progress("pictures", total, total)
    if not sums.seen.sum():
        raise PictureError(f"none of the {total} pictures of {samples.source} can be read. {problems[0]}")
    return _result(sums, model, tuple(problems))


def _class_index(model: Model, samples: Samples, classes: int) -> list[int]:
    names = list(model.labels.names) or [str(i) for i in range(classes)]
    unknown = [name for name in samples.classes if name not in names]
    if unknown:
        raise UsageError(
            f"{samples.source} has a class {unknown[0]!r} that the model does not know; it has {', '.join(names[:10])}."
        )
    return [names.index(name) for name in samples.classes]


def _count(sums: _Sums, logits: np.ndarray, maps: np.ndarray, label: int) -> None:
    predicted, least = int(logits.argmax()), int(logits.argmin())
    sums.seen[label] += 1
    sums.hits[label] += predicted == label
    areas = maps.mean(axis=(1, 2))
    sums.areas += (areas[label], areas[predicted], areas[least], areas.mean())


def _in_box(sums: _Sums, small: np.ndarray, prepared: Prepared, box: tuple[float, float, float, float]) -> None:
    """Attention in the box over all attention, on the part of the picture that the model sees."""
    geometry = prepared.geometry
    width, height = geometry.input_size
    whole = upsample_bilinear(small.astype(np.float32), (height, width)).astype(np.float64)
    x0, y0, x1, y1 = geometry.content_box
    mask = np.outer(*(_cover(box[i::2], axis, geometry, size) for i, axis, size in ((1, 1, height), (0, 0, width))))
    content = np.zeros_like(whole)
    content[y0:y1, x0:x1] = 1
    total = float((whole * content).sum())
    if total <= 0 or not mask.any():
        return
    sums.inside += float((whole * content * mask).sum()) / total
    sums.chance += float((content * mask).sum() / content.sum())
    sums.boxed += 1


def _cover(edges: tuple[float, ...], axis: int, geometry: Any, size: int) -> np.ndarray:
    """How much of each input pixel of an axis lies between two edges of the picture."""
    low, high = (edge * geometry.scale[axis] + geometry.offset[axis] for edge in edges)
    pixels = np.arange(size)
    return np.asarray(np.clip(np.minimum(pixels + 1, high) - np.maximum(pixels, low), 0, 1))


def _result(sums: _Sums, model: Model, problems: tuple[str, ...]) -> Evaluation:
    count = float(sums.seen.sum())
    label, predicted, least, everywhere = (float(v) for v in sums.areas / count)
    per_class = {model.labels.name(i): (int(n), float(sums.hits[i] / n)) for i, n in enumerate(sums.seen) if n}
    return Evaluation(
        pictures=int(count),
        accuracy=float(sums.hits.sum() / count),
        per_class=per_class,
        area_label=label,
        area_predicted=predicted,
        area_least=least,
        area_all=everywhere,
        precision=sums.inside / sums.boxed if sums.boxed else None,
        precision_chance=sums.chance / sums.boxed if sums.boxed else None,
        boxed=sums.boxed,
        problems=problems,
    )
