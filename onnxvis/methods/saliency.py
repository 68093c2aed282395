"""Saliency: the gradient of the target's score with respect to every input value.

Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification
Models and Saliency Maps", ICLR workshop 2014, section 3: the map is drawn as the largest absolute
derivative over the channels of a pixel (section 3.1). The signed gradient itself is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxvis.methods.base import Attribution, Method, Task, option, rows_of
from onnxvis.runtime.parity import GradientCheck, Parity

__all__ = ["METHOD", "SaliencyOptions"]


@dataclass(frozen=True)
class SaliencyOptions:
    """Options of saliency."""

    times_input: bool = option(False, "multiply the gradient by the input (gradient x input)")


def attribute(task: Task) -> list[list[Attribution]]:
    """The gradient of every score of every image; maps ``(C, H, W)`` in the input grid."""
    model = task.model
    name = model.image_input.name
    results = []
    for rows in task.rows():
        x = rows_of(task.x, rows)
        cotangents = task.cotangents(rows)
        found = model.engine.gradients(
            {name: as_float(x)}, model.logits.tensor, cotangents, (name,), float64=task.float64
        )
        for i in range(len(x)):
            row = rows.start + i
            gradients = [g[name][i] for g in found.grads[: len(task.scores[row])]]
            parity = input_parity(task, row, found.output[i], found.grads[0][name][i], cotangents[0][i])
            results.append([_result(task, gradient, x[i], parity) for gradient in gradients])
    return results


def as_float(x: np.ndarray) -> np.ndarray:
    """The input as float32, whatever the file's own type: integers have no derivative."""
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def channels_first(values: np.ndarray, layout: str) -> np.ndarray:
    """One image's values as ``(C, H, W)``; a map without channels gets one."""
    if values.ndim == 2:
        return values[None]
    return values if layout == "NCHW" else np.moveaxis(values, -1, 0)


def input_parity(
    task: Task, row: int, logits: np.ndarray, gradient: np.ndarray, cotangent: np.ndarray
) -> Parity:
    """The parity record for a gradient with respect to the picture."""
    model = task.model
    name = model.image_input.name

    def check() -> GradientCheck | None:
        if task.x.dtype.kind != "f":
            return None  # whole-number inputs cannot be moved by a small step
        feeds = {name: rows_of(task.x, slice(row, row + 1))}
        on = task.picture_name(row)
        return model.engine.difference_check(feeds, name, model.logits.tensor, cotangent, gradient, on)

    return model.engine.parity(logits, task.logits[row], check, (model.logits.tensor, name), task.float64)


def _result(task: Task, gradient: np.ndarray, x: np.ndarray, parity: Parity) -> Attribution:
    options: SaliencyOptions = task.options
    values = gradient.astype(np.float64) * x if options.times_input else gradient
    values = channels_first(values, task.model.layout)
    if options.times_input:
        return Attribution(
            values=np.ascontiguousarray(values, dtype=np.float32),
            units="input x d logit / d input",
            reduction="sum",
            parity=parity,
            parameters={"times_input": True},
            notes=("gradient x input, drawn as the sum over the channels",),
        )
    return Attribution(
        values=np.ascontiguousarray(values, dtype=np.float32),
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
