"""What a metric is, what it gets, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.methods.baseline import make_baseline
from onnxvis.methods.layout import channels_first, in_layout
from onnxvis.methods.probability import probabilities
from onnxvis.prediction import logits_of
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation
    from onnxvis.model import Model
    from onnxvis.target import Score

__all__ = ["BASELINES", "Measured", "Metric", "Settings", "Subject"]

BASELINES = ("zero", "mean", "blur")
ENGINES = ("auto", "plain", "incremental")


@dataclass(frozen=True, eq=False)
class Measured:
    """What a metric says about one explanation.

    Attributes:
        value: in the metric's units; ``None`` where it does not apply.
        curve: ``(points, 2)`` float64 where the value is a summary of a curve: for insertion and deletion the part
            of the pixels and the score; for sensitivity-n the part of the pixels and the correlation.
        note: why there is no value, or what was chosen or approximated.
    """

    value: float | None
    curve: np.ndarray | None = None
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """What all metrics of a run share; see :func:`onnxvis.audit.metrics.measure`."""

    batch_size: int = 8
    seed: int = 0
    steps: int = 28
    samples: int = 40
    score: str = "probability"
    baseline: str | None = None
    progress: Progress = silent
    engine: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("steps", 1), ("samples", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} of a metric is at least {least}, not {getattr(self, name)!r}.")
        if self.engine not in ENGINES:
            raise UsageError(f"the engine of a metric is one of {', '.join(ENGINES)}, not {self.engine!r}.")
        if self.score not in ("probability", "logit"):
            raise UsageError(f"the score of a metric is 'probability' or 'logit', not {self.score!r}.")
        if self.baseline is not None and self.baseline not in BASELINES:
            raise UsageError(f"the baseline of a metric is one of {', '.join(BASELINES)}, not {self.baseline!r}.")


@dataclass(frozen=True, eq=False)
class Subject:
    """One explanation with everything that metrics ask of it.

    Attributes:
        model: the deployed model.
        explanation: what is judged.
        target: the explained score, pinned to the class or place that was explained; ``None`` where it cannot be
            asked again (a unit, a callable).
        heat: ``(H, W)`` float64, the map as it is drawn, in the input grid.
        content: rows and columns of the grid that show the picture; padding is no evidence.
        mask: ``(H, W)`` bool where the object is, in the input grid, or ``None``.
        boxes: the objects' boxes ``(x0, y0, x1, y1)`` in pixels of the original picture; empty where nobody knows.
        settings: of the run.
    """

    model: Model
    explanation: Explanation
    target: Score | None
    heat: np.ndarray
    content: tuple[slice, slice]
    mask: np.ndarray | None
    boxes: tuple[tuple[float, float, float, float], ...]
    settings: Settings

    @property
    def x(self) -> np.ndarray:
        """The model's input, ``(1, ...)``."""
        return self.explanation.prepared.tensor

    @property
    def image(self) -> np.ndarray:
        """The same as ``(C, H, W)``."""
        return channels_first(self.x[0], self.model.layout)

    def shown(self) -> np.ndarray:
        """The map where it shows the picture, ``(h, w)`` float64."""
        return self.heat[self.content]

    def baseline(self, usual: str) -> tuple[np.ndarray, str]:
        """What stands where the picture is taken away, ``(C, H, W)`` in the input's type, and its name.

        Args:
            usual: the baseline of the paper, which the settings may replace.
        """
        name = self.settings.baseline or usual
        values = make_baseline(0.0 if name == "zero" else name, self.image, "metric")
        dtype = self.x.dtype
        if dtype.kind in "ui":
            values = np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
        said = {
            "zero": "0 in the model's input values",
            "mean": "the mean of each channel",
            "blur": "the blurred picture",
        }
        return np.asarray(values.astype(dtype)), said[name]

    def in_layout(self, images: np.ndarray) -> np.ndarray:
        """Copies ``(M, C, H, W)`` as the model takes them."""
        shape = self.x.shape[1:]
        if self.model.layout == "NCHW":
            return images.reshape(len(images), *shape)
        return np.stack([in_layout(image, self.model.layout, shape) for image in images])

    def scorer(self) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
        """From inputs ``(M, ...)`` to the explained score of each, ``(M,)`` float64; and what that score is.

        Raises:
            UsageError: the explanation's target cannot be asked again.
        """
        target, model, size = self.target, self.model, self.settings.batch_size
        if target is None:
            raise UsageError("the explained score is not a number of the output that can be asked for again")
        squash, words = self._squash()
        name = model.logits.tensor

        def score(x: np.ndarray) -> np.ndarray:
            logits = logits_of(model, model.engine.forward(x, (name,), size), len(x))
            return np.asarray(target.value(squash(logits)), np.float64)

        return score, words

    def _squash(self) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
        if self.settings.score == "logit":
            return _same, "logit"
        try:
            probabilities(self.model, np.zeros((1, *_row_shape(self)), np.float32))
        except UsageError:
            return _same, "logit (this output has no probability)"
        return lambda logits: probabilities(self.model, logits), "probability"


def _same(logits: np.ndarray) -> np.ndarray:
    return logits


def _row_shape(subject: Subject) -> tuple[int, ...]:
    assert subject.target is not None
    return tuple(subject.target.cotangent.shape)


@dataclass(frozen=True)
class Metric:
    """One metric. A new one is one entry of the registry in ``metrics/__init__.py``.

    Attributes:
        name: as it is written on the command line.
        title: for headings.
        summary: one sentence: what the number means and what a good one is.
        paper: citation.
        better: "higher", "lower", or "" where neither is better.
        units: of the value.
        needs_mask: whether it asks where the object is.
        quick: whether it needs at most a hundred runs of the network, and the method none.
        rate: whether a value is 0 or 1, so that a mean is a rate.
        measure: the metric itself; raises :class:`~onnxvis.errors.UsageError` with the reason where it does not apply.
    """

    name: str
    title: str
    summary: str
    paper: str
    better: str
    units: str
    needs_mask: bool
    quick: bool
    measure: Callable[[Subject], Measured]
    rate: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        names = ("name", "title", "summary", "paper", "better", "units", "needs_mask", "quick", "rate")
        return {name: getattr(self, name) for name in names}
