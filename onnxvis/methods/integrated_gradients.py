"""Integrated gradients: the gradient gathered along the straight way from a baseline to the picture.

Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, equation 1:

    IG_i(x) = (x_i - x'_i) * integral over a in [0, 1] of  dF/dx_i (x' + a (x - x'))

with the baseline x'. The values sum to F(x) - F(x') (completeness, proposition 1) up to the error of the
quadrature, so that sum is compared with the two answers of the deployed graph and the difference reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.methods.arguments import a_whole_number, one_of
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.baseline import baseline_color, baseline_name, make_baseline
from onnxvis.methods.input_gradient import gradients_at, micro_batch, parity_at_picture
from onnxvis.methods.layout import as_float, channels_first, in_layout
from onnxvis.runtime.parity import Parity
from onnxvis.target import Score

__all__ = ["METHOD", "IntegratedGradientsOptions", "quadrature"]

QUADRATURES = ("gauss-legendre", "trapezoid")
_COMPLETE = 0.05


@dataclass(frozen=True)
class IntegratedGradientsOptions:
    """Options of integrated gradients."""

    baseline: Any = option(
        0.0,
        "where the way starts: a number in units of the model's input, 'mean' (of each channel of the picture), "
        "'blur', or in Python an array (C, H, W) or broadcastable to it",
    )
    steps: int = option(50, "points on the way at which the gradient is taken")
    quadrature: str = option("gauss-legendre", "rule of integration: gauss-legendre or trapezoid")

    def __post_init__(self) -> None:
        one_of("integrated-gradients", "quadrature", self.quadrature, QUADRATURES)
        least, most = (2, 1_000_000) if self.quadrature == "trapezoid" else (1, 2_000)
        a_whole_number("integrated-gradients", "steps", self.steps, least, most)


def quadrature(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and their weights, which sum to 1.

    Args:
        rule: "gauss-legendre", exact for polynomials of degree ``2 steps - 1``, or "trapezoid" (both ends
            included, with half weight).
        steps: number of points.
    """
    if rule == "trapezoid":
        weights = np.full(steps, 1.0 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0.0, 1.0, steps), weights
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


def attribute(task: Task) -> list[list[Attribution]]:
    """Integrated gradients of every score of every image; maps ``(C, H, W)`` in the input grid."""
    return [_one(task, row) for row in range(len(task.x))]


def _one(task: Task, row: int) -> list[Attribution]:
    options: IntegratedGradientsOptions = task.options
    layout, image = task.model.layout, channels_first(task.x[row], task.model.layout)
    wanted = in_layout(make_baseline(options.baseline, image, METHOD.name), layout, task.x[row].shape)
    baseline = _representable(wanted, task.x.dtype)
    means = _integrals(task, row, baseline)
    name = task.model.logits.tensor
    at_baseline = task.model.engine.forward(baseline[None], (name,), 1)[name].reshape(task.logits[row : row + 1].shape)
    parity = parity_at_picture(task, row)
    notes = [f"from {baseline_name(options.baseline, image)}, {options.steps} steps, {options.quadrature} quadrature"]
    notes += baseline_color(task.prepared[row], options.baseline)
    if not np.array_equal(baseline.astype(np.float64), wanted) and task.x.dtype.kind != "f":
        notes.append(f"the baseline is rounded to the model's input type, {task.x.dtype}")
    difference = as_float(task.x[row]).astype(np.float64) - baseline.astype(np.float64)
    return [
        _result(task, score, row, difference * mean, at_baseline, parity, notes)
        for score, mean in zip(task.scores[row], means, strict=True)
    ]


def _representable(baseline: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The baseline in the model's input type: the deployed graph is asked for its score there."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        baseline = np.clip(np.rint(baseline), info.min, info.max)
    return baseline.astype(dtype)


def _integrals(task: Task, row: int, baseline: np.ndarray) -> list[np.ndarray]:
    """The integral of equation 1 for each score, float64, accumulated in micro-batches."""
    options: IntegratedGradientsOptions = task.options
    scores, step = task.scores[row], micro_batch(task)
    start_point = baseline.astype(np.float64)[None]
    way = as_float(task.x[row : row + 1]).astype(np.float64) - start_point
    places, weights = quadrature(options.quadrature, options.steps)
    sums = [np.zeros(way.shape[1:]) for _ in scores]
    dtype = np.float64 if task.float64 else np.float32
    for start in range(0, options.steps, step):
        part = slice(start, start + step)
        along = places[part].reshape(-1, *[1] * (way.ndim - 1))
        points = (start_point + along * way).astype(dtype)
        for k, gradient in enumerate(gradients_at(task, scores, points)):
            sums[k] += np.tensordot(weights[part], gradient.astype(np.float64), axes=1)
        done = row * options.steps + min(start + step, options.steps)
        task.progress("integrated-gradients", done, len(task.x) * options.steps)
    return sums


def _result(
    task: Task,
    score: Score,
    row: int,
    values: np.ndarray,
    at_baseline: np.ndarray,
    parity: Parity,
    notes: list[str],
) -> Attribution:
    options: IntegratedGradientsOptions = task.options
    here, there = (float(score.value(logits)[0]) for logits in (task.logits[row : row + 1], at_baseline))
    total, expected = float(values.sum()), here - there
    error = abs(total - expected) / max(abs(expected), 1e-12)
    said = (
        f"the map sums to {total:+.4f}; the deployed model's score rises by {expected:+.4f} from baseline to picture "
        f"(completeness error {error:.1%})"
    )
    if error > _COMPLETE:
        said += ": take more steps before trusting the amounts"
    value = options.baseline
    return Attribution(
        values=np.ascontiguousarray(channels_first(values, task.model.layout), dtype=np.float32),
        units="contribution to the logit",
        reduction="sum",
        parity=parity,
        parameters={
            "baseline": value if isinstance(value, str | int | float) else "array",
            "steps": options.steps,
            "quadrature": options.quadrature,
            "score_at_baseline": there,
            "sum": total,
            "completeness_error": error,
        },
        notes=(*notes, said, "drawn as the sum over the channels of a pixel"),
    )


METHOD = Method(
    name="integrated-gradients",
    title="Integrated gradients",
    summary="how the score's rise from a baseline picture divides among the input values",
    paper="Sundararajan et al., ICML 2017",
    attribute=attribute,
    options=IntegratedGradientsOptions,
    needs_gradient=True,
    quick={"steps": 2},
    caution=(
        "The answer is relative to the baseline: what looks like it gets no credit (black things on a black baseline)."
    ),
)
