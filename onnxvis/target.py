"""Targets: which number of the output is explained.

A target resolves to a :class:`Score`: a function of one image's logits. Everything that can be written
on the command line is linear in the logits, so its derivative is a constant array:

    282, "tabby", "top1"        one logit
    "top3"                      three targets
    "tabby - tiger cat"         a contrast: why the first and not the second
    "cat @ 40,60"               a class at row 40, column 60 of a dense output
    "cat @ all"                 a class averaged over a dense output
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.errors import TargetError
from onnxvis.labels import Labels

__all__ = ["Score", "TargetSpec", "resolve"]

TargetSpec = int | str | Callable[[Any], Any]
_TOP = re.compile(r"top-?(\d+)", re.IGNORECASE)
_DIFFERENCES_UP_TO = 4096
_ROWS = 512
_POSITION = re.compile(r"^(?P<label>.*?)\s*@\s*(?:(?P<row>\d+)\s*,\s*(?P<col>\d+)|(?P<all>all))$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Score:
    """One resolved target.

    Attributes:
        name: for people: the label, or "A - B".
        spec: as it was asked for.
        index: class index, where the target is one class; for a contrast the first one.
        cotangent: d score / d logits of one image, float64, of the shape of one image's logits; for a
            callable target it is ``None`` until the logits are known.
        function: the callable, for such a target.
    """

    name: str
    spec: str
    index: int | None
    cotangent: np.ndarray
    function: Callable[[Any], Any] | None = None

    def value(self, logits: np.ndarray) -> np.ndarray:
        """The score of each image: logits ``(N, ...)`` to ``(N,)`` float64."""
        if self.function is not None:
            return _call(self.function, logits)
        flat = logits.reshape(len(logits), -1).astype(np.float64)
        return np.asarray(flat @ self.cotangent.reshape(-1))

    def derivative(self, logits: np.ndarray) -> np.ndarray:
        """d score / d logits at one image's logits: the cotangent, unless the score is a callable."""
        return self.cotangent if self.function is None else _callable_cotangent(self.function, logits)


def resolve(spec: TargetSpec, logits: np.ndarray, labels: Labels, class_axis: int = 0) -> list[Score]:
    """The scores that a target stands for on one image.

    Args:
        spec: what was asked for.
        logits: of one image, without the batch axis: ``(K,)``, or dense ``(K, H, W)``.
        labels: names of the classes.
        class_axis: which axis of ``logits`` counts classes.

    Raises:
        TargetError: no such class, position or contrast.
    """
    if callable(spec):
        return [_callable_score(spec, logits)]
    if isinstance(spec, bool) or not isinstance(spec, int | np.integer | str):
        raise TargetError(f"a target is a class index, a label, 'top3', 'A - B' or a callable, not {spec!r}.")
    if isinstance(spec, str) and (match := _TOP.fullmatch(spec.strip())):
        return _top(int(match[1]), spec, logits, labels, class_axis)
    return [_one(spec, logits, labels, class_axis)]


def _top(count: int, spec: str, logits: np.ndarray, labels: Labels, axis: int) -> list[Score]:
    classes = logits.shape[axis]
    if not 1 <= count <= classes:
        raise TargetError(f"{spec!r} asks for {count} classes; the model has {classes}.")
    others = tuple(i for i in range(logits.ndim) if i != axis)
    ranking = logits.astype(np.float64).mean(axis=others) if others else logits.astype(np.float64)
    order = np.argsort(-ranking, kind="stable")[:count]
    return [_class_score(int(i), spec, logits, labels, axis) for i in order]


def _one(spec: int | str, logits: np.ndarray, labels: Labels, axis: int) -> Score:
    if not isinstance(spec, str):
        return _class_score(int(spec), str(spec), logits, labels, axis)
    text = spec.strip()
    if match := _POSITION.match(text):
        return _position_score(match, text, logits, labels, axis)
    try:
        return _class_score(_class_index(text, logits, labels, axis), text, logits, labels, axis)
    except TargetError:
        parts = [part.strip() for part in text.split(" - ")]
        if len(parts) != 2 or not all(parts):
            raise
    first, second = (_one(part, logits, labels, axis) for part in parts)
    if np.array_equal(first.cotangent, second.cotangent):
        raise TargetError(f"the contrast {text!r} compares a class with itself; its score is always 0.")
    return Score(f"{first.name} - {second.name}", text, first.index, first.cotangent - second.cotangent)


