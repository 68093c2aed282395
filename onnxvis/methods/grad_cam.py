"""Grad-CAM: which places of a feature map speak for the target.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
ICCV 2017. With A the activation of the layer and y the target's score,

    a_k = mean over (i, j) of  dy / dA_kij          (equation 1)
    L   = sum over k of  a_k A_k                    (equation 2, without its final ReLU)

The ReLU of equation 2 throws away what speaks against the target, so it is an option and off; the
raw map is signed. Where the head is linear after a global average pool, L is the original CAM: its sum over
the places, plus the bias, is the logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.cam_shared import CONTRIBUTION, CamOptions, Finish, gradient_maps, weighted_sum

__all__ = ["METHOD", "GradCamOptions"]


@dataclass(frozen=True)
class GradCamOptions(CamOptions):
    """Options of Grad-CAM."""

    method: ClassVar[str] = "grad-cam"


def attribute(task: Task) -> list[list[Attribution]]:
    """Grad-CAM of every score of every image; maps ``(H, W)`` in the input grid."""
    return gradient_maps(task, METHOD.name, combine, Finish(CONTRIBUTION, {}))


def combine(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Equations 1 and 2: ``(N, C, h, w)`` twice to ``(N, h, w)``."""
    return weighted_sum(gradient.mean(axis=(2, 3)), activation)


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
