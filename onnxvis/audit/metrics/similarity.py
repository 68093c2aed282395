"""How alike two maps are: rank correlation and structural similarity.

Both ignore the scale of the values, so that maps of different units can be compared. The rank correlation asks
whether the same pixels come first, wherever they lie; structural similarity looks at the patterns of small
neighborhoods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxvis.errors import UsageError

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation

__all__ = ["agreement", "rank_correlation", "ranks", "shown", "ssim"]

_SIGMA = 1.5
_RADIUS = 5
_K1, _K2 = 0.01, 0.03


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean rank; float64 of the same size."""
    _, where, counts = np.unique(values.reshape(-1), return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(means[where.reshape(-1)], np.float64)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two maps, -1 to 1; NaN where one is flat. Only places finite in both count."""
    finite = np.isfinite(a) & np.isfinite(b)
    first, second = ranks(a[finite]), ranks(b[finite])
    if first.size < 2:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size > 0 else float("nan")


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two maps, at most 1; NaN where one is all 0.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004, equation 13, with
    their Gaussian window of 11 pixels (sigma 1.5), averaged over the windows that lie inside (smaller maps: over all).
    Each map is first divided by its own largest absolute value; the range of values L is 2 where one of them has
    negative values, else 1. Places that are not finite in both count as 0.

    Args:
        a: ``(H, W)``.
        b: of the same shape.
    """
    finite = np.isfinite(a) & np.isfinite(b)
    x, y = (np.where(finite, v, 0.0).astype(np.float64) for v in (a, b))
    peaks = [float(np.abs(v).max(initial=0.0)) for v in (x, y)]
    if min(peaks) <= 0:
        return float("nan")
    x, y = x / peaks[0], y / peaks[1]
    span = 2.0 if min(x.min(), y.min()) < 0 else 1.0
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    both = _blur(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    found = top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    inside = tuple(slice(_RADIUS, -_RADIUS) if n > 2 * _RADIUS else slice(None) for n in found.shape)
    return float(found[inside].mean())


def _blur(values: np.ndarray) -> np.ndarray:
    """Gaussian window, borders mirrored."""
    window = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    window /= window.sum()
    for axis in (0, 1):
        padded = np.pad(values, [(_RADIUS, _RADIUS) if k == axis else (0, 0) for k in (0, 1)], mode="symmetric")
        length = values.shape[axis]
        parts = [padded.take(range(k, k + length), axis=axis) * w for k, w in enumerate(window)]
        values = np.sum(parts, axis=0)
    return values


def shown(explanation: Explanation) -> np.ndarray:
    """The map as it is drawn, where it shows the picture: ``(h, w)`` float64 of the input grid."""
    x0, y0, x1, y1 = explanation.prepared.geometry.content_box
    return np.asarray(explanation.heat()[y0:y1, x0:x1], np.float64)


def agreement(explanations: Sequence[Explanation]) -> np.ndarray:
    """Rank correlation of every pair of maps of one picture.

    Args:
        explanations: of one picture, by several methods or of several targets; ``m`` of them.

    Returns:
        ``(m, m)`` float64, symmetric, 1 on the diagonal; NaN for pairs in which a map is flat.

    Raises:
        UsageError: the maps are not on the same input grid.
    """
    if len({e.prepared.geometry for e in explanations}) > 1:
        raise UsageError("agreement compares maps of one picture on one input grid; these have several.")
    rows = [ranks(shown(e)) for e in explanations]
    centered = [row - row.mean() for row in rows]
    sizes = np.array([np.linalg.norm(row) for row in centered])
    table = np.array([[a @ b for b in centered] for a in centered]).reshape(len(rows), len(rows))
    with np.errstate(invalid="ignore", divide="ignore"):
        table = table / np.outer(sizes, sizes)
    table[np.diag_indices(len(rows))] = np.where(sizes > 0, 1.0, np.nan)
    return table
