"""Score-CAM: each unit weighted by the score of the picture seen through its own map.

Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR
workshops 2020. With A the activation, X the picture, f the target's score and X_b an all-zero input,

    H_k = s(Up(A_k)),   s(x) = (x - min x) / (max x - min x)
    c_k = f(X o H_k) - f(X_b)                                      (increase of confidence, definition 2)
    a   = softmax(c) over the units                                (algorithm 1)
    L   = sum over k of  a_k A_k                                   (without the final ReLU)

By this definition the whole network runs once for every unit. A unit that is constant over the places has
no normalized map; its masked picture is taken to be X_b, so c_k = 0 and nothing runs. Two options depart
from the definition, and say so:

* ``mask=layer`` lays the normalized map of a unit over *all units of the layer* instead of over the picture:
  c_k = f_tail(A o s(A_k)) - f_tail(0). The question stays the same (what is the score if only the places
  that unit k marks are seen?) but is asked of the features, which the tail alone answers; places keep what
  they had seen of their surroundings, and no sharp masks are shown to early layers that never saw any.
* ``top_channels=k`` keeps only the k units with the largest sum of squared activations.

``weights=increase`` takes c_k itself for a_k (equation 8), which keeps units that speak against the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.methods.arguments import a_whole_number, one_of
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.cam_shared import CamOptions, Finish, may_be_negative, places, units_first, weighted_maps
from onnxvis.methods.layer_tail import LayerTail, score_values
from onnxvis.methods.linear_head import head_or_none

__all__ = ["METHOD", "ScoreCamOptions", "normalized"]

UNITS = {"softmax": "mean activation, weighted by score", "increase": "increase of the logit x activation"}
Scorer = Callable[[Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class ScoreCamOptions(CamOptions):
    """Options of Score-CAM."""

    method: ClassVar[str] = "score-cam"

    mask: str = option("input", "what is masked: 'input' (the paper) or 'layer' (a variant that runs only the tail)")
    weights: str = option("softmax", "'softmax' of the increases (the paper's algorithm), or 'increase' itself")
    top_channels: Any = option(None, "an approximation: only this many units, those with the most energy (all)")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.method, "mask", self.mask, ("input", "layer"))
        one_of(self.method, "weights", self.weights, tuple(UNITS))
        if self.top_channels is not None:
            a_whole_number(self.method, "top_channels", self.top_channels, 1)


def attribute(task: Task) -> list[list[Attribution]]:
    """Score-CAM of every score of every image; maps ``(H, W)`` in the input grid."""
    layer, options = task.layer, task.options
    assert layer is not None
    whole = units_first(places(task, METHOD.name), layer)
    chosen = [_chosen(activation, options.top_channels) for activation in whole]
    total, done = sum(map(len, chosen)), 0
    results = []
    for row, units in enumerate(chosen):
        base, scorer, rows, note = _scorer(task, row, whole[row])
        found = []
        for start in range(0, len(units), rows):
            found.append(scorer(units[start : start + rows]) - base)
            done += len(found[-1])
            task.progress(METHOD.name, done, total)
        results.append(_finished(task, row, whole[row], units, np.concatenate(found), base, note))
    return results


def _finished(
    task: Task,
    row: int,
    activation: np.ndarray,
    units: Sequence[int],
    increases: np.ndarray,
    base: np.ndarray,
    note: str,
) -> list[Attribution]:
    options: ScoreCamOptions = task.options
    weights = softmax(increases) if options.weights == "softmax" else increases
    maps = weighted_maps(weights.T, activation[list(units)])
    notes = [note, f"{len(units)} of {len(activation)} units"]
    if len(units) < len(activation):
        notes[-1] += f", those with the most energy: an approximation (top_channels={len(units)})"
    finish = Finish(
        UNITS[options.weights],
        {"mask": options.mask, "weights": options.weights, "units": len(units)},
        tuple(notes),
    )
    signed = options.weights == "increase" or may_be_negative(activation)
    results = []
    for k, layer_map in enumerate(maps):
        said: tuple[str, ...] = ()
        if options.weights == "softmax":
            said = (f"the softmax gives half of the weight to {_half(weights[:, k])} of {len(units)} units",)
        parameters = {"baseline_score": float(base[k])}
        results.append(finish(task, row, layer_map, signed=signed, parameters=parameters, notes=said))
    return results


def _chosen(activation: np.ndarray, most: int | None) -> list[int]:
    """Indices of the units that are used, ascending."""
    if most is None or most >= len(activation):
        return list(range(len(activation)))
    energy = (activation.astype(np.float64) ** 2).sum(axis=(1, 2))
    return sorted(int(k) for k in np.argsort(-energy, kind="stable")[:most])


def _scorer(task: Task, row: int, activation: np.ndarray) -> tuple[np.ndarray, Scorer, int, str]:
    """Scores of the baseline ``(T,)``, of masked copies ``(M, T)``, how many at once, and what to say."""
    options: ScoreCamOptions = task.options
    if options.mask == "input":
        return _through_picture(task, row, activation)
    layer = task.layer
    assert layer is not None
    masks = normalized(activation)
    scores = task.scores[row]
    variant = "a variant: the layer is masked, not the picture"
    head = head_or_none(task.model, layer)
    if head is not None:
        flat = activation.reshape(len(activation), -1).astype(np.float64)
        means = masks.reshape(len(masks), -1).astype(np.float64) @ flat.T / flat.shape[1]
        logits = head.logits(means)
        base = score_values(scores, head.logits(np.zeros_like(means[:1])))[0]
        note = f"{variant}; closed form, as the head is linear after a global average pool"
        return base, lambda units: score_values(scores, logits[list(units)]), len(activation), note
    tail = LayerTail(task, row)
    base = score_values(scores, tail(np.zeros_like(tail.activation)))[0]
    moved = np.moveaxis(tail.activation, layer.spatial_axes, (-2, -1))
    shape = (-1, *[1] * (moved.ndim - 3), *moved.shape[-2:])

    def score(units: Sequence[int]) -> np.ndarray:
        masked = moved * masks[list(units)].reshape(shape).astype(moved.dtype)
        copies = np.ascontiguousarray(np.moveaxis(masked, (-2, -1), layer.spatial_axes))
        return score_values(scores, tail(copies))

    return base, score, tail.rows, f"{variant}; {tail.note}, {tail.rows} at once"


def _through_picture(task: Task, row: int, activation: np.ndarray) -> tuple[np.ndarray, Scorer, int, str]:
    model, scores = task.model, task.scores[row]
    image = task.x[row]
    name = model.logits.tensor
    flat = (activation.max(axis=(1, 2)) == activation.min(axis=(1, 2))).astype(bool)

    def run(x: np.ndarray) -> np.ndarray:
        logits = model.engine.forward(x, (name,), task.batch_size)[name]
        return score_values(scores, logits.reshape(len(x), *task.logits.shape[1:]))

    base = run(np.zeros_like(image)[None])[0]

    def score(units: Sequence[int]) -> np.ndarray:
        values = np.repeat(base[None], len(units), axis=0)
        seen = [i for i, unit in enumerate(units) if not flat[unit]]
        if seen:
            masks = normalized(upsample_bilinear(activation[[units[i] for i in seen]], task.grid))
            values[seen] = run(_masked(image, masks, model.layout))
        return values

    note = "the whole deployed network ran once for each unit, on the picture times its normalized map"
    if flat.any():
        note += f"; {int(flat.sum())} units are constant over the places, so their increase is 0 and nothing ran"
    return base, score, task.batch_size, note


def _masked(image: np.ndarray, masks: np.ndarray, layout: str) -> np.ndarray:
    """Copies of one image ``(...)`` in the model's layout, each under one mask ``(M, H, W)``."""
    layered = masks[..., None] if layout == "NHWC" and image.ndim == 3 else masks
    if layout == "NCHW" and image.ndim == 3:
        layered = masks[:, None]
    copies = image[None] * layered
    return np.ascontiguousarray(np.rint(copies) if image.dtype.kind in "ui" else copies).astype(image.dtype)


def normalized(maps: np.ndarray) -> np.ndarray:
    """Each map ``(h, w)`` of several brought to 0..1; a constant one becomes 0."""
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return np.asarray(np.divide(maps - low, span, out=np.zeros_like(maps), where=span > 0))


def softmax(values: np.ndarray) -> np.ndarray:
    """Over the first axis."""
    exponentials = np.exp(values - values.max(axis=0))
    return np.asarray(exponentials / exponentials.sum(axis=0))


def _half(weights: np.ndarray) -> int:
    """How many of the largest weights make up half of their sum."""
    ordered = np.sort(weights)[::-1]
    return int(np.searchsorted(np.cumsum(ordered), 0.5 * ordered.sum())) + 1


METHOD = Method(
    name="score-cam",
    title="Score-CAM",
    summary="each unit of a layer, weighted by the score of the picture seen through its own map",
    paper="Wang et al., CVPR workshops 2020",
    attribute=attribute,
    options=ScoreCamOptions,
    uses_layer=True,
    quick={"top_channels": 4},
    caution=(
        "One run of the whole network for each unit; the softmax over logits often gives nearly all weight to a few "
        "units, and masked pictures look like nothing the network was trained on."
    ),
)
