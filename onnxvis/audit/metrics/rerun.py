"""Running a method again with everything held fixed but the picture, or the weights.

"top1" may be another class on a disturbed picture or in a randomised network, and the comparison would be of two
questions. So the score is pinned to what was explained first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import TargetError, UsageError
from onnxvis.explaining import Request, request
from onnxvis.methods import Attribution, Task, get_method
from onnxvis.prediction import logits_of
from onnxvis.progress import Progress, silent
from onnxvis.target import Score, resolve

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["attributions", "pinned_score", "reduced", "same_request", "with_tensor"]

_CHOSEN_AT_RUN_TIME = {"box", "engine", "exact_check", "checkpoint"}


def attributions(
    model: Model,
    chosen: Request,
    prepared: Sequence[Prepared],
    scores: Sequence[Sequence[Score]],
    *,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress = silent,
) -> list[list[Attribution]]:
    """Run a method on prepared pictures of one shape for scores that are already resolved: ``[picture][score]``."""
    x = np.concatenate([p.tensor for p in prepared])
    name, layer = model.logits.tensor, chosen.layer
    tensors = model.engine.forward(x, (name, layer.tensor) if layer else (name,), batch_size)
    if layer and model.engine.precision == "int8":  # exposing a layer moves an int8 file's answer
        tensors |= model.engine.forward(x, (name,), batch_size)
    tensors[name] = logits_of(model, tensors, len(x))
    task = Task(
        model, x, prepared, scores, tensors, layer, chosen.options,
        batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    return chosen.method.attribute(task)


def reduced(found: Attribution) -> np.ndarray:
    """The map as it is drawn, ``(H, W)`` float64; see :meth:`onnxvis.explanation.Explanation.heat`."""
    values = found.values.astype(np.float64)
    if values.ndim == 2:
        return values
    return np.asarray(np.abs(values).max(axis=0) if found.reduction == "max-abs" else values.sum(axis=0))


def with_tensor(prepared: Prepared, tensor: np.ndarray) -> Prepared:
    """The same picture with other input values."""
    return dataclasses.replace(prepared, tensor=tensor)


def pinned_score(model: Model, explanation: Explanation, logits: np.ndarray) -> Score | None:
    """The score that was explained, as a function of the logits; ``None`` where it cannot be had back.

    Args:
        model: the model.
        explanation: what was explained.
        logits: of the model on that picture, without the batch axis.
    """
    try:
        found = resolve(explanation.target_spec, logits, model.labels, form=model.output_form)
    except TargetError:
        return None
    return next((score for score in found if score.name == explanation.target), None)


def same_request(model: Model, explanation: Explanation) -> Request:
    """The method, layer and options of an explanation, ready to run again.

    Raises:
        UsageError: an option was an array, of which only the fact is recorded.
    """
    method = get_method(explanation.method)
    names = {f.name for f in dataclasses.fields(method.options)} - _CHOSEN_AT_RUN_TIME
    options: dict[str, Any] = {k: v for k, v in explanation.parameters.items() if k in names}
    if explanation.parameters.get("engine") == "plain" and "engine" in {
        f.name for f in dataclasses.fields(method.options)
    }:
        options["engine"] = "plain"
    lost = [name for name, value in options.items() if isinstance(value, str) and value == "array"]
    if lost:
        raise UsageError(f"the option {lost[0]!r} was an array, which an explanation does not keep")
    layer = explanation.layer if method.uses_layer else None
    return request(model, method.name, options, layer)
