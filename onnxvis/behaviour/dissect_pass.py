"""The counts of Network Dissection for a layer of a store, from the cheapest source that has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.dissection import DETECTOR, ConceptCount, Detection, Dissection
from onnxvis.behaviour.label_maps import LabelMaps, on_input_grid
from onnxvis.behaviour.masks import TOP, Anchors, border, masked_picture, thresholds_note
from onnxvis.behaviour.opening import LayerMaps, input_size, layer_field
from onnxvis.behaviour.rectifiers import bound_notes
from onnxvis.behaviour.stored import Concepts, Pictures, Reader, Row
from onnxvis.errors import PictureError, UsageError
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Geometry

__all__ = ["DissectOptions", "DissectedLayer", "Drawn", "dissect_layer", "draw_detections"]

_CONCEPT_LINE = (64, 224, 255)


@dataclass(frozen=True)
class DissectOptions:
    """How a layer is dissected.

    Attributes:
        top: the part of its activations that a unit's mask keeps.
        limit: IoU above which a unit is a detector.
    """

    top: float = TOP
    limit: float = DETECTOR

    def __post_init__(self) -> None:
        if not 0 < self.top < 1 or not 0 <= self.limit < 1:
            raise UsageError(
                f"--top lies between 0 and 1 and --iou from 0 to below 1, not {self.top} and {self.limit}."
            )


@dataclass
class DissectedLayer:
    """The dissection of a layer, where its counts came from, and what else must be said."""

    result: Dissection
    pictures: int
    notes: list[str] = field(default_factory=list)


def dissect_layer(
    store: Reader,
    model: Model,
    pictures: Pictures,
    layer: str,
    maps: LabelMaps | None,
    options: DissectOptions,
    progress: Progress = silent,
) -> DissectedLayer:
    """How well each unit of a layer covers each concept.

    Taken from the counts of the store's own pass where it saw these label maps at this threshold; else counted from
    the activation maps that the store keeps; else the model is run again on every picture that has a label map.

    Args:
        store: the store.
        model: the model it was made with.
        pictures: opens its pictures.
        layer: one of its layers.
        maps: the label maps; ``None`` asks for the counts of the store's pass.
        options: thresholds.
        progress: told about every picture.

    Raises:
        UsageError: no picture has a label map, or none were given and the store has no counts.
        LayerError: the units of the layer have no place in the picture.
        PictureError: the model has to run, and a picture is gone or has changed.
    """
    counted = _counted(store, layer, maps, options)
    if counted is not None:
        k = len(counted.names)
        both, masked = np.asarray(counted.both)[:, :k], np.asarray(counted.masked)
        either = masked[:, None] + np.asarray(counted.labeled)[None, :k] - both
        result = Dissection(layer, counted.names, counted.thresholds, both, either, options.limit)
        notes = ["counted while the store was made: nothing was run", thresholds_note(1 - counted.quantile)]
        notes += bound_notes(model, layer)
        return DissectedLayer(result, counted.pictures, notes)
    if maps is None:
        raise UsageError(
            "the store was made without concepts, or at another --top: name the folder of label maps "
            "(onnxvis dissect STORE MASKS)."
        )
    return _count(store, model, pictures, layer, maps, options, progress)


def _counted(store: Reader, layer: str, maps: LabelMaps | None, options: DissectOptions) -> Concepts | None:
    """The store's own counts, if they answer exactly this question."""
    known = store.manifest.get("masks")
    if not known:
        return None
    counts = store.iou(layer)
    if counts is None or abs(counts.quantile - (1 - options.top)) > 1e-12 or not known.get("complete"):
        return None
    if maps is not None:
        from onnxvis.behaviour.index.concept_pass import masks_fingerprint

        if masks_fingerprint(maps) != known.get("sha256"):
            return None
    return counts


def _count(
    store: Reader,
    model: Model,
    pictures: Pictures,
    layer: str,
    maps: LabelMaps,
    options: DissectOptions,
    progress: Progress,
) -> DissectedLayer:
    rows = {row.id: row for row in store.pictures() if not row.error}
    files = {id: maps.find(row.path) for id, row in rows.items()}
    labeled = [id for id, file in files.items() if file is not None]
    if not labeled:
        raise UsageError(
            f"no picture of the store has a label map in {maps.folder}: a map is named as its picture, "
            f"{next(iter(rows.values())).path if rows else 'photo.jpg'} -> STEM.png."
        )
    anchors = Anchors(layer_field(model, layer), input_size(model), layer)
    thresholds = np.nan_to_num(store.quantile(layer, 1 - options.top), nan=np.inf)
    count = ConceptCount(thresholds, maps.names, anchors)
    activations = LayerMaps(store, layer, model, pictures)
    problems: list[str] = []
    for number, (id, values) in enumerate(activations(labeled)):
        progress(f"dissecting {layer}", number, len(labeled))
        try:
            labels = label_grid(maps, rows[id], geometry_of(model, pictures, rows[id]))
        except PictureError as error:
            problems.append(str(error))
            continue
        count.add(values, labels)
    progress(f"dissecting {layer}", len(labeled), len(labeled))
    if not count.pictures:
        raise PictureError(f"none of {len(labeled)} label maps could be used; the first: {problems[0]}")
    notes = [activations.source, thresholds_note(options.top), anchors.note, *bound_notes(model, layer)]
    if len(labeled) < len(rows):
        notes.append(f"{len(rows) - len(labeled)} of {len(rows)} pictures have no label map and count nowhere")
    if problems:
        notes.append(f"{len(problems)} label maps could not be used and count nowhere; the first: {problems[0]}")
    return DissectedLayer(count.result(layer, options.limit), count.pictures, notes)


