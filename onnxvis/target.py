"""Targets: which number of the output is explained.

A target resolves to a :class:`Score`: a function of one image's logits. Everything that can be written
on the command line is linear in the logits, so its derivative is a constant array:

    282, "tabby", "top1"        one logit
    "top3"                      three targets
    "least", "least3"           the class with the lowest logit, or the three lowest, the lowest first
    "tabby - tiger cat"         a contrast: why the first and not the second
    "cat @ 40,60"               a class at row 40, column 60 of a dense output
    "cat @ 40,60,50,80"         a class averaged over rows 40 to 49, columns 60 to 79
    "cat @ all"                 a class averaged over a dense output
    "cat @ 1207", "cat @ best"  a class at one detection of a detector, or at its best one
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.errors import TargetError, require
from onnxvis.labels import Labels

__all__ = ["OutputForm", "Score", "TargetSpec", "is_several", "resolve"]

TargetSpec = int | str | Callable[[Any], Any]
_TOP = re.compile(r"top-?(\d+)", re.IGNORECASE)
_LEAST = re.compile(r"least-?(\d*)", re.IGNORECASE)
_DIFFERENCES_UP_TO = 4096
_ROWS = 512
_POSITION = re.compile(r"^(?P<label>[^@]+?)\s*@\s*(?P<place>\d+(?:,\d+)*|all|best)$", re.IGNORECASE)


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
        """D score / d logits at one image's logits: the cotangent, unless the score is a callable."""
        return self.cotangent if self.function is None else _callable_cotangent(self.function, logits)


def is_several(spec: TargetSpec) -> bool:
    """Whether a target stands for more than one score: "top3" does, "top1" and a label "top hat" do not."""
    if not isinstance(spec, str):
        return False
    match = _TOP.fullmatch(spec.strip()) or _LEAST.fullmatch(spec.strip())
    return match is not None and int(match[1] or 1) != 1


@dataclass(frozen=True)
class OutputForm:
    """How the logits of one image are laid out.

    Attributes:
        class_axis: which axis counts classes.
        first_class: index of class 0 along that axis: rows before it are box coordinates of a detector.
        detector: whether the positions are detections, of which a class is explained at its best one.
    """

    class_axis: int = 0
    first_class: int = 0
    detector: bool = False


def resolve(
    spec: TargetSpec, logits: np.ndarray, labels: Labels, class_axis: int = 0, form: OutputForm | None = None
) -> list[Score]:
    """The scores that a target stands for on one image.

    Args:
        spec: what was asked for.
        logits: of one image, without the batch axis: ``(K,)``, dense ``(K, H, W)`` or detections ``(D, A)``.
        labels: names of the classes.
        class_axis: which axis of ``logits`` counts classes, when ``form`` is not given.
        form: the full layout, for detectors.

    Raises:
        TargetError: no such class, position or contrast.
    """
    if callable(spec):
        return [_callable_score(spec, logits)]
    if isinstance(spec, bool) or not isinstance(spec, int | np.integer | str):
        raise TargetError(f"a target is a class index, a label, 'top3', 'A - B' or a callable, not {spec!r}.")
    output = _Output(logits, labels, form or OutputForm(class_axis))
    if isinstance(spec, str) and (match := _TOP.fullmatch(spec.strip())):
        return [_class_score(output, index, spec, None) for index in output.top(int(match[1]), spec)]
    if isinstance(spec, str) and (match := _LEAST.fullmatch(spec.strip())):
        return [_class_score(output, index, spec, None) for index in output.least(int(match[1] or 1), spec)]
    return [_one(output, spec)]


@dataclass(frozen=True, eq=False)
class _Output:
    """One image's logits with what is known of their layout."""

    logits: np.ndarray
    labels: Labels
    form: OutputForm

    @property
    def classes(self) -> int:
        return int(self.logits.shape[self.form.class_axis]) - self.form.first_class

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(n for i, n in enumerate(self.logits.shape) if i != self.form.class_axis)

    def of_class(self, index: int) -> np.ndarray:
        """The logits of a class at every position, of shape ``grid``."""
        return np.asarray(self.logits.take(index + self.form.first_class, axis=self.form.class_axis))

    def top(self, count: int, spec: str) -> list[int]:
        return self._ranked(count, spec)[:count]

    def least(self, count: int, spec: str) -> list[int]:
        return self._ranked(count, spec)[::-1][:count]

    def _ranked(self, count: int, spec: str) -> list[int]:
        """Every class, the highest logit first."""
        if not 1 <= count <= self.classes:
            raise TargetError(f"{spec!r} asks for {count} classes; the model has {self.classes}.")
        rows = np.moveaxis(self.logits, self.form.class_axis, 0)[self.form.first_class :]
        values = rows.reshape(len(rows), -1).astype(np.float64)
        ranking = values.max(axis=1) if self.form.detector else values.mean(axis=1)
        return [int(i) for i in np.argsort(-ranking, kind="stable")]


