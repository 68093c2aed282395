"""XGrad-CAM: Grad-CAM with weights that keep the total.

Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", BMVC 2020. With A
the activation and y the target's score,

    w_k = sum over (i, j) of  (A_kij / sum over (a, b) of A_kab)  dy / dA_kij
    L   = sum over k of  w_k A_k                                                      (without a final ReLU)

The sum of L over the places is the sum of activation times gradient, as in HiResCAM. A unit whose activations
sum to exactly 0 has no such mean; it gets the weight 0, which for a unit that is off everywhere changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.cam_shared import CONTRIBUTION, CamOptions, Finish, gradient_maps, weighted_sum

__all__ = ["METHOD", "XGradCamOptions"]


@dataclass(frozen=True)
class XGradCamOptions(CamOptions):
    """Options of XGrad-CAM."""

    method: ClassVar[str] = "xgrad-cam"


def attribute(task: Task) -> list[list[Attribution]]:
    """XGrad-CAM of every score of every image; maps ``(H, W)`` in the input grid."""
    return gradient_maps(task, METHOD.name, combine, Finish(CONTRIBUTION, {}))


def combine(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Weights and weighted sum: ``(N, C, h, w)`` twice to ``(N, h, w)``."""
    total = activation.sum(axis=(2, 3))
    products = (activation * gradient).sum(axis=(2, 3))
    weights = np.divide(products, total, out=np.zeros_like(products), where=total != 0)
    return weighted_sum(weights, activation)


METHOD = Method(
    name="xgrad-cam",
    title="XGrad-CAM",
    summary="Grad-CAM whose gradient is averaged where each unit is active",
    paper="Fu et al., BMVC 2020",
    attribute=attribute,
    options=XGradCamOptions,
    needs_gradient=True,
    uses_layer=True,
    caution=(
        "Its weights divide by the sum of a unit's activations: at a layer with negative activations that sum can be "
        "near 0, and one unit then fills the map."
    ),
)
