"""Deconvnet: the target projected back to the picture, rectified on the way back instead of gated.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, in the form that
Springenberg et al., "Striving for Simplicity", ICLR workshop 2015, figure 1 gives it beside the gradient and
guided backprop: at every rectifier that the signal R passes on its way back,

    R  <-  R * [R > 0]

whatever the rectifier did on the way forward; saturated units of a ReLU6 pass their signal too. Max pooling
passes R to the place of the maximum (the "switches" of Zeiler & Fergus). What starts the projection here is
the target's logit; ``zfnet-deconvnet`` starts from a unit of a layer, as the paper did.
"""

from __future__ import annotations

from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.input_gradient import rule_attributions

__all__ = ["METHOD"]


def attribute(task: Task) -> list[list[Attribution]]:
    """Deconvnet projections of every score of every image; maps ``(C, H, W)`` in the input grid."""
    return rule_attributions(task, "deconvnet", "deconvnet d logit / d input")


METHOD = Method(
    name="deconvnet",
    title="Deconvnet",
    summary="the target projected back to the picture, rectified on the way back",
    paper="Zeiler & Fergus, ECCV 2014; Springenberg et al., 2015",
    attribute=attribute,
    needs_gradient=True,
    caution=(
        "The way back ignores which units were active, so without max pooling the map hardly depends on the picture; "
        "like guided backprop it tells classes apart poorly (Adebayo et al. 2018; Nie et al. 2018)."
    ),
)