def _one(output: _Output, spec: int | str) -> Score:
    if not isinstance(spec, str):
        return _class_score(output, int(spec), str(spec), None)
    text = spec.strip()
    if match := _POSITION.match(text):
        index = _class_index(output, match["label"].strip())
        return _class_score(output, index, text, match["place"].lower())
    try:
        return _class_score(output, _class_index(output, text), text, None)
    except TargetError:
        parts = [part.strip() for part in text.split(" - ")]
        if len(parts) != 2 or not all(parts):
            raise
    first, second = (_one(output, part) for part in parts)
    if np.array_equal(first.cotangent, second.cotangent):
        raise TargetError(f"the contrast {text!r} compares a class with itself; its score is always 0.")
    return Score(f"{first.name} - {second.name}", text, first.index, first.cotangent - second.cotangent)


def _class_index(output: _Output, text: str) -> int:
    if match := _TOP.fullmatch(text):
        return output.top(int(match[1]), text)[-1]
    if match := _LEAST.fullmatch(text):
        return output.least(int(match[1] or 1), text)[-1]
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return output.labels.find(text)


def _class_score(output: _Output, index: int, spec: str, place: str | None) -> Score:
    """A class at a place: a position, a region, every position, or a detector's best one."""
    if not 0 <= index < output.classes:
        last = output.classes - 1
        raise TargetError(f"there is no class {index}: the model has {output.classes} classes, 0 to {last}.")
    weights, words = _place(output, index, spec, place)
    cotangent = np.zeros(output.logits.shape, np.float64)
    np.moveaxis(cotangent, output.form.class_axis, 0)[index + output.form.first_class] = weights
    return Score(output.labels.name(index) + words, spec, index, cotangent)


def _place(output: _Output, index: int, spec: str, place: str | None) -> tuple[np.ndarray, str]:
    """Weights over the positions, and the words for them."""
    grid = output.grid
    weights = np.zeros(grid, np.float64)
    if place is None and not grid:
        return np.ones(()), ""
    if place == "best" or (place is None and output.form.detector):
        best = np.unravel_index(int(output.of_class(index).argmax()), grid)
        weights[best] = 1.0
        return weights, f" @ best ({','.join(str(int(i)) for i in best)})"
    if place in (None, "all"):
        return np.full(grid, 1.0 / max(weights.size, 1)), " (mean over positions)"
    numbers = [int(n) for n in str(place).split(",")]
    if not grid or len(numbers) not in (len(grid), 2 * len(grid)):
        expected = f"{len(grid)} numbers (a position) or {2 * len(grid)} (a region)" if grid else "no position"
        raise TargetError(f"{spec!r}: the output has the position grid {grid}, so a target takes {expected}.")
    start = numbers[: len(grid)]
    stop = numbers[len(grid) :] or [n + 1 for n in start]
    if any(not 0 <= a < b <= n for a, b, n in zip(start, stop, grid, strict=True)):
        raise TargetError(f"{spec!r}: the place is empty or outside the output's grid of {' x '.join(map(str, grid))}.")
    region = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    weights[region] = 1.0 / weights[region].size
    return weights, f" @ {place}"


def _call(function: Callable[[Any], Any], logits: Any) -> np.ndarray:
    try:
        values = np.asarray(function(logits), dtype=np.float64)
    except Exception as error:  # noqa: BLE001 - the user's own function; both reasons are passed on
        values = _call_with_tensor(function, logits, error)
    if values.shape != (len(logits),):
        raise TargetError(
            f"a target function maps logits (N, ...) to one number per image (N,); it returned shape {values.shape} "
            f"for {len(logits)} images."
        )
    return values


def _call_with_tensor(function: Callable[[Any], Any], logits: Any, reason: Exception) -> np.ndarray:
    """The same for a function written for torch; ``reason`` is why it does not take an array."""
    try:
        torch = require("torch", "torch", "a target function written for torch")
        found = function(torch.from_numpy(np.asarray(logits)))
        return np.asarray(torch.as_tensor(found).detach().numpy(), dtype=np.float64)
    except Exception as error:
        raise TargetError(
            f"the target function failed on logits of shape {tuple(logits.shape)}: {reason} (as a numpy array); "
            f"{error} (as a torch tensor)."
        ) from error


def _callable_score(function: Callable[[Any], Any], logits: np.ndarray) -> Score:
    name = getattr(function, "__name__", type(function).__name__)
    _call(function, logits[None])
    return Score(name, f"callable {name}", None, _callable_cotangent(function, logits), function)


def _callable_cotangent(function: Callable[[Any], Any], logits: np.ndarray) -> np.ndarray:
    """D function / d logits of one image.

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
    torch = require("torch", "torch", f"a target function of an output of this size ({point.size:,} values)")
    variable = torch.from_numpy(point[None].copy()).requires_grad_(True)
    try:
        (gradient,) = torch.autograd.grad(function(variable).sum(), variable)
    except Exception as error:
        raise TargetError(
            f"the target function must accept a torch tensor for an output of this size ({point.size:,} values), "
            f"and failed on one: {error}"
        ) from error
    return np.asarray(gradient[0].numpy())
