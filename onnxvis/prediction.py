"""What the deployed model answers, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import ModelError
from onnxvis.labels import Labels

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["Prediction", "RankedClass", "logits_of", "predict", "predictions", "same_shape", "settle_batches"]


@dataclass(frozen=True)
class RankedClass:
    """One class of an answer.

    Attributes:
        index: class index.
        label: its name.
        logit: the value that is explained.
        probability: after softmax or sigmoid; ``None`` where neither fits (dense outputs).
    """

    index: int
    label: str
    logit: float
    probability: float | None


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: the strongest classes, and where the probabilities come from."""

    top: tuple[RankedClass, ...]
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for manifests."""
        return {
            "top": [
                {"index": c.index, "label": c.label, "logit": c.logit, "probability": c.probability} for c in self.top
            ],
            "note": self.note,
        }


def predict(model: Model, tensors: Sequence[np.ndarray], top: int, batch_size: int) -> list[Prediction]:
    """Predictions of prepared images, from the unedited file where the logits are its output."""
    found = []
    for group in same_shape(tensors):
        x = np.concatenate([tensors[i] for i in group])
        logits = logits_of(model, model.engine.forward(x, (model.logits.tensor,), batch_size), len(x))
        found += list(zip(group, predictions(model, logits, top), strict=True))
    return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]


def settle_batches(model: Model) -> None:
    """Find out how batches run, on noise of a fixed seed: so that it does not depend on which picture comes first.

    Raises:
        ModelError: the model cannot run.
    """
    sample = np.random.default_rng(0).random(model.one_image_shape()).astype(np.dtype(model.image_input.dtype))
    model.engine.batch_plan(sample)


def same_shape(tensors: Sequence[np.ndarray]) -> list[list[int]]:
    """Indices of images that can share a batch."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(i)
    return list(groups.values())


def logits_of(model: Model, arrays: dict[str, np.ndarray], images: int) -> np.ndarray:
    """The logits as ``(N, K)`` or dense ``(N, ...)`` float32.

    Raises:
        ModelError: they are not finite, or have no batch axis.
    """
    logits = np.asarray(arrays[model.logits.tensor], dtype=np.float32)
    if logits.ndim < 2 or len(logits) != images:
        raise ModelError(
            f"the explained tensor {model.logits.tensor!r} has shape {logits.shape} for {images} pictures: its first "
            "axis does not count pictures. Choose another output with --output; where it counts the steps of a "
            "sequence, as in text recognizers, export the model with the batch first."
        )
    if not np.isfinite(logits).all():
        raise ModelError(
            f"the model answers with NaN or infinity in {model.logits.tensor!r} on this picture. Check the "
            "preprocessing (value range) and, for a float16 file, try its float32 original."
        )
    if model.logits.kind == "classifier":
        return logits.reshape(len(logits), -1)
    return logits


def predictions(model: Model, logits: np.ndarray, top: int) -> list[Prediction]:
    """Rank the classes of each row of logits."""
    if model.logits.kind != "classifier":
        form = model.output_form
        how = "best" if form.detector else "mean"
        note = f"dense output: classes ranked by their {how} logit over the positions"
        positions = np.moveaxis(logits.astype(np.float64), form.class_axis + 1, 1).reshape(
            len(logits), logits.shape[form.class_axis + 1], -1
        )[:, form.first_class :]
        ranking = positions.max(axis=2) if form.detector else positions.mean(axis=2)
        return [Prediction(_ranked(row, None, model.labels, top), note) for row in ranking]
    answers = []
    for row in logits.astype(np.float64):
        probabilities, note = _probabilities(row, model)
        answers.append(Prediction(_ranked(row, probabilities, model.labels, top), note))
    return answers


def _probabilities(row: np.ndarray, model: Model) -> tuple[np.ndarray | None, str]:
    activation = model.logits.activation
    if activation == "sigmoid":
        return 1.0 / (1.0 + np.exp(-row)), "sigmoid, as in the file"
    if len(row) == 1:
        return None, "a single output value; no probability"
    exponentials = np.exp(row - row.max())
    where = "as in the file" if activation in ("softmax", "log-softmax") else "computed here: the file ends in logits"
    return exponentials / exponentials.sum(), f"softmax, {where}"


def _ranked(row: np.ndarray, probabilities: np.ndarray | None, labels: Labels, top: int) -> tuple[RankedClass, ...]:
    order = np.argsort(-row, kind="stable")[:top]
    return tuple(
        RankedClass(
            int(i), labels.name(int(i)), float(row[i]), None if probabilities is None else float(probabilities[i])
        )
        for i in order
    )
