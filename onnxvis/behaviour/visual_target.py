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
_RECTIFIERS = ("Clip", "LeakyRelu", "PRelu", "Relu")
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
        before: what enters the rectifier that makes ``tensor``, where there is one, else ``tensor``.
        before_cotangent: the same weights for that one.
    """

    name: str
    spec: str
    kind: str
    tensor: str
    cotangent: NDArray[np.float32]
    reason: str
    before: str
    before_cotangent: NDArray[np.float32]

    def value(self, values: np.ndarray) -> NDArray[np.float64]:
        """The score of each picture: the tensor's values ``(N, ...)`` to ``(N,)``."""
        weights = self.cotangent.reshape(-1).astype(np.float64)
        return np.asarray(values.reshape(len(values), -1).astype(np.float64) @ weights)


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
    weights, tensor = score.cotangent.astype(np.float32), model.logits.tensor
    return VisualTarget(score.name, score.spec, "class", tensor, weights, model.logits.reason, tensor, weights)


def _is_label(model: Model, text: str) -> bool:
    try:
        model.labels.find(text)
    except TargetError:
        return False
    return True


@dataclass(frozen=True)
class _Axes:
    """Which axes of a layer count units, rows and columns (none where it has no places)."""

    unit: int
    places: tuple[int, ...]


def _unit(model: Model, tensor: str, unit: int, place: str | None, spec: str) -> VisualTarget:
    shape, axes = model.shapes[tensor], _axes(model, tensor)
    units, grid = shape[axes.unit], tuple(shape[a] for a in axes.places)
    if unit >= units:
        raise TargetError(f"layer {tensor!r} has no unit {unit}: it has {units}, 0 to {units - 1}.")
    before, source = _before_rectifier(model, tensor, unit, axes.unit)
    at = _place(place, grid, tensor, spec) if place is not None else None
    weights = _weights(shape, axes, unit, at)
    before_weights = _weights(model.shapes[before], axes, source, at)
    if at is None:
        reason = f"unit {unit} of {tensor!r}, " + ("mean over its places" if grid else "its value")
        return VisualTarget(f"{tensor}:{unit}", spec, "unit", tensor, weights, reason, before, before_weights)
    reason = f"unit {unit} of {tensor!r} at row {at[0]}, column {at[1]}"
    name = f"{tensor}:{unit} @ {at[0]},{at[1]}"
    return VisualTarget(name, spec, "neuron", tensor, weights, reason, before, before_weights)


def _place(place: str, grid: tuple[int, ...], tensor: str, spec: str) -> tuple[int, ...]:
    if not grid:
        raise TargetError(f"{spec!r}: layer {tensor!r} has no places, so its unit has one value: leave the @ out.")
    at = tuple(n // 2 for n in grid) if place == "center" else tuple(int(n) for n in place.split(","))
    if any(p >= n for p, n in zip(at, grid, strict=True)):
        raise TargetError(f"{spec!r}: the map of {tensor!r} has {grid[0]} rows and {grid[1]} columns.")
    return at


def _axes(model: Model, tensor: str) -> _Axes:
    field, rank = model.fields.get(tensor), len(model.shapes[tensor])
    if field is None:
        raise TargetError(f"layer {tensor!r} does not depend on the picture, so no picture excites it.")
    places = field.spatial_axes
    unit = field.channel_axis(rank) if places else rank - 1
    if unit is None or unit < 1:
        raise TargetError(f"layer {tensor!r} of shape {model.shapes[tensor]} has no axis of units.")
    return _Axes(unit, places or ())


def _weights(shape: tuple[int, ...], axes: _Axes, unit: int, at: tuple[int, ...] | None) -> NDArray[np.float32]:
    """D score / d layer of one picture: 1 at a place, or the mean over all of them."""
    weights = np.zeros((1, *shape[1:]), np.float32)
    index: list[int | slice] = [slice(None)] * len(shape)
    index[axes.unit] = unit
    for axis, p in zip(axes.places, at or (), strict=False):
        index[axis] = p
    weights[tuple(index)] = 1.0 / max(weights[tuple(index)].size, 1)
    return np.ascontiguousarray(weights[0])


def _before_rectifier(model: Model, tensor: str, unit: int, unit_axis: int) -> tuple[str, int]:
    """Where a unit's value stands before its rectifier, through concatenations: tensor and number there."""
    node = model.index.producer(tensor)
    if node is None:
        return tensor, unit
    if node.op_type in _RECTIFIERS:
        return node.input[0], unit
    axis = model.index.attrs(node).get("axis", 0)
    if node.op_type != "Concat" or axis % len(model.shapes[tensor]) != unit_axis:
        return tensor, unit
    inside = unit
    for part in node.input:
        count = model.shapes[part][unit_axis]
        if inside < count:
            before, source = _before_rectifier(model, part, inside, unit_axis)
            return (before, source) if before != part else (tensor, unit)
        inside -= count
    return tensor, unit
