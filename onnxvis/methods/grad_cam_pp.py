"""Grad-CAM++: Grad-CAM with weights that let several instances of a class count.

Chattopadhay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional
Networks", WACV 2018. With A the activation, S the target's score, Y = exp(S) and G = dS / dA,

    a_kij = G_kij^2 / (2 G_kij^2 + (sum over (a, b) of A_kab) G_kij^3)      (equation 19)
    w_k   = sum over (i, j) of  a_kij relu(dY / dA_kij)
    L     = sum over k of  w_k A_k                                          (without the final ReLU)

Equation 19 takes the tail between the layer and the score to be piecewise linear, so that higher derivatives
of Y = exp(S) are powers of G. For G > 0 it is a = 1 / (2 + G sum A), which is how it is computed; where
G <= 0 the inner ReLU makes the weight 0. dY / dA = exp(S) G: the factor exp(S), one number for
the whole map, is left out. Published code adds a constant to the denominator (1e-6, say), which decides the
result where gradients are small; there is none here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.cam_shared import CamOptions, Finish, gradient_maps, weighted_sum

__all__ = ["METHOD", "GradCamPlusPlusOptions"]

UNITS = "weighted activation (exp(score) left out)"
_NOTE = "the inner ReLU of the paper is kept: places where a unit speaks against the target add nothing to its weight"


@dataclass(frozen=True)
class GradCamPlusPlusOptions(CamOptions):
    """Options of Grad-CAM++."""

    method: ClassVar[str] = "grad-cam++"


def attribute(task: Task) -> list[list[Attribution]]:
    """Grad-CAM++ of every score of every image; maps ``(H, W)`` in the input grid."""
    return gradient_maps(task, METHOD.name, combine, Finish(UNITS, {}, (_NOTE,)), positive_weights=True)


def combine(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Equation 19 and the weighted sum: ``(N, C, h, w)`` twice to ``(N, h, w)``."""
    total = activation.sum(axis=(2, 3), keepdims=True)
    rising = np.maximum(gradient, 0.0)
    denominator = 2.0 + rising * total
    # Zero only where a unit's activations sum to a negative number: no weight can be given to that place.
    alpha = np.divide(1.0, denominator, out=np.zeros_like(rising), where=np.abs(denominator) > 1e-12)
    return weighted_sum((alpha * rising).sum(axis=(2, 3)), activation)


METHOD = Method(
    name="grad-cam++",
    title="Grad-CAM++",
    summary="Grad-CAM whose units are weighted by their positive gradients, each place by its own coefficient",
    paper="Chattopadhay et al., WACV 2018",
    attribute=attribute,
    options=GradCamPlusPlusOptions,
    needs_gradient=True,
    uses_layer=True,
    caution=(
        "Only positive gradients count, so maps of different classes look alike; the formula supposes a rectified "
        "layer, and loses its meaning where activations are negative."
    ),
)
