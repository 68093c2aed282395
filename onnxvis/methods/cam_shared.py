"""What the methods share that weigh the units of a layer: axes, the gradient, enlarging, boxes, records.

All formulas are written for activations ``(N, C, h, w)``, whatever the layout of the file: C counts the
units of the layer, h and w its places. Raw maps keep their sign; the final ReLU of the papers is an option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxvis.errors import LayerError, UsageError
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.localization import find_boxes
from onnxvis.methods.arguments import a_flag, a_number
from onnxvis.methods.base import Attribution, LayerChoice, Task, option, rows_of
from onnxvis.methods.layer_tail import reads_image
from onnxvis.runtime.parity import GradientCheck, Parity

__all__ = [
    "CONTRIBUTION",
    "CamOptions",
    "Finish",
    "LayerGradients",
    "gradient_maps",
    "layer_gradients",
    "may_be_negative",
    "places",
    "units_first",
    "weighted_maps",
    "weighted_sum",
]

CONTRIBUTION = "contribution to the logit"


@dataclass(frozen=True)
class CamOptions:
    """Options of every class activation map."""

    method: ClassVar[str] = "class activation map"

    relu: bool = option(False, "apply the final ReLU of the paper: negative evidence becomes 0")
    box: bool = option(False, "find, draw and record the box around the largest region above the threshold")
    threshold: float = option(0.2, "for box: part of the map's maximum from which a place belongs to a region")

    def __post_init__(self) -> None:
        a_flag(self.method, "relu", self.relu)
        a_flag(self.method, "box", self.box)
        a_number(self.method, "threshold", self.threshold, 0.0)
        if self.threshold >= 1:
            raise UsageError(f"{self.method} threshold is a part of the maximum, below 1, not {self.threshold!r}.")


@dataclass(frozen=True, eq=False)
class LayerGradients:
    """Activations and gradients of some images at the layer.

    Attributes:
        rows: which images.
        activation: ``(N, C, h, w)`` float64.
        gradients: for the k-th score of every image d score / d activation, ``(N, C, h, w)`` float64.
        parity: one record for each image.
    """

    rows: slice
    activation: np.ndarray
    gradients: list[np.ndarray]
    parity: list[Parity]


@dataclass(frozen=True)
class Finish:
    """How the raw maps of a method become results.

    Attributes:
        units: what a value of the map means.
        parameters: what was used, besides the shared options.
        notes: for every map.
    """

    units: str
    parameters: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __call__(
        self,
        task: Task,
        row: int,
        layer_map: np.ndarray,
        *,
        signed: bool = True,
        parity: Parity | None = None,
        parameters: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Attribution:
        """One map at the layer ``(h, w)`` as an attribution in the input grid.

        Args:
            task: what is explained.
            row: which image.
            layer_map: the raw map.
            signed: whether it can have negative values.
            parity: where a gradient was used.
            parameters: more of them, for this map.
            notes: more of them, for this map.
        """
        options: CamOptions = task.options
        small = np.maximum(layer_map, 0.0) if options.relu else layer_map
        small = small.astype(np.float32)
        values = upsample_bilinear(small, task.grid)
        found: dict[str, Any] = {"relu": options.relu, **self.parameters, **(parameters or {})}
        said = [f"map of {small.shape[0]} x {small.shape[1]} places, bilinearly enlarged to the input grid"]
        if options.relu and signed:
            said.append("final ReLU applied: evidence against the target is not shown")
        if options.box:
            found["box"] = _box(task, row, values, options.threshold)
            said.append(_box_note(found["box"], options.threshold))
        return Attribution(
            values=values,
            units=self.units,
            signed=signed and not options.relu,
            layer_map=small,
            parity=parity,
            parameters=found,
            notes=(*said, *self.notes, *notes),
        )


def _box(task: Task, row: int, values: np.ndarray, threshold: float) -> dict[str, Any] | None:
    found = find_boxes(values, task.prepared[row].geometry, threshold)
    return found[0].to_dict() if found else None


def _box_note(box: Mapping[str, Any] | None, threshold: float) -> str:
    if box is None:
        return "no box: the map has no positive value"
    x0, y0, x1, y1 = (round(edge) for edge in box["picture"])
    return (
        f"box of the largest region above {threshold:g} of the maximum: x {x0} to {x1}, y {y0} to {y1} in the picture"
    )


def units_first(values: np.ndarray, layer: LayerChoice) -> np.ndarray:
    """An activation in any layout as ``(N, C, h, w)``; several axes of units are counted through as one."""
    moved = np.moveaxis(values, layer.spatial_axes, (-2, -1))
    return moved.reshape(len(moved), -1, *moved.shape[-2:])


def places(task: Task, method: str) -> np.ndarray:
    """The activation of all images as the file has it.

    Raises:
        LayerError: it has one place only, so there is no map to make.
    """
    layer = task.layer
    assert layer is not None
    activation = task.tensors[layer.tensor]
    axes = layer.spatial_axes
    if activation.ndim < 3 or activation.shape[axes[0]] * activation.shape[axes[1]] == 1:
        raise LayerError(
            f"{method} needs a layer with places: {layer.tensor!r} has shape {activation.shape[1:]} for one image. "
            "Choose an earlier layer with --layer (`onnxvis inspect` lists them)."
        )
    return activation


def may_be_negative(activation: np.ndarray) -> bool:
    """Whether an activation has negative values, so that positive weights do not make a map without them."""
    return bool((activation < 0).any())


def weighted_sum(weights: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Sum over units of weight times activation: ``(N, C)`` and ``(N, C, h, w)`` to ``(N, h, w)``."""
    n, c, h, w = activation.shape
    return np.asarray((weights[:, None, :] @ activation.reshape(n, c, h * w)).reshape(n, h, w))


