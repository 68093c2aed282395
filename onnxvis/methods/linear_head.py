"""A linear head after a global average pool: read from the graph, and believed only when the file agrees.

    logit_c = sum over k of  W_ck mean(A_k) + b_c

The weights come from the graph. Whether the file really computes this is found out by running its tail on
activations that were changed so that any dependence on the places, and any bend, would show.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxvis.errors import LayerError, ModelError
from onnxvis.graph.head import class_weights
from onnxvis.graph.index import GraphIndex
from onnxvis.methods.base import LayerChoice
from onnxvis.methods.layer_tail import reads_image

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["LinearHead", "confirmed_head", "head_or_none"]

_TOLERANCE = 1e-4
_REMEDY = "Use grad-cam, which needs no such head and gives the same map where there is one."


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A confirmed head.

    Attributes:
        weights: ``(classes, units)`` float64, for the mean over the places.
        bias: ``(classes,)`` float64.
        error: largest disagreement found, relative to the largest logit.
        tolerance: the largest that passes.
    """

    weights: np.ndarray
    bias: np.ndarray
    error: float
    tolerance: float

    def logits(self, means: np.ndarray) -> np.ndarray:
        """Means over the places ``(M, units)`` to logits ``(M, classes)``."""
        return np.asarray(means @ self.weights.T + self.bias)

    def disagreement(self, activation: np.ndarray, logits: np.ndarray) -> float:
        """``max|a - b| / max|b|`` for activations ``(M, units, h, w)`` and the file's logits ``(M, classes)``."""
        expected = self.logits(activation.astype(np.float64).mean(axis=(2, 3)))
        if expected.shape != logits.shape:
            return float("inf")
        scale = max(float(np.abs(logits).max(initial=0.0)), 1e-12)
        return float(np.abs(expected - logits).max(initial=0.0)) / scale


_known: weakref.WeakKeyDictionary[Model, LinearHead | LayerError] = weakref.WeakKeyDictionary()


def confirmed_head(model: Model, layer: LayerChoice) -> LinearHead:
    """The linear head of a model, found and confirmed once.

    Raises:
        LayerError: there is none, the layer is another one, or the file does not compute what its graph says.
    """
    if layer.tensor != model.head.cam_layer:
        raise LayerError(
            f"original CAM works only at {model.head.cam_layer!r}, the layer that enters the pooling of this model, "
            f"not at {layer.tensor!r}. Leave --layer out, or use grad-cam."
        )
    if model not in _known:
        try:
            _known[model] = _confirm(model, layer)
        except (LayerError, ModelError) as error:
            _known[model] = error if isinstance(error, LayerError) else LayerError(str(error))
    found = _known[model]
    if isinstance(found, LayerError):
        raise LayerError(str(found))
    return found


def head_or_none(model: Model, layer: LayerChoice) -> LinearHead | None:
    """The confirmed head, or ``None`` where the tail is anything else."""
    try:
        return confirmed_head(model, layer)
    except LayerError:
        return None


def _confirm(model: Model, layer: LayerChoice) -> LinearHead:
    head = model.head
    if not head.cam_applies:
        raise LayerError(f"original CAM does not apply to this model: {head.reason}. {_REMEDY}")
    try:
        weights, bias = class_weights(GraphIndex(model.canonical.model, model.shapes), head)
    except LayerError as error:
        raise LayerError(f"the weights of this model's head cannot be read: {error}") from error
    precision = model.engine.precision
    found = LinearHead(weights, bias, 0.0, _TOLERANCE if precision == "float32" else model.engine.output_tolerance)
    worst = max(_probe(model, layer, found, number) for number in range(4 if precision == "float32" else 3))
    if not worst <= found.tolerance:
        raise LayerError(
            f"original CAM does not apply to this model: its graph looks like a linear layer after a global average "
            f"pool, but the file's answers differ from that by {worst:.1e} of the largest logit. {_REMEDY}"
        )
    return LinearHead(weights, bias, worst, found.tolerance)


def _probe(model: Model, layer: LayerChoice, head: LinearHead, number: int) -> float:
    """Disagreement on one changed activation, run through the tail of the file.

    0: as it is on noise; 1: every unit's values in another order of the places; 2: every value scaled by its
    own random factor; 3: ten times that, with both signs (beyond the range that an int8 file can hold).
    """
    rng = np.random.default_rng(number)
    engine, tensor = model.engine, layer.tensor
    dtype = np.dtype(model.image_input.dtype)
    noise = rng.standard_normal(model.one_image_shape())
    if dtype.kind in "ui":
        noise = np.clip(np.rint(noise * 50 + 128), np.iinfo(dtype).min, np.iinfo(dtype).max)
    image = noise.astype(dtype)
    activation = engine.forward(image, (tensor,))[tensor][:1]
    moved = np.moveaxis(activation, layer.spatial_axes, (-2, -1)).copy()
    if number == 1:
        flat = moved.reshape(-1, moved.shape[-2] * moved.shape[-1])
        moved = rng.permuted(flat, axis=1).reshape(moved.shape)
    if number >= 2:
        moved = moved * rng.random(moved.shape)
    if number == 3:
        moved = 10 * moved * rng.choice((-1.0, 1.0), moved.shape)
    changed = np.ascontiguousarray(np.moveaxis(moved, (-2, -1), layer.spatial_axes)).astype(activation.dtype)
    if model.in_file(tensor):
        feeds = {tensor: changed} | ({model.image_input.name: image} if reads_image(model, tensor) else {})
        logits = engine.tail(feeds, model.logits.tensor)
    else:
        feeds = {tensor: changed.astype(np.float32), model.image_input.name: image}
        logits = engine.gradients(feeds, model.logits.tensor, (), (tensor,)).output
    units = np.moveaxis(changed, layer.spatial_axes, (-2, -1))
    units = units.reshape(1, -1, *units.shape[-2:])
    return head.disagreement(units, np.asarray(logits, np.float64).reshape(1, -1))
