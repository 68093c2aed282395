"""Grad-CAM: which places of a feature map speak for the target.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
ICCV 2017. With A the activation of the layer and y the target's score,

    a_k = mean over (i, j) of  dy / dA_kij          (equation 1)
    L   = sum over k of  a_k A_k                    (equation 2, without its final ReLU)

The ReLU of equation 2 throws away what speaks against the target, so it is an option and off; the
raw map is signed.

The trunk (picture to layer) runs in onnxruntime on the deployed file, only the tail (layer to logits)
is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxvis.errors import LayerError
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.methods.base import Attribution, Method, Task, option, rows_of
from onnxvis.runtime.parity import GradientCheck, Parity

__all__ = ["METHOD", "GradCamOptions"]

UNITS = "contribution to the logit"


@dataclass(frozen=True)
class GradCamOptions:
    """Options of Grad-CAM."""

    relu: bool = option(False, "apply the final ReLU of the paper: negative evidence becomes 0")


def attribute(task: Task) -> list[list[Attribution]]:
    """Grad-CAM of every score of every image; maps ``(H, W)`` in the input grid."""
    results = []
    for rows in task.rows():
        results += _chunk(task, rows)
    return results


def _chunk(task: Task, rows: slice) -> list[list[Attribution]]:
    model, layer = task.model, task.layer
    assert layer is not None
    activation = rows_of(task.tensors[layer.tensor], rows)
    _check_map(activation, layer.tensor, layer.spatial_axes)
    feeds = {model.image_input.name: rows_of(task.x, rows)}
    if not task.float64:
        feeds[layer.tensor] = activation
    cotangents = task.cotangents(rows)
    found = model.engine.gradients(
        feeds, model.logits.tensor, cotangents, (layer.tensor,), float64=task.float64
    )
    maps = [_weighted_sum(found.values[layer.tensor], g[layer.tensor], layer.spatial_axes) for g in found.grads]
    results = []
    for i in range(len(activation)):
        parity = _parity(task, rows.start + i, found.output[i], found.grads[0][layer.tensor][i], cotangents[0][i])
        count = len(task.scores[rows.start + i])
        results.append([_result(task, m[i], parity) for m in maps[:count]])
    return results


def _check_map(activation: np.ndarray, tensor: str, axes: tuple[int, int]) -> None:
    if activation.ndim < 4 or activation.shape[axes[0]] * activation.shape[axes[1]] == 1:
        raise LayerError(
            f"Grad-CAM needs a layer with places: {tensor!r} has shape {activation.shape[1:]} for one image. "
            "Choose an earlier layer with --layer (`onnxvis inspect` lists them)."
        )


def _weighted_sum(activation: np.ndarray, gradient: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Equations 1 and 2 for a batch: ``(N, h, w)`` float64."""
    channel = next(a for a in range(1, activation.ndim) if a not in axes)
    weights = gradient.astype(np.float64).mean(axis=axes, keepdims=True)
    summed = (weights * activation.astype(np.float64)).sum(axis=channel)
    return np.asarray(summed)


def _parity(task: Task, row: int, logits: np.ndarray, gradient: np.ndarray, cotangent: np.ndarray) -> Parity:
    model, layer = task.model, task.layer
    assert layer is not None
    one = slice(row, row + 1)

    def check() -> GradientCheck | None:
        feeds = {
            layer.tensor: rows_of(task.tensors[layer.tensor], one),
            model.image_input.name: rows_of(task.x, one),
        }
        on = task.picture_name(row)
        return model.engine.difference_check(feeds, layer.tensor, model.logits.tensor, cotangent, gradient, on)

    key = (model.logits.tensor, layer.tensor)
    return model.engine.parity(logits, task.logits[row], check, key, task.float64)


def _result(task: Task, layer_map: np.ndarray, parity: Parity) -> Attribution:
    options: GradCamOptions = task.options
    small = np.maximum(layer_map, 0.0) if options.relu else layer_map
    notes = [f"map of {small.shape[0]} x {small.shape[1]} places, bilinearly enlarged to the input grid"]
    if options.relu:
        notes.append("final ReLU applied: evidence against the target is not shown")
    return Attribution(
        values=upsample_bilinear(small.astype(np.float32), task.grid),
        units=UNITS,
        signed=not options.relu,
        layer_map=small.astype(np.float32),
        parity=parity,
        parameters={"relu": options.relu},
        notes=tuple(notes),
    )


METHOD = Method(
    name="grad-cam",
    title="Grad-CAM",
    summary="places of a feature map, weighted by how much each unit matters for the target",
    paper="Selvaraju et al., ICCV 2017",
    attribute=attribute,
    options=GradCamOptions,
    needs_gradient=True,
    uses_layer=True,
    caution="The map is as coarse as the layer, and averages each unit's gradient over all places.",
)
