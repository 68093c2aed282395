"""Properties of the map alone: is it concentrated on few pixels, or spread over many?

They say nothing about truth: a map with a single pixel is perfectly sparse and may be perfectly wrong.
"""

from __future__ import annotations

import numpy as np

from onnxvis.audit.metrics.base import Measured, Subject
from onnxvis.errors import UsageError

__all__ = ["complexity", "entropy", "gini", "sparseness"]


def gini(values: np.ndarray) -> float:
    """Gini index of absolute values: 0 where all are equal, ``1 - 1 / n`` where one has everything.

    Hurley & Rickard, "Comparing Measures of Sparsity", 2009, equation 1 (their form with ranks).
    """
    ordered = np.sort(np.abs(values.reshape(-1).astype(np.float64)))
    n, total = ordered.size, float(ordered.sum())
    ranks = np.arange(1, n + 1)
    return float(((2 * ranks - n - 1) * ordered).sum() / (n * total))


def entropy(values: np.ndarray) -> float:
    """Entropy in nats of the absolute values as parts of their sum: 0 to the logarithm of their number."""
    parts = np.abs(values.reshape(-1).astype(np.float64))
    parts = parts[parts > 0] / parts.sum()
    return float(-(parts * np.log(parts)).sum())


def sparseness(subject: Subject) -> Measured:
    """Gini index of the map (Chalasani et al., ICML 2020, section 5); near 1 is concentrated."""
    return Measured(gini(_not_flat_zero(subject)))


def complexity(subject: Subject) -> Measured:
    """Entropy of the map's fractional contributions (Bhatt et al., IJCAI 2020, equations 5 and 6); small is simple."""
    values = _not_flat_zero(subject)
    return Measured(entropy(values), None, f"at most {np.log(values.size):.2f} for this number of pixels")


def _not_flat_zero(subject: Subject) -> np.ndarray:
    values = subject.shown()
    if not np.isfinite(values).all():
        raise UsageError("the map holds NaN or infinity")
    if not np.abs(values).any():
        raise UsageError("every value of the map is 0")
    return values
