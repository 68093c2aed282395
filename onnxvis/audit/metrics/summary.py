"""A mean over pictures, and how far it may be from the truth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["Summary", "summarize", "wilson"]

_RESAMPLES = 2000
_Z = 1.959963984540054


@dataclass(frozen=True)
class Summary:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: of the values; ``None`` where there are none.
        low: lower end of the interval; ``None`` for fewer than two values.
        high: upper end.
        n: how many values there were.
        method: how the interval was made.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    method: str


def summarize(values: Iterable[float | None], *, rate: bool | None = None, seed: int = 0) -> Summary:
    """The mean over pictures with a 95 % interval.

    A rate (all values 0 or 1) gets Wilson's score interval (Wilson 1927, equation for two proportions of the normal
    approximation inverted), which is right for small numbers and near 0 and 1; anything else the percentile bootstrap
    over the pictures (Efron 1979), 2000 resamples drawn by the seed.

    Args:
        values: one for each picture; ``None`` and NaN are left out.
        rate: whether they are 0 or 1; ``None`` finds out.
        seed: of the bootstrap.
    """
    kept = np.array([v for v in values if v is not None and math.isfinite(v)], np.float64)
    n = len(kept)
    if not n:
        return Summary(None, None, None, 0, "no values")
    mean = float(kept.mean())
    if rate is None:
        rate = bool(np.isin(kept, (0.0, 1.0)).all())
    if rate:
        low, high = wilson(float(kept.sum()), n)
        return Summary(mean, low, high, n, "Wilson")
    if n < 2:
        return Summary(mean, None, None, n, "one value has no interval")
    rng = np.random.default_rng(seed)
    means = np.array([kept[rng.integers(0, n, n)].mean() for _ in range(_RESAMPLES)])
    low, high = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    return Summary(mean, low, high, n, f"bootstrap, {_RESAMPLES} resamples")


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a rate of ``hits`` in ``n``."""
    rate, z2 = hits / n, _Z * _Z
    center = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)
