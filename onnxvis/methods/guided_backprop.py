"""Guided backprop: the gradient with respect to the picture, keeping only what is positive on its way back.

Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for Simplicity: The All Convolutional Net", ICLR
workshop 2015 (arXiv:1412.6806), section 3.4 and figure 1. At every rectifier f = max(x, 0) that the signal R
passes on its way back,

    R  <-  R * [x > 0] * [R > 0]

The rule acts on the nodes of the graph, so a rectifier that a framework calls as a function, or one module
used twice, follows it like any other. A rectifier with an upper bound (ReLU6) passes nothing where it is
saturated. Activations that are no rectifiers keep their ordinary derivative; the result names them.
"""

from __future__ import annotations

from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.input_gradient import rule_attributions

__all__ = ["METHOD"]


def attribute(task: Task) -> list[list[Attribution]]:
    """Guided gradients of every score of every image; maps ``(C, H, W)`` in the input grid."""
    return rule_attributions(task, "guided", "guided d logit / d input")


METHOD = Method(
    name="guided-backprop",
    title="Guided backprop",
    summary="the gradient's fine detail, with all that turns negative on the way back left out",
    paper="Springenberg et al., ICLR workshop 2015",
    attribute=attribute,
    needs_gradient=True,
    caution=(
        "It shows edges and texture that the network can see, nearly the same for every class and even for random "
        "upper layers (Adebayo et al. 2018; Nie et al. 2018): do not read it as the reason for a class."
    ),
)
