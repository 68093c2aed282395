"""LayerCAM: every place of every unit weighted by its own positive gradient.

Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE Transactions
on Image Processing 2021. With A the activation and y the target's score,

    w_kij = relu(dy / dA_kij)
    L_ij  = sum over k of  w_kij A_kij                   (without the final ReLU)

The ReLU on the gradient is part of the definition and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.cam_shared import CONTRIBUTION, CamOptions, Finish, gradient_maps

__all__ = ["METHOD", "LayerCamOptions"]

UNITS = f"{CONTRIBUTION}, positive gradients only"
_NOTE = "the paper's ReLU on the gradient is kept: what speaks against the target is not in the map"


@dataclass(frozen=True)
class LayerCamOptions(CamOptions):
    """Options of LayerCAM."""

    method: ClassVar[str] = "layer-cam"


def attribute(task: Task) -> list[list[Attribution]]:
    """LayerCAM of every score of every image; maps ``(H, W)`` in the input grid."""
    return gradient_maps(task, METHOD.name, combine, Finish(UNITS, {}, (_NOTE,)), positive_weights=True)


def combine(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Weights and weighted sum: ``(N, C, h, w)`` twice to ``(N, h, w)``."""
    return np.asarray((np.maximum(gradient, 0.0) * activation).sum(axis=1))


METHOD = Method(
    name="layer-cam",
    title="LayerCAM",
    summary="each place of each unit, weighted by its own positive gradient; usable at early, finer layers",
    paper="Jiang et al., IEEE TIP 2021",
    attribute=attribute,
    options=LayerCamOptions,
    needs_gradient=True,
    uses_layer=True,
    caution="Negative evidence is cut away unit by unit, so a map that looks sure may belong to an unsure answer.",
)
