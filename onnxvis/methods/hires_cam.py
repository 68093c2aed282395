"""HiResCAM: activation times gradient, place by place.

Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks", 2020 (arXiv:2011.08891). With A the activation and y the target's score,

    L_ij = sum over k of  (dy / dA_kij) A_kij            (without a final ReLU)

For a network that ends in one linear layer the sum of the map over the places, plus the bias, is the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.cam_shared import CONTRIBUTION, CamOptions, Finish, gradient_maps

__all__ = ["METHOD", "HiResCamOptions"]


@dataclass(frozen=True)
class HiResCamOptions(CamOptions):
    """Options of HiResCAM."""

    method: ClassVar[str] = "hires-cam"


def attribute(task: Task) -> list[list[Attribution]]:
    """HiResCAM of every score of every image; maps ``(H, W)`` in the input grid."""
    return gradient_maps(task, METHOD.name, combine, Finish(CONTRIBUTION, {}))


def combine(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Activation times gradient: ``(N, C, h, w)`` twice to ``(N, h, w)``."""
    return np.asarray((gradient * activation).sum(axis=1))


METHOD = Method(
    name="hires-cam",
    title="HiResCAM",
    summary="activation times gradient at every place: what each place adds to the score, to first order",
    paper="Draelos & Carin, 2020",
    attribute=attribute,
    options=HiResCamOptions,
    needs_gradient=True,
    uses_layer=True,
    caution="Exact where one linear layer follows; at earlier layers it is a first-order estimate, and noisy.",
)