def _class_index(text: str, logits: np.ndarray, labels: Labels, axis: int) -> int:
    if match := _TOP.fullmatch(text):
        return _top(int(match[1]), text, logits, labels, axis)[-1].index or 0
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return labels.find(text)


def _class_score(index: int, spec: str, logits: np.ndarray, labels: Labels, axis: int) -> Score:
    classes = logits.shape[axis]
    if not 0 <= index < classes:
        raise TargetError(f"there is no class {index}: the model has {classes} classes, 0 to {classes - 1}.")
    cotangent = np.zeros(logits.shape, np.float64)
    place = [slice(None)] * logits.ndim
    place[axis] = slice(index, index + 1)
    positions = logits.size // classes
    cotangent[tuple(place)] = 1.0 / positions
    name = labels.name(index) + (" (mean over positions)" if positions > 1 else "")
    return Score(name, spec, index, cotangent)


def _position_score(match: re.Match[str], spec: str, logits: np.ndarray, labels: Labels, axis: int) -> Score:
    if logits.ndim != 3:
        raise TargetError(f"{spec!r} names a position, but the output of this model has none (shape {logits.shape}).")
    index = _class_index(match["label"].strip(), logits, labels, axis)
    whole = _class_score(index, spec, logits, labels, axis)
    if match["all"]:
        return whole
    row, col = int(match["row"]), int(match["col"])
    height, width = (n for i, n in enumerate(logits.shape) if i != axis)
    if row >= height or col >= width:
        raise TargetError(f"position {row},{col} is outside the output grid of {height} rows and {width} columns.")
    place = [row, col]
    place.insert(axis, index)
    cotangent = np.zeros(logits.shape, np.float64)
    cotangent[tuple(place)] = 1.0
    return Score(f"{labels.name(index)} @ {row},{col}", spec, index, cotangent)


def _call(function: Callable[[Any], Any], logits: Any) -> np.ndarray:
    try:
        values = np.asarray(function(logits), dtype=np.float64)
    except Exception as error:
        raise TargetError(f"the target function failed on logits of shape {tuple(logits.shape)}: {error}") from error
    if values.shape != (len(logits),):
        raise TargetError(
            f"a target function maps logits (N, ...) to one number per image (N,); it returned shape {values.shape} "
            f"for {len(logits)} images."
        )
    return values


def _callable_score(function: Callable[[Any], Any], logits: np.ndarray) -> Score:
    name = getattr(function, "__name__", type(function).__name__)
    _call(function, logits[None])
    return Score(name, f"callable {name}", None, _callable_cotangent(function, logits), function)


def _callable_cotangent(function: Callable[[Any], Any], logits: np.ndarray) -> np.ndarray:
    """d function / d logits of one image.

    For up to a few thousand logits by central differences in float64 (exact for linear functions, about
    1e-9 for smooth ones), so that the function may be written for numpy. A dense output is too large for
    that: there the function must also accept a torch tensor.
    """
    point = logits.astype(np.float64)
    if point.size > _DIFFERENCES_UP_TO:
        return _autograd_cotangent(function, point)
    step = 1e-4 * max(1.0, float(np.abs(point).max(initial=0.0)))
    gradient = np.zeros(point.size)
    for start in range(0, point.size, _ROWS):
        columns = np.arange(start, min(start + _ROWS, point.size))
        count = len(columns)
        rows = np.repeat(point.reshape(1, -1), 2 * count, axis=0)
        rows[np.arange(count), columns] += step
        rows[np.arange(count) + count, columns] -= step
        values = _call(function, rows.reshape(-1, *point.shape))
        gradient[columns] = (values[:count] - values[count:]) / (2 * step)
    return gradient.reshape(point.shape)


def _autograd_cotangent(function: Callable[[Any], Any], point: np.ndarray) -> np.ndarray:
    import torch

    variable = torch.from_numpy(point[None].copy()).requires_grad_(True)
    try:
        (gradient,) = torch.autograd.grad(function(variable).sum(), variable)
    except Exception as error:
        raise TargetError(
            f"the target function must accept a torch tensor for an output of this size ({point.size:,} values), "
            f"and failed on one: {error}"
        ) from error
    return np.asarray(gradient[0].numpy())
