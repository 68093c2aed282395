"""Sets of units that cause a concept together, where single units stand in for each other.

Bau et al., ICLR 2019, section 3.2 and equation 6: every unit gets a part alpha in 0..1 of an intervention,

    x_a = f((1 - alpha) r),    x_i = f(alpha k + (1 - alpha) r)    at random places P,
    alpha* = argmin  -(E[s_c(x_i)] - E[s_c(x_a)]) + penalty |alpha|^2,

found by stochastic gradients with alpha clipped to 0..1. The gradient goes through the part of the generator behind the
layer (torch, or ONNX operators), so the concept needs a differentiable score: built-in colors have one. For other
segmenters units are added one by one, each time the one whose measured effect together with the others is largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.behaviour.gan.concepts import Segmenter
from onnxvis.behaviour.gan.effects import Trunks, measure
from onnxvis.behaviour.gan.generator import Generator
from onnxvis.behaviour.gan.interventions import Interventions
from onnxvis.errors import UsageError
from onnxvis.progress import Progress, silent
from onnxvis.runtime.choose_gradients import gradient_backend
from onnxvis.runtime.gradients import GradientBackend

__all__ = ["UnitSet", "greedy_set", "has_gradient", "optimized_set"]

_MOMENTS = (0.9, 0.99)
_SMALL = 1e-8
_RISE = 13 / 12


@dataclass(frozen=True, eq=False)
class UnitSet:
    """A set that was searched for.

    Attributes:
        units: the strongest first.
        strength: alpha of every unit ``(U,)``, or how the effect grew with each unit added.
        history: the objective (to be minimized) after each step.
        note: how it was found, one sentence.
    """

    units: tuple[int, ...]
    strength: np.ndarray
    history: tuple[float, ...]
    note: str


def has_gradient(segmenter: Segmenter) -> bool:
    """Whether the segmenter has a differentiable form (a method ``soft``)."""
    return callable(getattr(segmenter, "soft", None))


def optimized_set(
    interventions: Interventions,
    segmenter: Segmenter,
    concept: str,
    values: np.ndarray,
    *,
    ids: Sequence[int],
    count: int = 8,
    seed: int = 0,
    steps: int = 120,
    batch: int = 8,
    penalty: float = 0.01,
    rate: float = 0.05,
    gradients: str = "auto",
    progress: Progress = silent,
) -> UnitSet:
    """The paper's search: Adam on alpha, a random rectangle P of half the sides or more at each step.

    The paper fixes the penalty by hand. Here it rises by a twelfth while alpha is longer than a set of ``count`` whole
    units, and sinks as much while it is shorter than half of that: what is left at the end is about such a set.

    Args:
        interventions: on a layer that exists in the canonical form.
        segmenter: with a method ``soft(concept, colors)``.
        concept: c.
        values: ``(U,)``, k.
        ids: samples to draw batches from.
        count: how many units of the largest alpha make the set.
        seed: of samples, batches and places.
        steps: of the search.
        batch: samples in each.
        penalty: of the squared length of alpha, to begin with.
        rate: step size of Adam.
        gradients: who computes them: "auto", "torch" or "onnx".
        progress: told of every step.

    Raises:
        UsageError: the segmenter has no differentiable form.
        ConversionError: the part behind the layer cannot be differentiated.
    """
    if not has_gradient(segmenter):
        raise UsageError("this segmenter has no differentiable form; use greedy_set.")
    rng = np.random.default_rng(seed)
    generator, layer = interventions.generator, interventions.layer
    backend = gradient_backend(gradients, generator.canonical.model, generator.provider, False)
    pool, feeds = _pool(interventions, ids, seed)
    alpha = rng.uniform(0.3, 0.7, layer.units)
    adam = _Adam(layer.units, rate)
    history = []
    for step in range(steps):
        rows = rng.choice(len(pool), min(batch, len(pool)), replace=False)
        fed = {n: a[rows] if len(a) == len(pool) else a for n, a in feeds.items()}
        place = _rectangle(rng, layer.size)
        goal, slope = _objective(
            generator, interventions, backend, segmenter, concept, pool[rows], fed, alpha, values, place
        )
        history.append(float(goal + penalty * alpha @ alpha))
        alpha = np.clip(alpha - adam(slope + 2 * penalty * alpha), 0, 1)
        length = float(alpha @ alpha)
        penalty *= _RISE if length > count else (1 / _RISE if length < count / 2 else 1.0)
        progress("alpha", step + 1, steps)
    order = np.argsort(-alpha, kind="stable")[:count]
    note = (
        f"alpha searched by gradients ({backend.name}) over {steps} steps of {batch} samples at random places, with "
        f"the differentiable form of {concept!r} and a penalty of {penalty:.2g} at the end; the {len(order)} "
        "largest are the set"
    )
    return UnitSet(tuple(int(u) for u in order), alpha, tuple(history), note)


class _Adam:
    """Steps of Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1."""

    def __init__(self, size: int, rate: float) -> None:
        self._rate, self._count = rate, 0
        self._moments = np.zeros((2, size))

    def __call__(self, slope: np.ndarray) -> np.ndarray:
        """What to subtract for a gradient ``(size,)``."""
        self._count += 1
        decays = np.array(_MOMENTS)[:, None]
        self._moments += (1 - decays) * (np.stack([slope, slope**2]) - self._moments)
        mean, square = self._moments / (1 - decays**self._count)
        return np.asarray(self._rate * mean / (np.sqrt(square) + _SMALL))


def _pool(interventions: Interventions, ids: Sequence[int], seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = interventions.generator
    feeds = generator.feeds(ids, seed)
    parts = [
        interventions.trunk(generator.feeds(ids[i : i + generator.batch], seed))
        for i in range(0, len(ids), generator.batch)
    ]
    pool = np.concatenate(parts)
    return pool.astype(np.float32), {n: a for n, a in feeds.items() if n in interventions.read_behind}


def _rectangle(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """``(h, w)`` float: 1 in a random rectangle of half the height and width or more."""
    place = np.zeros(size)
    spans = []
    for length in size:
        side = int(rng.integers(-(-length // 2), length + 1))
        start = int(rng.integers(0, length - side + 1))
        spans.append(slice(start, start + side))
    place[spans[0], spans[1]] = 1
    return place


def _objective(
    generator: Generator,
    interventions: Interventions,
    backend: GradientBackend,
    segmenter: Any,
    concept: str,
    activation: np.ndarray,
    feeds: Mapping[str, np.ndarray],
    alpha: np.ndarray,
    values: np.ndarray,
    place: np.ndarray,
) -> tuple[float, np.ndarray]:
    """``-(s(x_i) - s(x_a))`` averaged over samples, and its derivative by alpha ``(U,)``.

    With weight w = alpha at the places P: x_a has (1 - w) r, so d/dalpha = -r; x_i has w k + (1 - w) r, so k - r.
    """
    part = (alpha[:, None, None] * place)[None]
    k = values[None, :, None, None]
    total, slope = 0.0, np.zeros(len(alpha))
    for sign, forced, moved in (
        (1.0, (1 - part) * activation, -activation),
        (-1.0, part * k + (1 - part) * activation, k - activation),
    ):
        score, gradient = _soft_score(generator, interventions, backend, segmenter, concept, forced, feeds, place)
        total += sign * score
        slope += sign * (gradient * moved * place).sum(axis=(0, 2, 3))
    return total, slope


def _soft_score(
    generator: Generator,
    interventions: Interventions,
    backend: GradientBackend,
    segmenter: Any,
    concept: str,
    forced: np.ndarray,
    feeds: Mapping[str, np.ndarray],
    place: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Mean differentiable presence in the region, and its derivative by the layer ``(N, U, h, w)``."""
    layer, output = interventions.layer, generator.output
    fed = {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in feeds.items()}
    fed[layer.tensor] = layer.in_layout(forced.astype(np.float32))
    picture = backend.vjp(fed, output, (), (layer.tensor,)).output
    low, high = generator.range.low, generator.range.high
    factor = 255.0 / (high - low)
    colors = np.moveaxis(picture, 1, -1) if generator.layout == "NCHW" else picture
    rgb = np.broadcast_to(colors[..., :3], (*colors.shape[:3], 3)) if colors.shape[-1] < 3 else colors[..., :3]
    score, slope = segmenter.soft(concept, (rgb - low) * factor)
    weight = _enlarged(place, score.shape[1:3])
    weight = weight / (weight.sum() * len(score))
    cotangent = np.zeros_like(colors, np.float32)
    scaled = slope * (weight[None, ..., None] * factor)
    if colors.shape[-1] < 3:
        cotangent[..., 0] = scaled.sum(axis=-1)
    else:
        cotangent[..., :3] = scaled
    seed = np.ascontiguousarray(np.moveaxis(cotangent, -1, 1)) if generator.layout == "NCHW" else cotangent
    found = backend.vjp(fed, output, [seed], (layer.tensor,)).grads[0][layer.tensor]
    return float((score * weight).sum()), layer.units_first(found).astype(np.float64)


