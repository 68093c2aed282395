"""Probabilities from logits, as the model's own output activation says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxvis.errors import UsageError

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["probabilities", "probability_note"]


def _kind(model: Model, logits: np.ndarray) -> tuple[str, int]:
    """Sigmoid or softmax, and the axis that counts classes."""
    found = model.logits
    axis = 1 if found.kind == "classifier" else model.output_form.class_axis + 1
    if found.activation == "sigmoid":
        return "sigmoid", axis
    if found.activation in ("softmax", "log-softmax"):
        return "softmax", axis
    if found.kind in ("classifier", "dense") and logits.shape[axis] > 1:
        return "softmax", axis
    raise UsageError(
        f"the output {found.output!r} has no probability: the file ends without a softmax or sigmoid, and "
        f"{'a single value' if found.kind == 'classifier' else 'an output of this kind'} is not turned into one. "
        "Explain the logit (score=logit)."
    )


def probabilities(model: Model, logits: np.ndarray) -> np.ndarray:
    """Logits ``(N, ...)`` to probabilities of the same shape, float64.

    A file that ends in logits for several classes gets a softmax.

    Raises:
        UsageError: the output has no probability.
    """
    kind, axis = _kind(model, logits)
    values = logits.astype(np.float64)
    if kind == "sigmoid":
        return np.asarray(np.exp(-np.logaddexp(0.0, -values)))
    exponentials = np.exp(values - values.max(axis=axis, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True))


def probability_note(model: Model, logits: np.ndarray) -> str:
    """Where the probabilities come from, in one sentence."""
    kind, _ = _kind(model, logits)
    where = "the file's own" if model.logits.activation else "computed here, for the file ends in logits"
    return f"the score is the probability: {kind} of the logits, {where}"
