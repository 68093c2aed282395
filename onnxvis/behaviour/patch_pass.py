"""Everything about the units of one layer that `onnxvis patches` draws: patches, projections, masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.masks import TOP, Anchors, masked_picture, thresholds_note
from onnxvis.behaviour.opening import LayerMaps, input_size, layer_field, pictures_of
from onnxvis.behaviour.patch_gallery import UnitDrawing, light, reduced
from onnxvis.behaviour.patches import UnitPatches, choose_units, cut_unit
from onnxvis.behaviour.rectifiers import bound_notes
from onnxvis.behaviour.stored import Pictures, Reader
from onnxvis.behaviour.unit_projection import UnitProjector, drawn_projection
from onnxvis.errors import UsageError
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["LayerPatches", "PatchOptions", "equal_notes", "layer_patches"]

_EQUAL = "all patches of"


@dataclass(frozen=True)
class PatchOptions:
    """What is drawn of each unit.

    Attributes:
        units: "top 20", "0,5,12-15" or "all".
        per_unit: patches of each.
        projection: one of ``unit_projection.PROJECTIONS``, or "none".
        masks: draw the activation masks, too.
        top: the part of its activations that a unit's mask keeps.
        batch_size: pictures at once.
        allow_unverified: keep projections whose parity failed.
    """

    units: str = "top 24"
    per_unit: int = 9
    projection: str = "guided-backprop"
    masks: bool = False
    top: float = TOP
    batch_size: int = 8
    allow_unverified: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.top < 1:
            raise UsageError(f"the part that a mask keeps lies between 0 and 1, not {self.top}.")
        if self.per_unit < 1:
            raise UsageError(f"the number of patches must be at least 1, not {self.per_unit}.")


@dataclass
class LayerPatches:
    """The drawn units of a layer.

    Attributes:
        layer: its name.
        units: drawings, in the order asked for.
        notes: how it was done, one sentence each.
        unverified: a projection failed its parity check and was kept.
    """

    layer: str
    units: list[UnitDrawing]
    notes: list[str]
    unverified: bool = False


def layer_patches(
    store: Reader,
    model: Model,
    layer: str,
    options: PatchOptions,
    progress: Progress = silent,
    units: Sequence[int] | None = None,
) -> LayerPatches:
    """Draw units of one layer. Drawings are kept reduced, so a unit takes a few megabytes at most.

    Args:
        store: the store.
        model: the model it was made with.
        layer: one of the store's.
        options: what to draw.
        progress: told about every unit.
        units: which; ``None`` reads ``options.units``. Many are better drawn a few at a time.

    Raises:
        UsageError: there is no such unit.
        PictureError: a picture is gone or has changed.
        ParityError: a projection does not agree with the store.
    """
    places = store.top(layer)
    units = choose_units(options.units, places) if units is None else units
    pictures = pictures_of(store, model)
    field = layer_field(model, layer)
    found = LayerPatches(layer, [], [])
    if field is None:
        found.notes.append("the units of this layer have no place: the patch is the whole input")
    else:
        found.notes += _field_notes(model, layer)
    found.notes += bound_notes(model, layer)
    kept = places.values.shape[1]
    if options.per_unit > kept and len(store.pictures()) > kept:
        found.notes.append(f"the store keeps {kept} places of a unit, so there are not {options.per_unit} (--top-k)")
    projector = _projector(model, layer, options)
    for number, unit in enumerate(units):
        progress(f"patches of {layer}", number, len(units))
        cut = cut_unit(layer, unit, places, field, pictures, options.per_unit)
        drawing = UnitDrawing(replace(cut, patches=tuple(light(patch) for patch in cut.patches)))
        if projector is not None and cut.patches:
            drawing.projections = _projected(projector, cut, pictures)
        found.units.append(drawing)
    found.notes += equal_notes([[p.value for p in d.unit.patches] for d in found.units])
    if projector is not None:
        found.unverified = projector.unverified
        found.notes += _projection_notes(projector)
    if options.masks and field is None:
        found.notes.append("there are no masks, since the units have no place")
    elif options.masks:
        _mask(store, model, pictures, found, options, progress)
    progress(f"patches of {layer}", len(units), len(units))
    return found


def _field_notes(model: Model, layer: str) -> Iterator[str]:
    field = layer_field(model, layer)
    assert field is not None
    assert field.rows is not None
    assert field.cols is not None
    size = f"{_number(field.cols.size)} x {_number(field.rows.size)}"
    step = f", {_number(field.cols.jump)} x {_number(field.rows.jump)} apart"
    several = max(len(field.rows.support), len(field.cols.support)) > 1
    yield f"a place sees {size} pixels of the input{step if several else ''}; patches are cut by exactly that"
    if not field.exact:
        yield "this field is a hull: a unit may see less of it"
    if field.global_side_path:
        yield "a path from the whole picture reaches the units too; patches leave it out"


def equal_notes(units: Sequence[Sequence[float]]) -> list[str]:
    """Said where the strongest activations of units are all equal: then it is their pictures' numbers that chose them.

    Args:
        units: the activations of each unit's patches.
    """
    equal = [values[0] for values in units if len(values) > 1 and len(set(values)) == 1]
    silent_units = equal.count(0.0)
    notes = []
    if silent_units:
        notes.append(f"{_EQUAL} {silent_units} of {len(units)} units have the activation 0: nothing here excites them")
    if len(equal) > silent_units:
        notes.append(
            f"{_EQUAL} {len(equal) - silent_units} of {len(units)} units have the same activation (equal pictures, or "
            "a rectifier at its upper bound): there may be more such places, and those of the first pictures are shown"
        )
    return notes


def _number(value: object) -> str:
    return f"{float(value):g}"  # type: ignore[arg-type]


def _projector(model: Model, layer: str, options: PatchOptions) -> UnitProjector | None:
    if options.projection == "none":
        return None
    return UnitProjector(model, layer, options.projection, options.batch_size, options.allow_unverified)


def _projected(projector: UnitProjector, cut: UnitPatches, pictures: Pictures) -> list[NDArray[np.uint8]]:
    model = projector.model
    order = model.preprocessing.channel_order if model.preprocessing is not None else "rgb"
    values = projector(cut.unit, cut.patches, [pictures.prepared(p.picture) for p in cut.patches])
    return [reduced(drawn_projection(v, p, order)[0]) for v, p in zip(values, cut.patches, strict=True)]


def _projection_notes(projector: UnitProjector) -> list[str]:
    return [
        f"projection: {projector.kind} of exactly that unit at exactly that place; gray is zero, full color the 99.5th "
        "percentile of each patch's absolute values",
        f"at every place the converted model agrees with the store within {projector.worst:.1e} of the layer's "
        "largest activation" + ("; UNVERIFIED: more than is allowed" if projector.unverified else ""),
        *projector.notes,
    ]


def _mask(
    store: Reader, model: Model, pictures: Pictures, found: LayerPatches, options: PatchOptions, progress: Progress
) -> None:
    anchors = Anchors(layer_field(model, found.layer), input_size(model), found.layer)
    thresholds = store.quantile(found.layer, 1 - options.top)
    maps = LayerMaps(store, found.layer, model, pictures)
    wanted: dict[int, list[tuple[UnitDrawing, int]]] = {}
    for drawing in found.units:
        drawing.threshold = float(thresholds[drawing.unit.unit])
        drawing.masks = [np.zeros(0, np.uint8)] * len(drawing.unit.patches)
        for rank, patch in enumerate(drawing.unit.patches):
            wanted.setdefault(patch.picture, []).append((drawing, rank))
    for number, (id, values) in enumerate(maps(sorted(wanted))):
        progress(f"masks of {found.layer}", number, len(wanted))
        display = pictures.prepared(id).display()
        units = [drawing.unit.unit for drawing, _ in wanted[id]]
        for mask, (drawing, rank) in zip(anchors.masks(values[units], thresholds[units]), wanted[id], strict=True):
            drawing.masks[rank] = reduced(masked_picture(display, _fitted(mask, display)))
    progress(f"masks of {found.layer}", len(wanted), len(wanted))
    found.notes += [thresholds_note(options.top), anchors.note, f"masks: {maps.source}"]


def _fitted(mask: NDArray[np.bool_], display: NDArray[np.uint8]) -> NDArray[np.bool_]:
    if mask.shape != display.shape[:2]:
        raise UsageError(
            f"masks are drawn at the model's usual input size, {mask.shape[0]} x {mask.shape[1]}, and a picture was "
            f"prepared at {display.shape[0]} x {display.shape[1]}: index with one size (--size) to draw masks."
        )
    return mask
