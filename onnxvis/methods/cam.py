"""Original CAM: what each place of the last feature map adds to the logit, exactly.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 2. In a network
whose logits are a linear layer on the global average of a feature map,

    logit_c = sum over k of  W_ck mean(A_k) + b_c,

exchanging the sums gives each place its share. With h x w places, the map

    L_c(i, j) = sum over k of  W_ck A_kij / (h w)          (equation 2, divided by the number of places)

has the exact identity **sum of L_c over the places + b_c = logit_c**. It is not changed by any gradient: none
is taken. The identity is checked against the file's own logits on every picture; the head is confirmed on
changed activations before that. It is the Grad-CAM map of such a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxvis.errors import LayerError
from onnxvis.methods.base import Attribution, LayerChoice, Method, Task
from onnxvis.methods.cam_shared import CONTRIBUTION, CamOptions, Finish, places, units_first, weighted_maps
from onnxvis.methods.linear_head import LinearHead, confirmed_head
from onnxvis.target import Score

__all__ = ["METHOD", "CamMethodOptions"]

IDENTITY = "sum of the layer map + bias = score"


@dataclass(frozen=True)
class CamMethodOptions(CamOptions):
    """Options of original CAM."""

    method: ClassVar[str] = "cam"


def attribute(task: Task) -> list[list[Attribution]]:
    """CAM of every score of every image; maps ``(H, W)`` in the input grid.

    Raises:
        LayerError: the identity does not hold on a picture.
    """
    layer = task.layer
    assert layer is not None
    head = confirmed_head(task.model, layer)
    finish = Finish(CONTRIBUTION, {"identity": IDENTITY})
    results = []
    for row, activation in enumerate(units_first(places(task, METHOD.name), layer)):
        logits = task.logits[row].astype(np.float64)
        error = head.disagreement(activation[None], logits[None])
        if not error <= head.tolerance:
            raise LayerError(
                f"CAM's identity does not hold on {task.picture_name(row)}: the maps and the bias miss the file's "
                f"logits by {error:.1e} of the largest. Use grad-cam."
            )
        results.append([_result(task, row, score, activation, head, finish) for score in task.scores[row]])
    return results


def _result(
    task: Task, row: int, score: Score, activation: np.ndarray, head: LinearHead, finish: Finish
) -> Attribution:
    direction = score.derivative(task.logits[row]).reshape(-1)
    count = activation.shape[1] * activation.shape[2]
    weights = (direction @ head.weights)[None] / count
    layer_map = weighted_maps(weights, activation)[0]
    value = float(score.value(task.logits[row : row + 1])[0])
    bias = float(direction @ head.bias)
    notes: tuple[str, ...] = ()
    parameters: dict[str, Any] = {"bias": bias, "identity_error": float(abs(layer_map.sum() + bias - value))}
    if score.function is not None:
        notes = ("the target is a function of the logits: its derivative at these logits is explained",)
    else:
        notes = (f"{IDENTITY}: {layer_map.sum():+.4f} {bias:+.4f} = {value:+.4f}",)
        if task.model.engine.precision != "float32":
            notes = (f"{notes[0]}, up to the rounding of a {task.model.engine.precision} file",)
    return finish(task, row, layer_map, parameters=parameters, notes=notes)


def applies(model: Any, layer: LayerChoice) -> None:
    """Raise :class:`~onnxvis.errors.LayerError` unless the head is linear after a global average pool."""
    confirmed_head(model, layer)


METHOD = Method(
    name="cam",
    title="CAM",
    summary="what each place of the last feature map adds to the logit, exactly, where the head is linear after a mean",
    paper="Zhou et al., CVPR 2016",
    attribute=attribute,
    options=CamMethodOptions,
    uses_layer=True,
    applies=applies,
    caution=(
        "Exact about the head, but a place of the last layer sees far beyond its square of the picture, and the map is "
        "as coarse as the layer."
    ),
)
