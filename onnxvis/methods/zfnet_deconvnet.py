"""ZFNet's deconvnet: one unit of a layer projected back to the pixels that excite it.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 2.1: all
activations of the layer but one are set to zero, and what is left is passed back to the picture:

    unpool    max pooling puts the signal where the maximum was on the way forward (the "switches")
    rectify   a rectifier keeps what is positive of the signal on its way back:  R <- R * [R > 0]
    filter    a convolution is applied transposed

This is the derivative with the deconvnet rule for rectifiers, started with the unit's own activation; every
other operator (normalization, average pooling, a sum of branches) passes the signal as its derivative does.
The target is a unit of a layer, not a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import LayerError
from onnxvis.methods.arguments import a_whole_number
from onnxvis.methods.base import Attribution, LayerChoice, Method, Task, option, rows_of
from onnxvis.methods.input_gradient import micro_batch, ordinary_parity
from onnxvis.methods.layout import as_float, channels_first
from onnxvis.runtime.parity import GradientCheck, Parity

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["METHOD", "Projection", "Unit", "ZfnetDeconvnetOptions", "choose_unit", "project_unit"]

_RULE = "deconvnet"


@dataclass(frozen=True)
class ZfnetDeconvnetOptions:
    """Options of ZFNet's deconvnet."""

    unit: int | None = option(None, "which unit (channel) of the layer; the strongest on this picture if left out")
    row: int | None = option(None, "its row in the layer's map; the unit's strongest place if left out")
    col: int | None = option(None, "its column in the layer's map; the unit's strongest place if left out")

    def __post_init__(self) -> None:
        for name in ("unit", "row", "col"):
            if getattr(self, name) is not None:
                a_whole_number("zfnet-deconvnet", name, getattr(self, name), 0)


@dataclass(frozen=True)
class Unit:
    """One position of one unit of a layer.

    Attributes:
        channel: the unit.
        row: row in the layer's map.
        col: column in the layer's map.
        activation: its value there.
        equals: how many places that were asked for have this same value, itself included: more than one where
            a rectifier with an upper bound is saturated.
    """

    channel: int
    row: int
    col: int
    activation: float
    equals: int = 1


@dataclass(frozen=True, eq=False)
class Projection:
    """A unit projected to the input.

    Attributes:
        values: ``(C, H, W)`` float32 in the input grid.
        unit: which one.
        input_box: what the unit can see, ``(x0, y0, x1, y1)`` half-open, in pixels of the input grid; ``None``
            where that is not known.
        picture_box: the same in pixels of the original picture, cut to what the model was shown.
        parity: agreement of converted and deployed model: outputs are those of the layer.
        notes: what is to be said about it.
    """

    values: np.ndarray
    unit: Unit
    input_box: tuple[int, int, int, int] | None
    picture_box: tuple[float, float, float, float] | None
    parity: Parity
    notes: tuple[str, ...]


def choose_unit(
    activation: np.ndarray,
    layer: LayerChoice,
    unit: int | None = None,
    row: int | None = None,
    col: int | None = None,
) -> Unit:
    """The strongest position of a layer among those asked for.

    Args:
        activation: of one image, without batch axis, axes as ``layer`` says.
        layer: where it is from.
        unit: a channel, or any.
        row: a row of the map, or any.
        col: a column of the map, or any.

    Raises:
        LayerError: the layer has no such unit or place.
    """
    rows, cols = layer.spatial_axes
    if activation.ndim != 3:
        raise LayerError(
            f"a unit's projection needs a layer with channels, rows and columns; one image's {layer.tensor!r} has "
            f"shape {activation.shape}. Choose another one with --layer (`onnxvis inspect` lists them)."
        )
    maps = activation.transpose(layer.channel_axis - 1, rows - 1, cols - 1).astype(np.float64)
    allowed = np.ones(maps.shape, bool)
    for axis, (name, wanted) in enumerate((("unit", unit), ("row", row), ("column", col))):
        if wanted is None:
            continue
        if not 0 <= wanted < maps.shape[axis]:
            last = maps.shape[axis] - 1
            raise LayerError(f"layer {layer.tensor!r} has no {name} {wanted}: it has {last + 1}, 0 to {last}.")
        others = np.arange(maps.shape[axis]) != wanted
        allowed[tuple(others if a == axis else slice(None) for a in range(3))] = False
    place = np.unravel_index(np.argmax(np.where(allowed, maps, -np.inf)), maps.shape)
    k, i, j = (int(p) for p in place)
    return Unit(k, i, j, float(maps[k, i, j]), int(((maps == maps[k, i, j]) & allowed).sum()))


