"""Explanations written as ONNX operators on a tape.

The formulas are those of :mod:`onnxvis.methods`; A is the activation of the layer, G the gradient of the class
there, both ``(N, C, h, w)`` or in the file's own layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxvis.graph.gradient.tensor import Tape, Tensor
from onnxvis.graph.gradient.vjp import backward
from onnxvis.graph.index import GraphIndex

__all__ = ["AT_INPUT", "AT_LAYER", "ClassSeed", "Places", "enlarged", "input_map", "layer_map", "seed_of_class"]


@dataclass(frozen=True)
class Places:
    """Which axes of a layer count its units, and which its rows and columns."""

    channel: int = 1
    spatial: tuple[int, int] = (2, 3)


@dataclass(frozen=True, eq=False)
class ClassSeed:
    """The cotangent of a class, and the class index ``(N,)`` that it stands for."""

    cotangent: Tensor
    index: Tensor


def seed_of_class(tape: Tape, logits: str, class_index: str, classes: int) -> ClassSeed:
    """The derivative of the asked class's logit by the logits; -1 (and -2, beside others) asks for the largest logit.

    An index that no class has makes the run fail, as it should: Gather refuses it. It would count negative ones from
    the end, so these are made as large as none.
    """
    scores = tape.tensor(logits)
    top = scores.reshape([-1, classes]).op("ArgMax", axis=1, keepdims=0)
    asked = tape.tensor(class_index)
    chosen = asked.op("Less", tape.constant(np.array(0, np.int64))).where(top, asked)
    chosen = asked.op("Greater", tape.constant(np.array(-3, np.int64))).where(chosen, classes)
    index = tape.op("Gather", tape.constant(np.arange(classes, dtype=np.int64)), chosen)
    tape.known[index.name] = tape.known[top.name]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(scores.dtype)
    values = tape.constant(np.array([0, 1], dtype))
    one_hot = tape.op("OneHot", index, tape.constant(np.array(classes, np.int64)), values, axis=-1)
    tape.known[one_hot.name] = type(tape.known[index.name])(scores.dtype)
    shaped = one_hot.reshape(scores.shape)
    tape.known[shaped.name] = type(tape.known[index.name])(scores.dtype, scores.dims)
    return ClassSeed(shaped, index)


def _weighted(activation: Tensor, weights: Tensor, places: Places) -> Tensor:
    return (activation * weights).sum([places.channel], keepdims=False)


def _grad_cam(a: Tensor, g: Tensor, places: Places) -> Tensor:
    total = g.sum(places.spatial)
    return _weighted(a, total / (a.op("Size").cast(a.dtype) / total.op("Size").cast(a.dtype)), places)


def _grad_cam_pp(a: Tensor, g: Tensor, places: Places) -> Tensor:
    rising = g.op("Relu")
    denominator = rising * a.sum(places.spatial) + 2.0
    safe = denominator.op("Abs") > 1e-12
    alpha = safe.keep(1.0 / safe.where(denominator, 1.0))
    return _weighted(a, (alpha * rising).sum(places.spatial), places)


def _xgrad_cam(a: Tensor, g: Tensor, places: Places) -> Tensor:
    total = a.sum(places.spatial)
    none = total.equals(0.0)
    weights = none.where(total, (a * g).sum(places.spatial) / none.where(total + 1.0, total))
    return _weighted(a, weights, places)


AT_LAYER: Mapping[str, Callable[[Tensor, Tensor, Places], Tensor]] = {
    "grad-cam": _grad_cam,
    "cam": _grad_cam,  # the same map where CAM applies: the gradient of a linear head after a mean is its weights
    "hires-cam": _weighted,
    "layer-cam": lambda a, g, places: _weighted(a, g.op("Relu"), places),
    "grad-cam++": _grad_cam_pp,
    "xgrad-cam": _xgrad_cam,
}
AT_INPUT: Mapping[str, str] = {"saliency": "backprop", "guided-backprop": "guided", "deconvnet": "deconvnet"}
"""Methods at the picture, with the rule of their rectifiers."""


def layer_map(
    tape: Tape, index: GraphIndex, method: str, logits: str, layer: str, seed: ClassSeed, places: Places
) -> Tensor:
    """A class activation map ``(N, h, w)``, raw and signed."""
    gradient = backward(tape, index, logits, (layer,), seed.cotangent)[layer]
    assert gradient is not None
    return AT_LAYER[method](tape.tensor(layer), gradient, places)


def input_map(tape: Tape, index: GraphIndex, method: str, logits: str, image: str, seed: ClassSeed) -> Tensor:
    """The gradient at the picture, of its shape, under the rule of the method."""
    gradient = backward(tape, index, logits, (image,), seed.cotangent, AT_INPUT[method])[image]
    assert gradient is not None
    return gradient


def enlarged(tape: Tape, small: Tensor, image: str, rows_axis: int) -> Tensor:
    """A map ``(N, h, w)`` as large as the picture, bilinear with half-pixel centers."""
    batch = tape.op("Shape", small).op("Gather", tape.integers(0))
    shape = tape.op("Shape", tape.tensor(image))
    size = shape.op("Gather", tape.integers(rows_axis, rows_axis + 1))
    target = tape.op("Concat", batch, tape.integers(1), size, axis=0)
    options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    large = small.op("Unsqueeze", tape.integers(1)).op("Resize", None, None, target, **options)
    return large.op("Squeeze", tape.integers(1))
