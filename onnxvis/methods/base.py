"""What a method is: data about it, its options, and one function from a task to attributions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import UsageError, did_you_mean
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared
    from onnxvis.runtime.parity import Parity
    from onnxvis.target import Score

__all__ = ["Attribution", "LayerChoice", "Method", "NoOptions", "Task", "option", "rows_of"]


@dataclass(frozen=True)
class LayerChoice:
    """The layer a method works at.

    Attributes:
        tensor: its name.
        reason: one sentence: why this one.
        channel_axis: which axis of the activation counts units.
        spatial_axes: its rows and columns.
    """

    tensor: str
    reason: str
    channel_axis: int = 1
    spatial_axes: tuple[int, int] = (2, 3)


@dataclass(frozen=True)
class NoOptions:
    """A method without options of its own."""


def option(default: Any, text: str) -> Any:
    """A field of an options class, with the sentence that ``onnxvis methods NAME`` prints."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, eq=False)
class Attribution:
    """What a method found for one image and one score.

    Attributes:
        values: raw map in the model's input grid, ``(H, W)`` or ``(C, H, W)`` float32, never rescaled.
        units: what a value means, such as "change of logit".
        signed: whether negative values mean evidence against the target.
        reduction: how ``(C, H, W)`` becomes the drawn ``(H, W)``: "max-abs" or "sum".
        layer_map: the map at the layer's own resolution, where the method works at a layer.
        parity: the agreement of converted and deployed model, where a gradient was used.
        parameters: what was used, defaults filled in.
        notes: every choice, approximation and fall-back, one sentence each.
        target: what is explained, where that is not the score that was asked for: a unit of a layer.
        score: its value; ``None`` takes that of the score.
    """

    values: np.ndarray
    units: str
    signed: bool = True
    reduction: str = "sum"
    layer_map: np.ndarray | None = None
    parity: Parity | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target: str = ""
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What a method gets: images, what to explain on each, and a way to run the model.

    Attributes:
        model: the deployed model.
        x: prepared images ``(N, ...)`` in the model's own dtype and layout.
        prepared: the same with their pictures and geometry.
        scores: for each image the scores to explain.
        tensors: what one forward pass of the deployed graph gave: the logits under
            ``model.logits.tensor``, and every tensor of :attr:`Method.taps`.
        layer: the layer, for a method that works at one.
        options: an instance of the method's options class.
        batch_size: how many images or perturbed copies run at once.
        float64: compute gradients in double precision.
        seed: for methods with chance.
        progress: where long work reports.
    """

    model: Model
    x: np.ndarray
    prepared: Sequence[Prepared]
    scores: Sequence[Sequence[Score]]
    tensors: Mapping[str, np.ndarray]
    layer: LayerChoice | None
    options: Any
    batch_size: int = 8
    float64: bool = False
    seed: int = 0
    progress: Progress = silent

    @property
    def logits(self) -> np.ndarray:
        """Logits of the deployed graph, ``(N, ...)``."""
        return self.tensors[self.model.logits.tensor]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the model's input grid."""
        height, width = self.x.shape[-2:] if self.model.layout == "NCHW" else self.x.shape[-3:-1]
        return int(height), int(width)

    def picture_name(self, row: int) -> str:
        """Name of an image, for records."""
        picture = self.prepared[row].picture
        return picture.name if picture else f"image {row}"

    def rows(self) -> Iterator[slice]:
        """Slices of the images that may share a batch: one by one on a graph that cannot be batched."""
        step = self.batch_size
        if len(self.x) > 1 and self.model.engine.batch_plan(self.x[:1]).kind == "looped":
            step = 1
        for start in range(0, len(self.x), step):
            yield slice(start, min(start + step, len(self.x)))

    def cotangents(self, rows: slice) -> list[np.ndarray]:
        """D score / d logits for some images, as few arrays as there are scores for one image.

        The k-th array holds the k-th score of every image; an image with fewer scores repeats its last.
        """
        chosen = self.scores[rows]
        shape = self.logits[rows].shape
        rounds = max((len(scores) for scores in chosen), default=0)
        return [
            np.stack([scores[min(k, len(scores) - 1)].cotangent for scores in chosen]).reshape(shape)
            for k in range(rounds)
        ]


@dataclass(frozen=True)
class Method:
    """One explanation method. A new one is one file with a ``METHOD`` and one line in ``methods/__init__.py``.

    Attributes:
        name: as it is written on the command line.
        title: for headings.
        summary: one sentence: what the map means.
        paper: citation.
        attribute: the method: for each image, for each of its scores, an attribution.
        options: dataclass of its own options.
        needs_gradient: whether it differentiates the canonical graph.
        uses_layer: whether it works at a layer.
        caution: when it misleads, in one sentence.
        quick: options that make a cheap trial run, for ``onnxvis check``.
        applies: raises a :class:`~onnxvis.errors.LayerError` where the method cannot be used on a model at a
            layer; asked before anything runs.
        suits: raises a :class:`~onnxvis.errors.ModelError` where a model lacks what the method reads; asked before
            anything runs.
    """

    name: str
    title: str
    summary: str
    paper: str
    attribute: Callable[[Task], list[list[Attribution]]]
    options: type = NoOptions
    needs_gradient: bool = False
    uses_layer: bool = False
    caution: str = ""
    quick: Mapping[str, Any] = field(default_factory=dict)
    applies: Callable[[Model, LayerChoice], None] | None = None
    suits: Callable[[Model], None] | None = None

    def parse_options(self, given: Mapping[str, Any]) -> Any:
        """An instance of the options class.

        Raises:
            UsageError: an option that the method does not have, or a value that it refuses.
        """
        names = [f.name for f in dataclasses.fields(self.options)]
        for name in given:
            if name not in names:
                have = f"It has: {', '.join(names)}." if names else "It has none."
                raise UsageError(f"method {self.name} has no option {name!r}.{did_you_mean(name, names)} {have}")
        return self.options(**given)


def rows_of(values: np.ndarray, rows: slice) -> np.ndarray:
    """Some rows of an array, contiguous."""
    return np.ascontiguousarray(values[rows])
