"""SmoothGrad: the gradient averaged over noisy copies of the picture.

Smilkov, Thorat, Kim, Viegas & Wattenberg, "SmoothGrad: removing noise by adding noise", 2017
(arXiv:1706.03825), section 2.2:

    M(x) = 1/n  sum over i of  dS/dx (x + e_i),      e_i ~ N(0, sigma^2)

with sigma given as a part of the picture's own range, sigma / (x_max - x_min), in the model's input values.
With ``squared`` each derivative is squared before the mean (Hooker et al., "A Benchmark for Interpretability
Methods in Deep Neural Networks", NeurIPS 2019, section 4).

The noise of a picture is drawn from the seed and the picture itself, so it gets the same answer in any
company. Mean and variance are accumulated in float64 (Welford), in micro-batches: memory does not grow with n.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from onnxvis.methods.arguments import a_flag, a_number, a_whole_number
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.input_gradient import gradients_at, micro_batch, parity_at_picture
from onnxvis.methods.layout import as_float, channels_first
from onnxvis.runtime.parity import Parity

__all__ = ["METHOD", "RunningMean", "SmoothGradOptions", "noise_of"]


@dataclass(frozen=True)
class SmoothGradOptions:
    """Options of SmoothGrad."""

    samples: int = option(50, "noisy copies of the picture")
    noise: float = option(0.15, "standard deviation of the noise, as a part of the picture's range of input values")
    squared: bool = option(False, "mean of the squared derivatives instead of the signed ones (SmoothGrad-Squared)")

    def __post_init__(self) -> None:
        a_whole_number("smoothgrad", "samples", self.samples, 2)
        a_number("smoothgrad", "noise", self.noise, 0)
        a_flag("smoothgrad", "squared", self.squared)


@dataclass
class RunningMean:
    """Mean and variance of arrays that pass by in batches, in float64 (Chan et al. 1979)."""

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
    scatter: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(self, batch: np.ndarray) -> None:
        """Take in ``(M, ...)``."""
        batch = batch.astype(np.float64)
        own = batch.mean(axis=0)
        delta, total = own - self.mean, self.count + len(batch)
        self.scatter = self.scatter + ((batch - own) ** 2).sum(axis=0) + delta**2 * (self.count * len(batch) / total)
        self.mean = self.mean + delta * (len(batch) / total)
        self.count = total

    def standard_error(self) -> np.ndarray:
        """Standard error of the mean, elementwise."""
        return np.asarray(np.sqrt(self.scatter / max(1, self.count - 1) / self.count))


def noise_of(x: np.ndarray, seed: int) -> np.random.Generator:
    """The source of one picture's noise: it depends on the seed and on the picture's values alone."""
    digest = hashlib.sha256(np.ascontiguousarray(x).tobytes()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def attribute(task: Task) -> list[list[Attribution]]:
    """SmoothGrad of every score of every image; maps ``(C, H, W)`` in the input grid."""
    results = []
    for row in range(len(task.x)):
        means, sigma = _means(task, row)
        parity = parity_at_picture(task, row)
        results.append([_result(task, mean, sigma, parity) for mean in means])
    return results


def _means(task: Task, row: int) -> tuple[list[RunningMean], float]:
    options: SmoothGradOptions = task.options
    scores = task.scores[row]
    x = as_float(task.x[row : row + 1]).astype(np.float64)
    sigma = float(options.noise) * float(x.max() - x.min())
    rng, step = noise_of(task.x[row], task.seed), micro_batch(task)
    means = [RunningMean() for _ in scores]
    dtype = np.float64 if task.float64 else np.float32
    for start in range(0, options.samples, step):
        count = min(step, options.samples - start)
        points = (x + sigma * rng.standard_normal((count, *x.shape[1:]))).astype(dtype)
        for mean, gradient in zip(means, gradients_at(task, scores, points), strict=True):
            mean.add(gradient.astype(np.float64) ** 2 if options.squared else gradient)
        task.progress("smoothgrad", row * options.samples + start + count, len(task.x) * options.samples)
    return means, sigma


def _result(task: Task, mean: RunningMean, sigma: float, parity: Parity) -> Attribution:
    options: SmoothGradOptions = task.options
    size = float(np.sqrt((mean.mean**2).mean()))
    error = float(np.sqrt((mean.standard_error() ** 2).mean())) / size if size > 0 else float("nan")
    what = "squared gradients" if options.squared else "gradients"
    notes = [
        f"mean of {mean.count} {what}; noise of standard deviation {sigma:.4g} in input values, not clipped to valid "
        "colors",
        f"standard error of the map: {error:.0%} of its own size (root mean square over the values)",
        "the converted and the deployed model were compared at the picture itself, without noise",
    ]
    if sigma == 0:
        notes.insert(0, "the picture has one single value, so there is no range to take the noise from: no noise")
    if not options.squared:
        notes.append("drawn as the largest absolute value over the channels of a pixel; the kept map is signed")
    return Attribution(
        values=np.ascontiguousarray(channels_first(mean.mean, task.model.layout), dtype=np.float32),
        units="(d logit / d input)^2" if options.squared else "d logit / d input",
        signed=not options.squared,
        reduction="max-abs",
        parity=parity,
        parameters={
            "samples": mean.count,
            "noise": float(options.noise),
            "sigma": sigma,
            "squared": options.squared,
            "relative_standard_error": error,
        },
        notes=tuple(notes),
    )


METHOD = Method(
    name="smoothgrad",
    title="SmoothGrad",
    summary="the gradient averaged over noisy copies of the picture",
    paper="Smilkov et al., 2017",
    attribute=attribute,
    options=SmoothGradOptions,
    needs_gradient=True,
    quick={"samples": 2},
    caution=(
        "The noisy copies are no pictures the network knows; their answers, and so the map, depend on the noise level."
    ),
)
