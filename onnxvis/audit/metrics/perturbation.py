"""Insertion and deletion: how the score moves when pixels come or go in the order that the map ranks them.

Petsiuk, Das & Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section 4.1
and algorithm 1. *Deletion* replaces the most important pixels first: a sharp drop, a small area under the curve, is
good. *Insertion* starts from a picture without them and shows the most important first: a large area is good. Both
areas are taken by the trapezoid rule over the part of the pixels, 0 to 1, so they are means of the score along the
way. As in the authors' code, deletion goes to zeros and insertion starts from the blurred picture; the blur here is
the one that the methods use.

Pixels of equal value have no order: they are drawn by the seed. Only pixels that show the picture take part;
padding stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxvis.audit.metrics.base import Measured, Subject

__all__ = ["auc", "deletion", "insertion", "pixel_order", "step_counts"]


def pixel_order(heat: np.ndarray, seed: int) -> np.ndarray:
    """Flat indices of pixels, largest value first; equal ones in an order drawn by the seed, NaN last."""
    values = heat.reshape(-1).astype(np.float64)
    ties = np.random.default_rng(seed).random(values.size)
    return np.lexsort((ties, -values))


def step_counts(pixels: int, steps: int) -> np.ndarray:
    """How many pixels are changed after each step, from 0 to all, ``(steps + 1,)`` at most."""
    return np.unique(np.rint(np.linspace(0, pixels, min(steps, pixels) + 1)).astype(np.int64))


def auc(curve: np.ndarray) -> float:
    """Area under ``(points, 2)`` by the trapezoid rule, over its extent: the mean of the score along the way."""
    x, y = curve[:, 0], curve[:, 1]
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2 / (x[-1] - x[0]))


def deletion(subject: Subject) -> Measured:
    """Area under the deletion curve (algorithm 1), a mean score; small is good."""
    fill, words = subject.baseline("zero")
    return _follow(subject, subject.image, fill, f"pixels become {words}")


def insertion(subject: Subject) -> Measured:
    """Area under the insertion curve (section 4.1), a mean score; large is good."""
    fill, words = subject.baseline("blur")
    return _follow(subject, fill, subject.image, f"pixels appear on {words}")


def _follow(subject: Subject, start: np.ndarray, end: np.ndarray, words: str) -> Measured:
    score, what = subject.scorer()
    shown = subject.shown()
    counts = step_counts(shown.size, subject.settings.steps)
    order = _in_grid(subject, pixel_order(shown, subject.settings.seed))
    values = [score(batch) for batch in _way(subject, start, end, order, counts)]
    curve = np.stack([counts / shown.size, np.concatenate(values)], axis=1)
    notes = [f"{words}; {what}; {len(counts) - 1} steps"]
    top = np.partition(shown.reshape(-1), -1)[-1] if shown.size else 0.0
    ties = int((shown == 0).sum()) if (shown == 0).sum() > shown.size // 2 else 0
    if shown.min() == top:
        notes.append("the map is flat: the order is random")
    elif ties:
        notes.append(f"{ties / shown.size:.0%} of the pixels are exactly 0: their order is random")
    return Measured(auc(curve), curve, "; ".join(notes))


def _in_grid(subject: Subject, order: np.ndarray) -> np.ndarray:
    """Flat indices of the shown part as flat indices of the whole grid."""
    rows, columns = subject.content
    width = columns.stop - columns.start
    y, x = order // width + rows.start, order % width + columns.start
    return np.asarray(y * subject.heat.shape[1] + x)


def _way(
    subject: Subject, start: np.ndarray, end: np.ndarray, order: np.ndarray, counts: np.ndarray
) -> Iterator[np.ndarray]:
    """The pictures along the way, a batch at a time; outside of what is ranked the picture itself stands."""
    channels = len(subject.image)
    final = end.reshape(channels, -1)
    current = subject.image.reshape(channels, -1).copy()
    current[:, order] = start.reshape(channels, -1)[:, order]
    size, shape = subject.settings.batch_size, subject.image.shape
    done = 0
    for first in range(0, len(counts), size):
        batch = np.empty((min(size, len(counts) - first), *shape), subject.x.dtype)
        for row, count in enumerate(counts[first : first + size]):
            chosen = order[done:count]
            current[:, chosen] = final[:, chosen]
            done = int(count)
            batch[row] = current.reshape(shape)
        yield subject.in_layout(batch)
