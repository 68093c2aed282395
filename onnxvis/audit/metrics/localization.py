"""Does the map point at the object? These metrics need to know where it is: a box or a mask.

A network may be right for a reason outside of the object. Then a *faithful* map scores badly here: these metrics
judge map and network together.
"""

from __future__ import annotations

import numpy as np

from onnxvis.audit.metrics.base import Measured, Subject
from onnxvis.errors import UsageError
from onnxvis.localization import DEFAULT_THRESHOLD, find_boxes

__all__ = ["box_iou", "energy_pointing_game", "localization_iou", "pointing_game"]


def pointing_game(subject: Subject) -> Measured:
    """1 where the map's maximum lies on an object, else 0 (Zhang et al., ECCV 2016, section 4.1; no margin)."""
    mask, shown = _mask(subject)[subject.content], subject.shown()
    peak = shown.max()
    if shown.min() == peak:
        raise UsageError("the map is flat: it has no maximum")
    return Measured(float(mask[shown == peak].any()))


def energy_pointing_game(subject: Subject) -> Measured:
    """Part of the positive values that lies on the object, 0 to 1 (Wang et al., CVPR Workshops 2020, section 4.3)."""
    mask, positive = _mask(subject)[subject.content], np.maximum(subject.shown(), 0.0)
    total = positive.sum()
    if not total > 0:
        raise UsageError("the map has no positive value")
    share = mask.mean()
    return Measured(float(positive[mask].sum() / total), None, f"the object covers {share:.0%} of the input")


def localization_iou(subject: Subject) -> Measured:
    """Overlap of the map's box with the object's, 0 to 1 (Zhou et al., CVPR 2016, section 3.2).

    The map's box is that of the largest region above a fifth of the maximum. Intersection over union, in pixels of
    the original picture; from 0.5 a box usually counts as right. Of several objects the one that fits best counts.
    """
    _mask(subject)
    found = find_boxes(subject.heat, subject.explanation.prepared.geometry, DEFAULT_THRESHOLD)
    if not found:
        raise UsageError("the map has no positive value")
    best = max(box_iou(found[0].picture_box, box) for box in subject.boxes)
    return Measured(best, None, f"threshold {DEFAULT_THRESHOLD:g} of the maximum")


def box_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes ``(x0, y0, x1, y1)``."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = areas[0] + areas[1] - both
    return both / union if union > 0 else 0.0


def _mask(subject: Subject) -> np.ndarray:
    if subject.mask is None:
        raise UsageError("nobody said where the object is: give a box or a mask")
    if not subject.mask[subject.content].any():
        raise UsageError("the model sees nothing of the object: it lies outside of the input")
    return subject.mask
