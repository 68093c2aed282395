"""Unit ablation of a classifier: which classes lose most when a unit is off.

Zhou, Sun, Bau & Torralba, "Revisiting the Importance of Individual Units in CNNs via Ablation", 2018: units that hardly
matter for the accuracy over all classes can be decisive for one. For every picture the part before the layer runs once;
with each unit set to 0 everywhere only the part behind it runs again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import LayerError, ModelError, OnnxvisError, PictureError, UsageError
from onnxvis.explaining import request
from onnxvis.methods import LayerChoice
from onnxvis.methods.layer_tail import reads_image
from onnxvis.prediction import logits_of, same_shape
from onnxvis.preprocessing import Prepared
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["ClassLoss", "UnitAblation", "unit_ablation"]


@dataclass(frozen=True)
class ClassLoss:
    """What one class loses by one unit.

    Attributes:
        index: the class.
        label: its name.
        pictures: how many pictures of it there are.
        drop: mean drop of its logit on them.
        error: standard error of that; NaN for a single picture.
        accuracy_loss: part of its pictures that were right before and are not with the unit off, less those that
            became right.
    """

    index: int
    label: str
    pictures: int
    drop: float
    error: float
    accuracy_loss: float


@dataclass(frozen=True, eq=False)
class UnitAblation:
    """What every unit alone, and all given ones together, do to the classes of some pictures.

    N pictures, U units.

    Attributes:
        layer: the tensor, with its reason and its number of units.
        units: ``(U,)`` their numbers.
        rows: ``(N,)`` which of the given pictures these are.
        classes: ``(N,)`` the class of each picture: the truth, or what the whole network predicts.
        truth: "prediction" or "given".
        labels: name of every class that appears.
        base: ``(N,)`` logit of that class with all units on.
        right: ``(N,) bool``: whether the network answers that class with all units on.
        drops: ``(N, U)`` float32: how much that logit falls with the unit off.
        still_right: ``(N, U) bool``: whether the network answers that class with the unit off.
        together: drops ``(N,)`` and ``(N,) bool`` still right with all units of ``units`` off at once; None where
            they were all units of the layer.
        notes: what must be said.
    """

    layer: LayerChoice
    units: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    truth: str
    labels: dict[int, str]
    base: np.ndarray
    right: np.ndarray
    drops: np.ndarray
    still_right: np.ndarray
    together: tuple[np.ndarray, np.ndarray] | None
    notes: tuple[str, ...]

    @property
    def mean_drop(self) -> np.ndarray:
        """``(U,)`` mean drop of the class's logit over pictures."""
        return np.asarray(self.drops.mean(axis=0, dtype=np.float64))

    @property
    def drop_error(self) -> np.ndarray:
        """``(U,)`` its standard error; NaN for a single picture."""
        if len(self.drops) < 2:
            return np.full(len(self.units), np.nan)
        return np.asarray(self.drops.std(axis=0, ddof=1, dtype=np.float64) / np.sqrt(len(self.drops)))

    @property
    def accuracy(self) -> float:
        """Part of the pictures answered right with all units on (1 where the prediction is the truth)."""
        return float(self.right.mean())

    @property
    def accuracy_loss(self) -> np.ndarray:
        """``(U,)`` accuracy with all units on less accuracy with the unit off."""
        return np.asarray(self.right.mean() - self.still_right.mean(axis=0))

    def ranked(self, count: int | None = None) -> list[int]:
        """Places in :attr:`units`, those of the largest mean drop first."""
        return [int(i) for i in np.argsort(-self.mean_drop, kind="stable")[:count]]

    def by_class(self, place: int) -> list[ClassLoss]:
        """What each class loses by the unit at a place of :attr:`units`, the largest mean drop first."""
        rows = []
        for index in np.unique(self.classes):
            own = self.classes == index
            drops = self.drops[own, place].astype(np.float64)
            error = float(drops.std(ddof=1) / np.sqrt(len(drops))) if len(drops) > 1 else float("nan")
            loss = float(self.right[own].mean() - self.still_right[own, place].mean())
            rows.append(
                ClassLoss(int(index), self.labels[int(index)], int(own.sum()), float(drops.mean()), error, loss)
            )
        return sorted(rows, key=lambda row: -row.drop)

    def units_of_class(self, index: int, count: int = 5) -> list[tuple[int, float]]:
        """The units that a class loses most by: (unit, mean drop of its logit)."""
        means = self.drops[self.classes == index].mean(axis=0, dtype=np.float64)
        return [(int(self.units[i]), float(means[i])) for i in np.argsort(-means, kind="stable")[:count]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: every unit's means, and for each the three classes that lose most."""
        rows = []
        for i in self.ranked():
            error = float(self.drop_error[i])
            rows.append(
                {
                    "unit": int(self.units[i]),
                    "mean_drop": float(self.mean_drop[i]),
                    "standard_error": error if np.isfinite(error) else None,
                    "accuracy_loss": float(self.accuracy_loss[i]),
                    "classes": [
                        {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in vars(row).items()}
                        for row in self.by_class(i)[:3]
                    ],
                }
            )
        found: dict[str, Any] = {
            "kind": "unit ablation",
            "layer": {"tensor": self.layer.tensor, "reason": self.layer.reason},
            "pictures": len(self.classes),
            "truth": self.truth,
            "accuracy": self.accuracy,
            "units": rows,
            "notes": list(self.notes),
        }
        if self.together is not None:
            drops, still = self.together
            found["together"] = {
                "units": [int(u) for u in self.units],
                "mean_drop": float(drops.mean()),
                "accuracy_loss": float(self.right.mean() - still.mean()),
            }
        return found


def unit_ablation(
    model: Model,
    pictures: Sequence[Any],
    layer: str | None = None,
    units: Sequence[int] | None = None,
    truth: Sequence[int] | None = None,
    *,
    batch_size: int = 16,
    progress: Progress = silent,
) -> UnitAblation:
    """Switch the units of a layer off one by one.

    Pictures are opened batch by batch. One that cannot be read is left out, and stopped by Ctrl-C it returns what is
    finished; the notes say so.

    Args:
        model: a classifier.
        pictures: whatever ``model.prepare`` takes, or what it has prepared.
        layer: whose units; the last feature map, chosen by structure, if left out.
        units: which; all of them if left out. Given ones are also switched off together.
        truth: class of each picture; if left out, what the whole network predicts.
        batch_size: pictures at once.
        progress: told of every picture and unit.

    Raises:
        LayerError: there is no such layer in the file, or it has no units.
        ModelError: the model is no classifier.
        PictureError: no picture could be read.
        UsageError: no pictures, a unit that does not exist, or not one class for each picture.
    """
    if not pictures:
        raise UsageError("there are no pictures to measure on.")
    if truth is not None and len(truth) != len(pictures):
        raise UsageError(f"{len(truth)} classes were given for {len(pictures)} pictures.")
    choice = _layer(model, layer)
    found: dict[int, tuple[Any, ...]] = {}
    number, chosen, signed = 0, np.zeros(0, np.int64), False
    notes: list[str] = []
    try:
        for rows, x in _groups(model, pictures, batch_size, notes):
            given = None if truth is None else np.asarray([truth[i] for i in rows])
            one = _Batch(model, choice, x, given)
            number, chosen = one.units, _chosen(units, one.units)
            signed = signed or one.signed
            for row, result in zip(
                rows, one.run(chosen, units is not None, progress, len(found), len(pictures)), strict=True
            ):
                found[row] = result
    except KeyboardInterrupt:
        if not found:
            raise
        notes.append(f"interrupted: {len(found)} of {len(pictures)} pictures are finished")
    if not found:
        raise PictureError(f"no picture could be read: {notes[0]}")
    notes.append(
        f"{len(chosen)} of {number} units of {choice.tensor!r} set to 0 one by one; only the part of the file "
        "behind the layer ran again"
    )
    notes.append("units are switched off one at a time: two that stand in for each other both look unimportant")
    if signed:
        notes.append("this layer has negative values too, so 0 is one value among others and not a unit's silence")
    return _gathered(model, choice, chosen, found, truth is not None, units is not None, notes)


def _gathered(
    model: Model, layer: LayerChoice, units: np.ndarray, found: dict[int, tuple[Any, ...]], given: bool,
    together: bool, notes: Sequence[str],
) -> UnitAblation:  # fmt: skip
    order = sorted(found)
    classes, base, right, drops, still, all_drop, all_still = (
        np.stack([np.asarray(found[i][k]) for i in order]) for k in range(7)
    )
    return UnitAblation(
        layer=layer,
        units=units,
        rows=np.asarray(order),
        classes=classes,
        truth="given" if given else "prediction",
        labels={int(c): model.labels.name(int(c)) for c in np.unique(classes)},
        base=base,
        right=right,
        drops=drops,
        still_right=still,
        together=(all_drop, all_still) if together else None,
        notes=tuple(notes),
    )


def _layer(model: Model, layer: str | None) -> LayerChoice:
    if model.logits.kind != "classifier":
        raise ModelError(
            f"{model.name!r} is no classifier: its output {model.logits.tensor!r} is {model.logits.kind}. Unit "
            "ablation needs one score for each class."
        )
    choice = request(model, "ablation-cam", {}, layer).layer
    assert choice is not None
    if not model.in_file(choice.tensor):
        raise LayerError(
            f"layer {choice.tensor!r} exists only in the rewritten form of the file, and ablation runs the file "
            "itself. Choose another one with --layer (`onnxvis inspect` lists them)."
        )
    return choice


def _groups(
    model: Model, pictures: Sequence[Any], batch_size: int, notes: list[str]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Batches of pictures that can share one: their places, and the input."""
    for start in range(0, len(pictures), batch_size):
        ready: list[tuple[int, np.ndarray]] = []
        for place in range(start, min(start + batch_size, len(pictures))):
            given = pictures[place]
            try:
                ready.append((place, (given if isinstance(given, Prepared) else model.prepare(given)).tensor))
            except PictureError as error:
                notes.append(f"left out: {error}")
        for group in same_shape([x for _, x in ready]):
            yield [ready[i][0] for i in group], np.concatenate([ready[i][1] for i in group])


def _chosen(units: Sequence[int] | None, count: int) -> np.ndarray:
    if units is None:
        return np.arange(count)
    wrong = [u for u in units if not 0 <= u < count]
    if wrong or not units:
        what = f"not {wrong[0]}" if wrong else "and none was given"
        raise UsageError(f"the layer has units 0 to {count - 1}, {what}.")
    return np.asarray(list(dict.fromkeys(units)), np.int64)


class _Batch:
    """Some pictures, with the part before the layer run."""

    def __init__(self, model: Model, layer: LayerChoice, x: np.ndarray, truth: np.ndarray | None) -> None:
        self._model, self._layer, self._x = model, layer, x
        tensor = model.logits.tensor
        try:
            model.engine.batch_plan(x[:1])
            found = model.engine.forward(x, (layer.tensor, tensor), len(x))
        except OnnxvisError as error:
            raise ModelError(f"the pictures cannot be run up to layer {layer.tensor!r}: {error}") from error
        self._activation = found[layer.tensor]
        self.units = self._activation.shape[layer.channel_axis]
        self.signed = bool((self._activation < 0).any())
        self._needs_image = reads_image(model, layer.tensor)
        # What is compared is the tail's own answer with all units on, so that rounding of the cut cancels.
        self._logits = self._tail(self._activation)
        self.classes = self._logits.argmax(axis=1) if truth is None else truth.astype(np.int64)
        if (self.classes < 0).any() or (self.classes >= self._logits.shape[1]).any():
            raise UsageError(f"the model has classes 0 to {self._logits.shape[1] - 1}.")

    def _tail(self, activation: np.ndarray) -> np.ndarray:
        model = self._model
        feeds = {self._layer.tensor: activation}
        if self._needs_image:
            feeds[model.image_input.name] = self._x
        logits = model.engine.tail(feeds, model.logits.tensor, len(activation))
        return logits_of(model, {model.logits.tensor: logits}, len(activation))

    def run(
        self, units: np.ndarray, together: bool, progress: Progress, done: int, total: int
    ) -> list[tuple[Any, ...]]:
        rows = np.arange(len(self._x))
        base = self._logits[rows, self.classes]
        right = self._logits.argmax(axis=1) == self.classes
        drops = np.empty((len(rows), len(units)), np.float32)
        still = np.empty(drops.shape, bool)
        changed = self._activation.copy()
        view = np.moveaxis(changed, self._layer.channel_axis, 1)
        original = np.moveaxis(self._activation, self._layer.channel_axis, 1)
        for place, unit in enumerate(units):
            view[:, unit] = 0
            logits = self._tail(changed)
            view[:, unit] = original[:, unit]
            drops[:, place] = base - logits[rows, self.classes]
            still[:, place] = logits.argmax(axis=1) == self.classes
            progress("pictures x units", done * len(units) + (place + 1) * len(rows), total * len(units))
        every = np.zeros(len(rows), np.float32), right
        if together:
            view[:, units] = 0
            logits = self._tail(changed)
            every = base - logits[rows, self.classes], logits.argmax(axis=1) == self.classes
        return list(zip(self.classes, base, right, drops, still, *every, strict=True))