def weighted_maps(weights: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """The same for one image and several scores: ``(T, C)`` and ``(C, h, w)`` to ``(T, h, w)`` float64."""
    flat = activation.reshape(len(activation), -1).astype(np.float64)
    return np.asarray((weights @ flat).reshape(len(weights), *activation.shape[1:]))


def layer_gradients(task: Task, method: str) -> Iterator[LayerGradients]:
    """Activation and gradient at the layer, batch by batch: one forward, then one backward pass a score.

    The trunk (picture to layer) ran in onnxruntime on the deployed file; only the tail (layer to logits) is
    differentiated. In float64 the whole converted network runs, so that the activation is as precise.
    """
    model, layer = task.model, task.layer
    assert layer is not None
    whole = places(task, method)
    needs_image = task.float64 or reads_image(model, layer.tensor, rewritten=True)
    for rows in task.rows():
        feeds = {model.image_input.name: rows_of(task.x, rows)} if needs_image else {}
        if not task.float64:
            feeds[layer.tensor] = rows_of(whole, rows)
        cotangents = task.cotangents(rows)
        found = model.engine.gradients(feeds, model.logits.tensor, cotangents, (layer.tensor,), float64=task.float64)
        parity = [_parity(task, rows.start + i, found.output[i], cotangents[0][i]) for i in range(len(found.output))]
        yield LayerGradients(
            rows,
            units_first(found.values[layer.tensor], layer).astype(np.float64),
            [units_first(g[layer.tensor], layer).astype(np.float64) for g in found.grads],
            parity,
        )


def _parity(task: Task, row: int, logits: np.ndarray, cotangent: np.ndarray) -> Parity:
    model, layer = task.model, task.layer
    assert layer is not None
    one = slice(row, row + 1)

    def check() -> GradientCheck | None:
        feeds = {
            layer.tensor: rows_of(task.tensors[layer.tensor], one),
            model.image_input.name: rows_of(task.x, one),
        }
        on = task.picture_name(row)
        return model.engine.difference_check(feeds, layer.tensor, model.logits.tensor, cotangent, on, task.float64)

    key = (model.logits.tensor, layer.tensor)
    return model.engine.parity(logits, task.logits[row], check, key, task.float64)


def gradient_maps(
    task: Task,
    method: str,
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray],
    finish: Finish,
    *,
    positive_weights: bool = False,
) -> list[list[Attribution]]:
    """The maps of a method that combines activation and gradient.

    Args:
        task: what is explained.
        method: its name, for messages.
        combine: activation and gradient, both ``(N, C, h, w)`` float64, to maps ``(N, h, w)``.
        finish: how maps become results.
        positive_weights: the weights cannot be negative, so the map is only where the activation is.
    """
    results = []
    for batch in layer_gradients(task, method):
        maps = [combine(batch.activation, gradient) for gradient in batch.gradients]
        for i, parity in enumerate(batch.parity):
            row = batch.rows.start + i
            signed = not positive_weights or may_be_negative(batch.activation[i])
            count = len(task.scores[row])
            results.append([finish(task, row, m[i], signed=signed, parity=parity) for m in maps[:count]])
    return results
