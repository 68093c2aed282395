"""Ablation-CAM: each unit weighted by how much the score drops when it is switched off.

Ramaswamy & Desai, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
Localization", WACV 2020. With A the activation, y the target's score and y_k the score with A_k set to 0,

    w_k = y - y_k,        L = sum over k of  w_k A_k          (without the final ReLU)

The paper divides w_k by y: one factor for the whole map, meaningless where the score is near 0 and turning
the map around where it is negative. It is an option, and off.

Only the tail (layer to logits) runs again. Where the head is linear after a global average pool not even
that is needed: y - y_k is the unit's own term, in closed form

    y - y_k = W_k mean(A_k).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxvis.methods.arguments import a_flag
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.cam_shared import CamOptions, Finish, places, units_first, weighted_maps
from onnxvis.methods.layer_tail import LayerTail, score_values
from onnxvis.methods.linear_head import LinearHead, head_or_none

__all__ = ["METHOD", "AblationCamOptions"]

_CLOSED = "closed form: the head is linear after a global average pool, so switching a unit off removes its own term"


@dataclass(frozen=True)
class AblationCamOptions(CamOptions):
    """Options of Ablation-CAM."""

    method: ClassVar[str] = "ablation-cam"

    relative: bool = option(False, "divide by the score, as the paper does: turns the map around where it is negative")
    closed_form: bool = option(True, "where the head is linear after a global average pool, compute instead of running")

    def __post_init__(self) -> None:
        super().__post_init__()
        a_flag(self.method, "relative", self.relative)
        a_flag(self.method, "closed_form", self.closed_form)


def attribute(task: Task) -> list[list[Attribution]]:
    """Ablation-CAM of every score of every image; maps ``(H, W)`` in the input grid."""
    layer, options = task.layer, task.options
    assert layer is not None
    whole = units_first(places(task, METHOD.name), layer)
    head = head_or_none(task.model, layer) if options.closed_form else None
    units = "relative drop of the score x activation" if options.relative else "drop of the logit x activation"
    results = []
    for row, activation in enumerate(whole):
        if head is None:
            tail = LayerTail(task, row)
            drops = _by_running(task, row, tail, activation.shape[0])
            note = f"{activation.shape[0]} units switched off one by one; {tail.note}, {tail.rows} at once"
        else:
            drops, note = _by_formula(task, row, head, activation), _CLOSED
            if task.model.engine.precision != "float32":
                note += (
                    f"; the rounding of the {task.model.engine.precision} file is left out (closed_form=false runs it)"
                )
        values = score_values(task.scores[row], task.logits[row : row + 1])[0]
        if options.relative:
            drops = drops / np.where(values == 0, np.nan, values)
        maps = weighted_maps(drops.T, activation)
        finish = Finish(units, {"relative": options.relative, "closed_form": head is not None}, (note,))
        results.append([finish(task, row, m) for m in maps])
    return results


def _by_running(task: Task, row: int, tail: LayerTail, count: int) -> np.ndarray:
    """Drop of each score for each unit ``(C, T)``, by running the tail."""
    scores = task.scores[row]
    base = score_values(scores, tail(tail.activation))
    found = []
    for start, logits in tail.ablated():
        found.append(base - score_values(scores, logits))
        task.progress(METHOD.name, row * count + start + len(logits), len(task.x) * count)
    return np.concatenate(found)


def _by_formula(task: Task, row: int, head: LinearHead, activation: np.ndarray) -> np.ndarray:
    """The same ``(C, T)``, by the head's weights."""
    means = activation.astype(np.float64).mean(axis=(1, 2))
    scores = task.scores[row]
    if all(score.function is None for score in scores):
        return np.stack([score.cotangent.reshape(-1) @ head.weights * means for score in scores], axis=1)
    logits = task.logits[row].astype(np.float64)[None]
    return np.asarray(score_values(scores, logits) - score_values(scores, logits - (head.weights * means).T))


METHOD = Method(
    name="ablation-cam",
    title="Ablation-CAM",
    summary="each unit of a layer, weighted by how much the score drops when it is switched off",
    paper="Ramaswamy & Desai, WACV 2020",
    attribute=attribute,
    options=AblationCamOptions,
    uses_layer=True,
    caution=(
        "Units are switched off one at a time: two that stand in for each other both look unimportant, and 0 may be a "
        "value that the layer never has."
    ),
)