def project_unit(
    model: Model,
    prepared: Prepared,
    layer: LayerChoice,
    unit: int | None = None,
    row: int | None = None,
    col: int | None = None,
    float64: bool = False,
) -> Projection:
    """Project one unit of a layer back to one picture.

    Args:
        model: the deployed model.
        prepared: the picture, from ``model.prepare``.
        layer: where the unit is.
        unit: channel; the strongest on this picture if left out.
        row: row in the layer's map; the strongest if left out.
        col: column in the layer's map; the strongest if left out.
        float64: compute the projection in double precision.

    Raises:
        LayerError: no such unit or place, or the layer has none.
    """
    found = model.engine.forward(prepared.tensor, (layer.tensor,))[layer.tensor]
    chosen = choose_unit(found[0], layer, unit, row, col)
    return _project(model, [prepared], prepared.tensor, found, layer, [chosen], float64)[0]


def _project(
    model: Model,
    prepared: list[Prepared],
    x: np.ndarray,
    activation: np.ndarray,
    layer: LayerChoice,
    units: list[Unit],
    float64: bool,
) -> list[Projection]:
    """Projections of a batch, one unit on each picture, in one forward and one backward pass."""
    name = model.image_input.name
    cotangent = np.zeros(activation.shape)
    for i, unit in enumerate(units):
        # A unit that is not active has nothing to pass back: the projection rectifies it first.
        cotangent[(i, *_index(unit, layer))] = max(unit.activation, 0.0)
    found = model.engine.gradients({name: as_float(x)}, layer.tensor, [cotangent], (name,), _RULE, float64=float64)
    results = []
    for i, unit in enumerate(units):
        box, picture_box, notes = _boxes(model, prepared[i], layer, unit, x.shape)
        if unit.activation <= 0:
            notes.append("the unit is not active there, so there is nothing to project")
        values = channels_first(found.grads[0][name][i], model.layout)
        parity = _parity(model, x[i : i + 1], found.output[i], activation[i], layer, prepared[i], float64)
        results.append(
            Projection(np.ascontiguousarray(values, np.float32), unit, box, picture_box, parity, (*found.notes, *notes))
        )
    return results


def _index(unit: Unit, layer: LayerChoice) -> tuple[int, ...]:
    place = dict(zip((layer.channel_axis, *layer.spatial_axes), (unit.channel, unit.row, unit.col), strict=True))
    return tuple(place[axis] for axis in sorted(place))


def _boxes(
    model: Model, prepared: Prepared, layer: LayerChoice, unit: Unit, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int, int] | None, tuple[float, float, float, float] | None, list[str]]:
    """The unit's receptive field in the input grid and in the picture, with what is to be said about it."""
    field = model.fields.get(layer.tensor)
    if field is None or field.spatial_axes is None:
        why = field.reason if field is not None else "the layer does not depend on the picture's places"
        return None, None, [f"what the unit can see is not known: {why}"]
    if tuple(shape[1:]) != tuple(model.example_shape()[1:]):
        return None, None, ["what the unit can see was measured on another input size, so it is left out"]
    box = field.box(unit.row, unit.col)
    picture_box = prepared.geometry.box_to_picture(box, clip=True)
    notes = []
    if not field.exact:
        notes.append("the box is a hull: the unit may see less than it")
    if field.global_side_path:
        notes.append("a path from the whole picture reaches the unit too; the box leaves it out")
    return box, picture_box, notes


