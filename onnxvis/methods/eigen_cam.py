"""Eigen-CAM: the strongest common pattern of a layer's activations. It knows no class.

Muhammad & Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020. With A the
activation as a matrix (places x units) and A = U S V^T its singular value decomposition,

    L = A v_1        (v_1: the first column of V)

The paper does not subtract the mean of each unit; much code does, so it is an option. The sign of v_1 is
free in any decomposition; it is chosen so that places where the units are active in sum count as positive.
Neither the target nor a gradient enters: the map is the same for every class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxvis.methods.arguments import a_flag
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.cam_shared import CamOptions, Finish, may_be_negative, places, units_first

__all__ = ["METHOD", "EigenCamOptions"]

UNITS = "projection on the first component"
_NOTE = "class-agnostic: the map does not depend on the target, and is the same for all of them"


@dataclass(frozen=True)
class EigenCamOptions(CamOptions):
    """Options of Eigen-CAM."""

    method: ClassVar[str] = "eigen-cam"

    center: bool = option(False, "subtract each unit's mean over the places first")

    def __post_init__(self) -> None:
        super().__post_init__()
        a_flag(self.method, "center", self.center)


def attribute(task: Task) -> list[list[Attribution]]:
    """Eigen-CAM of every image, repeated for each of its scores; maps ``(H, W)`` in the input grid."""
    layer, options = task.layer, task.options
    assert layer is not None
    finish = Finish(UNITS, {"center": options.center}, (_NOTE,))
    results = []
    for row, activation in enumerate(units_first(places(task, METHOD.name), layer)):
        layer_map, share = first_component(activation, options.center)
        signed = options.center or may_be_negative(activation)
        notes = (f"the first component holds {share:.0%} of the squared activation",)
        found = finish(task, row, layer_map, signed=signed, parameters={"share": share}, notes=notes)
        results.append([found] * len(task.scores[row]))
    return results


def first_component(activation: np.ndarray, center: bool) -> tuple[np.ndarray, float]:
    """Projection on the first right singular vector, and its share of the squared sum.

    Args:
        activation: ``(C, h, w)``.
        center: subtract each unit's mean first.
    """
    matrix = activation.reshape(len(activation), -1).T.astype(np.float64)
    if center:
        matrix = matrix - matrix.mean(axis=0)
    total = float((matrix**2).sum())
    if total == 0.0:
        return np.zeros(activation.shape[1:]), 0.0
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    projection = u[:, 0] * s[0]
    if projection @ matrix.sum(axis=1) < 0:
        projection = -projection
    return projection.reshape(activation.shape[1:]), float(s[0] ** 2 / total)


METHOD = Method(
    name="eigen-cam",
    title="Eigen-CAM",
    summary="the strongest common pattern of a layer's activations, whatever the class",
    paper="Muhammad & Yeasin, IJCNN 2020",
    attribute=attribute,
    options=EigenCamOptions,
    uses_layer=True,
    caution="It shows what stands out in the layer, not why a class was chosen: the map is the same for every target.",
)
