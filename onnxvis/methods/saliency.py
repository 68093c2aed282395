"""Saliency: the gradient of the target's score with respect to every input value.

Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification
Models and Saliency Maps", ICLR workshop 2014, section 3: the map is drawn as the largest absolute
derivative over the channels of a pixel (section 3.1). The signed gradient itself is kept.

With ``times_input`` each derivative is multiplied by its input value ("gradient x input", Shrikumar et al.,
"Not Just a Black Box", 2016, section 2.1): the first-order estimate of what the value adds to the score,
compared with an input of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxvis.methods.arguments import a_flag
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.input_gradient import rule_maps
from onnxvis.methods.layout import channels_first
from onnxvis.runtime.parity import Parity

__all__ = ["METHOD", "SaliencyOptions"]


@dataclass(frozen=True)
class SaliencyOptions:
    """Options of saliency."""

    times_input: bool = option(False, "multiply the gradient by the input (gradient x input)")

    def __post_init__(self) -> None:
        a_flag("saliency", "times_input", self.times_input)


def attribute(task: Task) -> list[list[Attribution]]:
    """The gradient of every score of every image; maps ``(C, H, W)`` in the input grid."""
    found = rule_maps(task, "backprop")
    return [[_result(task, row, values, one.parity) for values in one.maps] for row, one in enumerate(found)]


def _result(task: Task, row: int, gradient: np.ndarray, parity: Parity) -> Attribution:
    options: SaliencyOptions = task.options
    if options.times_input:
        x = channels_first(task.x[row], task.model.layout)
        return Attribution(
            values=np.ascontiguousarray(gradient.astype(np.float64) * x, dtype=np.float32),
            units="input x d logit / d input",
            reduction="sum",
            parity=parity,
            parameters={"times_input": True},
            notes=("gradient x input, drawn as the sum over the channels",),
        )
    return Attribution(
        values=np.ascontiguousarray(gradient, dtype=np.float32),
        units="d logit / d input",
        reduction="max-abs",
        parity=parity,
        parameters={"times_input": False},
        notes=("drawn as the largest absolute derivative over the channels of a pixel; the kept map is signed",),
    )


METHOD = Method(
    name="saliency",
    title="Saliency",
    summary="how much the target's score changes with each input value",
    paper="Simonyan et al., ICLR workshop 2014",
    attribute=attribute,
    options=SaliencyOptions,
    needs_gradient=True,
    caution="A gradient is local: it tells what would change the score now, not what made it; it is noisy.",
)