def _parity(
    model: Model,
    x: np.ndarray,
    converted: np.ndarray,
    deployed: np.ndarray,
    layer: LayerChoice,
    prepared: Prepared,
    float64: bool,
) -> Parity:
    """Outputs at the layer, and its ordinary derivative, both against the deployed graph.

    One unit may be saturated and have no derivative at all, so what is differentiated is the mean of the
    layer's activation weighted by itself.
    """
    name = model.image_input.name

    def check() -> GradientCheck | None:
        if x.dtype.kind != "f":
            return None  # whole-number inputs cannot be moved by a small step
        weights = deployed.astype(np.float64) / max(float(np.abs(deployed.astype(np.float64)).sum()), 1e-30)
        on = prepared.picture.name if prepared.picture else "image"
        return model.engine.difference_check({name: rows_of(x, slice(0, 1))}, name, layer.tensor, weights, on, float64)

    return ordinary_parity(model.engine.parity(converted, deployed, check, (layer.tensor, name), float64))


def attribute(task: Task) -> list[list[Attribution]]:
    """The projection of a unit of every image, ``(C, H, W)`` in the input grid; the same for all scores."""
    layer = task.layer
    options: ZfnetDeconvnetOptions = task.options
    assert layer is not None
    activation = task.tensors[layer.tensor]
    results = []
    step = micro_batch(task) if len(task.x) > 1 else 1
    for start in range(0, len(task.x), step):
        rows = slice(start, min(start + step, len(task.x)))
        units = [choose_unit(a, layer, options.unit, options.row, options.col) for a in activation[rows]]
        found = _project(
            task.model, list(task.prepared[rows]), rows_of(task.x, rows), activation[rows], layer, units, task.float64
        )
        for projection, scores in zip(found, task.scores[rows], strict=True):
            results.append([_attribution(projection, score.name, options) for score in scores])
    return results


def _attribution(projection: Projection, asked: str, options: ZfnetDeconvnetOptions) -> Attribution:
    unit = projection.unit
    chosen = "asked for" if options.unit is not None else "the strongest of the layer on this picture"
    place = "asked for" if None not in (options.row, options.col) else "where it is strongest"
    parameters: dict[str, Any] = {
        "unit": unit.channel,
        "row": unit.row,
        "col": unit.col,
        "activation": unit.activation,
        "box": _box(projection),
    }
    notes = [
        f"unit {unit.channel} ({chosen}) at row {unit.row}, column {unit.col} ({place}), "
        f"activation {unit.activation:.4g}",
        f"the target asked for, {asked}, plays no part: the projection is that of a unit, not of a class",
    ]
    if unit.equals > 1:
        notes.append(f"{unit.equals} places have this largest activation; this is the first of them")
    if projection.picture_box is not None:
        x0, y0, x1, y1 = projection.picture_box
        notes.append(f"it can see x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} of the picture")
    notes += [*projection.notes, "drawn as the largest absolute value over the channels of a pixel"]
    return Attribution(
        values=projection.values,
        units="projected activation",
        reduction="max-abs",
        parity=projection.parity,
        parameters=parameters,
        notes=tuple(notes),
        target=f"unit {unit.channel} at {unit.row},{unit.col}",
        score=unit.activation,
    )


def _box(projection: Projection) -> Mapping[str, Any] | None:
    if projection.input_box is None or projection.picture_box is None:
        return None
    return {"input": list(projection.input_box), "picture": list(projection.picture_box)}


METHOD = Method(
    name="zfnet-deconvnet",
    title="Deconvnet of a unit",
    summary="the pattern in the picture that excites one unit of a layer",
    paper="Zeiler & Fergus, ECCV 2014",
    attribute=attribute,
    options=ZfnetDeconvnetOptions,
    needs_gradient=True,
    uses_layer=True,
    caution=(
        "Without max pooling below the layer the pattern is that of the filters rather than of the picture "
        "(Springenberg et al. 2015, section 3.4)."
    ),
)
