"""What class visualization climbs towards: a class, a unit of a layer, or one neuron of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import LayerError, TargetError
from onnxvis.target import resolve

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["VisualTarget", "visual_target"]

_UNIT = re.compile(r"^(?P<layer>.+):(?P<unit>\d+)(?:\s*@\s*(?P<place>\d+\s*,\s*\d+|center))?$")
_TOP = re.compile(r"top-?\d+", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class VisualTarget:
    """A number that the network computes, linear in one of its tensors.

    Attributes:
        name: for people.
        spec: as it was asked for.
        kind: "class", "unit" (its mean over all places) or "neuron" (one place).
        tensor: whose values it weighs: the logits, or a layer.
        cotangent: d score / d tensor for one picture, float32.
        reason: one sentence: what the score is.
    """

    name: str
    spec: str
    kind: str
    tensor: str
    cotangent: NDArray[np.float32]
    reason: str

    def value(self, values: np.ndarray) -> NDArray[np.float64]:
        """The score of each picture: the tensor's values ``(N, ...)`` to ``(N,)``."""
        weights = self.cotangent.reshape(-1).astype(np.float64)
        return np.asarray(values.reshape(len(values), -1).astype(np.float64) @ weights)

    def cotangents(self, count: int) -> NDArray[np.float32]:
        """D (sum of scores) / d tensor for some pictures, ``(count, ...)``."""
        return np.repeat(self.cotangent[None], count, axis=0)


def visual_target(model: Model, spec: int | str, logits: np.ndarray) -> VisualTarget:
    """The number that a target stands for.

    Args:
        model: from :func:`onnxvis.load`.
        spec: a class index or label, a contrast "A - B", a place "label @ row,col" of a dense output; or
            "LAYER:UNIT" (the unit's mean), "LAYER:UNIT@row,col" or "LAYER:UNIT@center" (one neuron).
        logits: of one picture, without the batch axis: for their shape, and for a detector's best place.

    Raises:
        TargetError: no such class, unit or place; or "top1", which needs a picture.
    """
    text = str(spec).strip()
    match = _UNIT.match(text) if isinstance(spec, str) else None
    if match:
        try:
            tensor = model.layer(match["layer"].strip())
        except LayerError as error:
            if not _is_label(model, text):
                raise TargetError(f"the target {text!r} names no unit of a layer: {error}") from error
        else:
            return _unit(model, tensor, int(match["unit"]), match["place"], text)
    if _TOP.fullmatch(text):
        raise TargetError(f"{text!r} is what a model answers on a picture, and there is none yet: name a class.")
    if isinstance(spec, str) and ":" in text and not _is_label(model, text.split("@")[0].split(" - ")[0].strip()):
        raise TargetError(
            f"the target {text!r} is neither a label nor LAYER:UNIT, LAYER:UNIT@row,col or LAYER:UNIT@center."
        )
    score = resolve(spec, logits, model.labels, form=model.output_form)[0]
    return VisualTarget(
        score.name, score.spec, "class", model.logits.tensor, score.cotangent.astype(np.float32), model.logits.reason
    )


def _is_label(model: Model, text: str) -> bool:
    try:
        model.labels.find(text)
    except TargetError:
        return False
    return True


def _unit(model: Model, tensor: str, unit: int, place: str | None, spec: str) -> VisualTarget:
    shape = model.shapes[tensor][1:]
    field = model.fields.get(tensor)
    axes = field.spatial_axes if field is not None else None
    if field is None:
        raise TargetError(f"layer {tensor!r} does not depend on the picture, so no picture excites it.")
    spatial = tuple(a - 1 for a in axes) if axes else ()
    channel = field.channel_axis(len(shape) + 1) if axes else len(shape)
    if channel is None or channel < 1:
        raise TargetError(f"layer {tensor!r} of shape {shape} has no axis of units.")
    units = shape[channel - 1]
    if unit >= units:
        raise TargetError(f"layer {tensor!r} has no unit {unit}: it has {units}, 0 to {units - 1}.")
    cotangent = np.zeros(shape, np.float32)
    map_shape = tuple(shape[a] for a in spatial)
    view = np.moveaxis(cotangent, channel - 1, 0)[unit]  # a view: writes go into the cotangent
    if place is None:
        view[...] = 1.0 / max(view.size, 1)
        what = "mean over its places" if view.size > 1 else "its value"
        return VisualTarget(f"{tensor}:{unit}", spec, "unit", tensor, cotangent, f"unit {unit} of {tensor!r}, {what}")
    if not spatial:
        raise TargetError(f"{spec!r}: layer {tensor!r} has no places, so its unit has one value: leave the @ out.")
    at = tuple(n // 2 for n in map_shape) if place == "center" else tuple(int(n) for n in place.split(","))
    if any(p >= n for p, n in zip(at, map_shape, strict=True)):
        raise TargetError(f"{spec!r}: the map of {tensor!r} has {map_shape[0]} rows and {map_shape[1]} columns.")
    # The remaining axes of the view keep their order, so rows and columns are found by their own positions.
    rest = [a for a in range(len(shape)) if a != channel - 1]
    index: list[int | slice] = [slice(None)] * len(rest)
    for axis, p in zip(spatial, at, strict=True):
        index[rest.index(axis)] = p
    view[tuple(index)] = 1.0
    name = f"{tensor}:{unit} @ {at[0]},{at[1]}"
    reason = f"unit {unit} of {tensor!r} at row {at[0]}, column {at[1]}"
    return VisualTarget(name, spec, "neuron", tensor, cotangent, reason)