def _enlarged(place: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Places of the layer as pixels, each pixel that of the place its center falls into."""
    rows = (np.arange(size[0]) * 2 + 1) * place.shape[0] // (2 * size[0])
    cols = (np.arange(size[1]) * 2 + 1) * place.shape[1] // (2 * size[1])
    return np.asarray(place[rows][:, cols])


def greedy_set(
    interventions: Interventions,
    segmenter: Segmenter,
    concept: str,
    values: np.ndarray,
    samples: Trunks,
    candidates: Sequence[int],
    *,
    count: int = 8,
    progress: Progress = silent,
) -> UnitSet:
    """Units added one by one, each time the one that makes the measured effect of the set largest.

    Args:
        interventions: on a layer.
        segmenter: any.
        concept: c.
        values: ``(U,)``, k.
        samples: to measure on; a few dozen, since every step runs them for every candidate.
        candidates: units to choose from, for example the best 24 by their own effect.
        count: how many units.
        progress: told of every unit added.
    """
    if not 1 <= count <= len(set(candidates)):
        raise UsageError(f"a set of {count} units cannot be chosen from {len(set(candidates))} candidates.")
    chosen: list[int] = []
    history: list[float] = []
    for step in range(count):
        left = [u for u in dict.fromkeys(candidates) if u not in chosen]
        effects = [measure(interventions, segmenter, [*chosen, u], samples, values).ace(concept)[0] for u in left]
        best = int(np.argmax(effects))
        chosen.append(left[best])
        history.append(-effects[best])
        progress("units", step + 1, count)
    note = (
        f"added one by one from {len(set(candidates))} candidates by the measured average causal effect on "
        f"{len(samples.base)} samples: this segmenter has no differentiable form"
    )
    return UnitSet(tuple(chosen), -np.array(history), tuple(history), note)
