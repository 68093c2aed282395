"""Faithfulness and quality of explanations, as numbers.

One function, :func:`measure`, for any explanation of any model; the metrics follow the papers they cite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxvis.audit.metrics.base import BASELINES, Measured, Metric, Settings, Subject
from onnxvis.audit.metrics.registry import METRICS
from onnxvis.audit.metrics.rerun import pinned_score
from onnxvis.audit.metrics.similarity import agreement, rank_correlation, ssim
from onnxvis.audit.metrics.summary import Summary, summarize
from onnxvis.audit.metrics.where import as_mask
from onnxvis.errors import UsageError, did_you_mean
from onnxvis.prediction import logits_of
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation
    from onnxvis.model import Model

__all__ = [
    "BASELINES",
    "Measured",
    "Metric",
    "Summary",
    "agreement",
    "get_metric",
    "measure",
    "metric_names",
    "rank_correlation",
    "ssim",
    "summarize",
]


def metric_names() -> list[str]:
    """The names of all metrics, in the order they are listed to people."""
    return [metric.name for metric in METRICS]


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UsageError: there is none; the nearest names are suggested.
    """
    key = name.strip().lower().replace("_", "-")
    for metric in METRICS:
        if metric.name == key:
            return metric
    names = metric_names()
    raise UsageError(f"there is no metric {name!r}.{did_you_mean(key, names)} The metrics: {', '.join(names)}.")


def measure(
    model: Model,
    explanations: Sequence[Explanation],
    metrics: Sequence[str] | None = None,
    *,
    masks: Sequence[np.ndarray | None] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    steps: int = 28,
    samples: int = 40,
    score: str = "probability",
    baseline: str | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> list[dict[str, Measured]]:
    """Measure explanations of a model.

    Perturbed pictures are made and run a batch at a time: memory does not grow with the steps.

    Args:
        model: the model that was explained.
        explanations: from :func:`onnxvis.explain`.
        metrics: names from :func:`metric_names`; ``None`` takes the quick ones, and those that need a mask only where
            masks are given.
        masks: for each explanation where the object is: a box ``(x0, y0, x1, y1)``, several ``(k, 4)``, or a mask
            ``(H0, W0)``, in pixels of the original picture; ``None`` where nobody knows.
        batch_size: perturbed pictures at once.
        seed: of ties, random sets and noise.
        steps: of insertion and deletion; the authors' code takes 28 at 224 pixels.
        samples: random sets of each size for sensitivity-n.
        score: "probability" (as in the papers; the logit where the output has none) or "logit".
        baseline: "zero", "mean" or "blur" for every metric; ``None`` takes each paper's own.
        engine: of infidelity's patches, as for occlusion: "auto" takes the faster one by measured time, so that the
            last bits may differ from run to run; "plain" gives the same ones.
        progress: called with (stage, done, total).

    Returns:
        For each explanation its results by metric. A metric that does not apply has no value and says why.

    Raises:
        UsageError: an unknown metric, a setting that is not valid, or masks that do not fit.
    """
    settings = Settings(batch_size, seed, steps, samples, score, baseline, progress or silent, engine)
    if masks is not None and len(masks) != len(explanations):
        raise UsageError(f"{len(masks)} masks were given for {len(explanations)} explanations; give one for each.")
    usual = [m.name for m in METRICS if m.quick and (masks is not None or not m.needs_mask)]
    chosen = [get_metric(name) for name in (usual if metrics is None else metrics)]
    results = []
    for number, explanation in enumerate(explanations):
        settings.progress("metrics", number, len(explanations))
        mask = None if masks is None else masks[number]
        subject = _subject(model, explanation, mask, settings)
        results.append({metric.name: _measured(metric, subject) for metric in chosen})
    settings.progress("metrics", len(explanations), len(explanations))
    return results


def _subject(model: Model, explanation: Explanation, mask: np.ndarray | None, settings: Settings) -> Subject:
    prepared = explanation.prepared
    x0, y0, x1, y1 = prepared.geometry.content_box
    name = model.logits.tensor
    logits = logits_of(model, model.engine.forward(prepared.tensor, (name,)), 1)[0]
    where, boxes = (None, ()) if mask is None else as_mask(mask, prepared.geometry)
    return Subject(
        model,
        explanation,
        pinned_score(model, explanation, logits),
        np.asarray(explanation.heat(), np.float64),
        (slice(y0, y1), slice(x0, x1)),
        where,
        boxes,
        settings,
    )


def _measured(metric: Metric, subject: Subject) -> Measured:
    try:
        return metric.measure(subject)
    except UsageError as error:
        return Measured(None, None, str(error))
