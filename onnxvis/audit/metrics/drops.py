"""Average drop and average increase: what happens when only what the map shows is left of the picture.

Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks", WACV 2018, section
5.1 (their experiment with "explanation maps" E = L o I). With Y the score of the picture and O that of the
picture times the map (positive part, divided by its maximum),

    drop     = max(0, Y - O) / Y        increase = 1 where O > Y, else 0

The paper's average drop is the mean of the first over the pictures, in percent; here it is a part, 0 to 1. What the
map hides becomes zero in the model's input values, as there.
"""

from __future__ import annotations

import numpy as np

from onnxvis.audit.metrics.base import Measured, Subject
from onnxvis.errors import UsageError

__all__ = ["average_drop", "average_increase", "explanation_map"]


def explanation_map(subject: Subject) -> tuple[np.ndarray, str]:
    """The picture under the map, ``(C, H, W)`` in the input's type, and what stands where the map is 0."""
    positive = np.maximum(subject.heat, 0.0)
    peak = float(positive[subject.content].max(initial=0.0))
    if not peak > 0:
        raise UsageError("the map has no positive value")
    fill, words = subject.baseline("zero")
    shade = np.clip(positive / peak, 0.0, 1.0)
    values = subject.image * shade + fill * (1 - shade)
    dtype = subject.x.dtype
    return np.asarray((np.rint(values) if dtype.kind in "ui" else values).astype(dtype)), words


def _scores(subject: Subject) -> tuple[float, float, str]:
    score, what = subject.scorer()
    shaded, words = explanation_map(subject)
    both = np.stack([subject.image, shaded])
    whole, left = (float(v) for v in score(subject.in_layout(both)))
    return whole, left, f"{what} {whole:.4g} becomes {left:.4g}; hidden pixels become {words}"


def average_drop(subject: Subject) -> Measured:
    """Part of the score that is lost, 0 to 1; small is good. Undefined where the score itself is not positive."""
    whole, left, note = _scores(subject)
    if not whole > 0:
        raise UsageError(f"the score of the picture is {whole:.4g}: a part of it has no meaning")
    return Measured(max(0.0, whole - left) / whole, None, note)


def average_increase(subject: Subject) -> Measured:
    """1 where the score is higher with the map's part alone, else 0; high is good."""
    whole, left, note = _scores(subject)
    return Measured(float(left > whole), None, note)