def label_grid(maps: LabelMaps, row: Row, geometry: Geometry) -> NDArray[np.int64]:
    """The label map of a picture on the model's input grid.

    Raises:
        PictureError: it cannot be read, or does not fit the picture.
    """
    file = maps.find(row.path)
    assert file is not None
    return on_input_grid(maps.read(file, geometry.picture_size), geometry)


def geometry_of(model: Model, pictures: Pictures, row: Row) -> Geometry:
    """Where a picture lies in the input, from its size alone: the file need not be there."""
    from onnxvis.preprocessing.plan import place

    spec, shape = model.preprocessing, model.image_input.shape
    if spec is None or len(shape) != 4:
        return pictures.prepared(row.id).geometry
    height, width = (shape[2], shape[3]) if model.layout == "NCHW" else (shape[1], shape[2])
    declared = (height if isinstance(height, int) else None, width if isinstance(width, int) else None)
    return place(spec, (row.height, row.width), declared).geometry


# --- drawing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture with a unit's mask and the outline of a concept: ``(H, W, 3) uint8``, its number and activation."""

    pixels: NDArray[np.uint8]
    picture: int
    name: str
    value: float


def draw_detections(
    store: Reader,
    model: Model,
    pictures: Pictures,
    maps: LabelMaps | None,
    found: Dissection,
    detections: Sequence[Detection],
    per_unit: int = 6,
    progress: Progress = silent,
) -> dict[tuple[int, str], list[Drawn]]:
    """The strongest pictures of each unit with its mask, and the concept outlined where the picture has a label map.

    Args:
        store: the store.
        model: the model it was made with.
        pictures: opens its pictures.
        maps: the label maps, if at hand.
        found: the dissection of the layer.
        detections: which units with which concepts.
        per_unit: pictures of each.
        progress: told about every picture.

    Returns:
        By unit and concept the drawn pictures, the strongest first.
    """
    layer, places = found.layer, store.top(found.layer)
    anchors = Anchors(layer_field(model, layer), input_size(model), layer)
    wanted: dict[int, list[tuple[Detection, float]]] = {}
    for detection in detections:
        for rank in range(min(per_unit, places.values.shape[1])):
            id = int(places.picture[detection.unit, rank])
            if id >= 0:
                wanted.setdefault(id, []).append((detection, float(places.values[detection.unit, rank])))
    drawn: dict[tuple[int, str], list[Drawn]] = {(d.unit, d.concept): [] for d in detections}
    activations = LayerMaps(store, layer, model, pictures)
    for number, (id, values) in enumerate(activations(sorted(wanted))):
        progress(f"drawing {layer}", number, len(wanted))
        prepared = pictures.prepared(id)
        labels = _labels(maps, pictures.row(id), prepared.geometry)
        for detection, value in wanted[id]:
            mask = anchors.masks(values[[detection.unit]], found.thresholds[[detection.unit]])[0]
            image = masked_picture(prepared.display(), mask)
            if labels is not None:
                image[border(labels == found.names.index(detection.concept))] = _CONCEPT_LINE
            drawn[detection.unit, detection.concept].append(Drawn(image, id, pictures.name(id), value))
    progress(f"drawing {layer}", len(wanted), len(wanted))
    return {key: sorted(images, key=lambda d: (-d.value, d.picture)) for key, images in drawn.items()}


def _labels(maps: LabelMaps | None, row: Row, geometry: Geometry) -> NDArray[np.int64] | None:
    if maps is None or maps.find(row.path) is None:
        return None
    try:
        return label_grid(maps, row, geometry)
    except PictureError:
        return None  # counted and said by dissect_layer


def plain(results: Sequence[DissectedLayer]) -> Iterator[dict[str, Any]]:
    """Each layer's dissection as plain values, with its notes."""
    for one in results:
        yield {**one.result.to_dict(), "pictures": one.pictures, "notes": one.notes}
