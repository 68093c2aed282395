"""Guided Grad-CAM: the detail of guided backprop at the places of Grad-CAM.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
ICCV 2017, section 3.2: the elementwise product of guided backprop and the Grad-CAM map, the latter with its
ReLU (equation 2) and bilinearly enlarged to the size of the input.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxvis.methods import grad_cam, guided_backprop
from onnxvis.methods.base import Attribution, Method, Task
from onnxvis.methods.grad_cam import GradCamOptions

__all__ = ["METHOD"]


def attribute(task: Task) -> list[list[Attribution]]:
    """Guided Grad-CAM of every score of every image; maps ``(C, H, W)`` in the input grid.

    The parity record is that of the gradient with respect to the picture; where the gradient at the layer
    fails its own check, that record takes its place.
    """
    where = grad_cam.attribute(dataclasses.replace(task, options=GradCamOptions(relu=True)))
    detail = guided_backprop.attribute(task)
    return [
        [_product(place, fine) for place, fine in zip(places, fines, strict=True)]
        for places, fines in zip(where, detail, strict=True)
    ]


def _product(place: Attribution, fine: Attribution) -> Attribution:
    at_layer = place.parity is not None and not place.parity.passed
    return Attribution(
        values=np.ascontiguousarray(fine.values * place.values.astype(np.float64), dtype=np.float32),
        units="guided d logit / d input x contribution to the logit",
        reduction="max-abs",
        layer_map=place.layer_map,
        parity=place.parity if at_layer else fine.parity,
        notes=(*fine.notes, *place.notes),
    )


METHOD = Method(
    name="guided-grad-cam",
    title="Guided Grad-CAM",
    summary="the fine detail of guided backprop, kept where Grad-CAM sees evidence for the target",
    paper="Selvaraju et al., ICCV 2017",
    attribute=attribute,
    needs_gradient=True,
    uses_layer=True,
    caution=(
        "Only the places depend much on the class, through Grad-CAM; the detail inside them is that of guided "
        "backprop, which hardly does (Adebayo et al. 2018)."
    ),
)
