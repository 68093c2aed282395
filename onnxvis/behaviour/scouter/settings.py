"""What can be chosen about the slot head and its training; nothing of it is written anywhere else."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from onnxvis.errors import UsageError

__all__ = ["EXPLANATIONS", "SMALLEST_SUM", "HeadForm", "HeadSettings", "TrainingSettings"]

EXPLANATIONS = {"positive": 1, "negative": -1}
"""The sign e of the paper's confidence, by its word."""
SMALLEST_SUM = 1e-6
"""Sums of products nearer to zero than this count as this (with their sign), so that no division overflows."""


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is a whole number of at least {least}, not {value!r}.")


def _number(name: str, value: Any, least: float, most: float = math.inf, *, open_end: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least or (open_end and value == least) or value > most:
        span = f"{'above' if open_end else 'of at least'} {least:g}" + (
            f", at most {most:g}" if most < math.inf else ""
        )
        raise UsageError(f"{name} is a number {span}, not {value!r}.")


@dataclass(frozen=True)
class HeadSettings:
    """The form of the xSlot head (Li et al., ICCV 2021, section 3.1).

    Attributes:
        explanation: "positive" (e = +1: what supports a class) or "negative" (e = -1: what speaks against it).
        slots: slots per class; a class's attention is the sum of its slots'.
        dim: d, channels after the 1x1 convolution and size of a slot; a multiple of 4.
        iterations: T, how often the slots are updated.
        key_layers: linear layers of K, with ReLU between them.
        query_layers: linear layers of Q; 0 takes the slots themselves as queries, as the authors' code does.
        normalize: scale every slot's row of products to the same sum before the sigmoid, as the authors' code does. Off
            by default: the division by sums that pass through zero makes training jump (docs/behaviour/scouter.md has
            figures).
    """

    explanation: str = "positive"
    slots: int = 1
    dim: int = 64
    iterations: int = 3
    key_layers: int = 1
    query_layers: int = 0
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.explanation not in EXPLANATIONS:
            raise UsageError(f"the explanation is positive or negative, not {self.explanation!r}.")
        for name, least in (("slots", 1), ("dim", 4), ("iterations", 1), ("key_layers", 1), ("query_layers", 0)):
            _whole(name.replace("_", " "), getattr(self, name), least)
        if self.dim % 4:
            raise UsageError(
                f"dim is a multiple of 4 (sines and cosines of rows and of columns share it), not {self.dim}."
            )

    @property
    def sign(self) -> int:
        """E of the paper: +1 or -1."""
        return EXPLANATIONS[self.explanation]


@dataclass(frozen=True)
class HeadForm:
    """A head's settings with the sizes that the backbone and the data give.

    Attributes:
        settings: what was chosen.
        channels: of the feature map.
        height: rows of the feature map.
        width: columns of the feature map.
        classes: K.
    """

    settings: HeadSettings
    channels: int
    height: int
    width: int
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the file's metadata; :meth:`from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HeadForm:
        """The form that :meth:`to_dict` wrote."""
        return cls(
            HeadSettings(**data["settings"]), *(int(data[k]) for k in ("channels", "height", "width", "classes"))
        )


@dataclass(frozen=True)
class TrainingSettings:
    """How the head is trained.

    Attributes:
        area_weight: lambda of the loss: cross-entropy + lambda * area ** area_power, the area being the mean attention
            (section 3.2 of the paper).
        area_power: exponent of the area. 1 is the plain area; 2, which most of the authors' published commands use,
            presses on large areas and lets small ones be.
        ramp: part of the training over which lambda grows from 0 to its value; 0 has it in full from the first step.
            A head that is pressed before it has learned anything switches its attention off for good.
        epochs: most passes over the training part.
        batch_size: pictures for one step.
        learning_rate: of AdamW.
        final_rate: part of the learning rate that is left after the last epoch; it falls as a half cosine.
        backbone_rate: part of the learning rate that the backbone's weights get, where they are trained.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; larger ones are shortened. The row normalization divides by sums that
            can come near zero.
        validation: part of the pictures held back, class by class, to tell when to stop.
        patience: epochs without a better validation loss after which training stops.
        seed: of the first weights, the held-back part and the order of pictures.
        device: "cpu", "cuda" or "auto".
        save_seconds: how often a checkpoint is written within an epoch.
    """

    area_weight: float = 1.0
    area_power: float = 1.0
    ramp: float = 0.3
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 2e-3
    final_rate: float = 0.05
    backbone_rate: float = 0.1
    weight_decay: float = 1e-4
    clip: float = 5.0
    validation: float = 0.1
    patience: int = 5
    seed: int = 0
    device: str = "auto"
    save_seconds: float = 30.0

    def __post_init__(self) -> None:
        _number("lambda", self.area_weight, 0)
        _number("the exponent of the area", self.area_power, 0, open_end=True)
        _number("the ramp of lambda", self.ramp, 0, 1)
        _number("the learning rate", self.learning_rate, 0, open_end=True)
        _number("the final part of the learning rate", self.final_rate, 0, 1)
        _number("the backbone's part of the learning rate", self.backbone_rate, 0, 1, open_end=True)
        _number("the weight decay", self.weight_decay, 0)
        _number("the largest gradient norm", self.clip, 0, open_end=True)
        _number("the validation part", self.validation, 0, 0.9, open_end=True)
        _number("the time between checkpoints", self.save_seconds, 0)
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            _whole(name.replace("_", " "), getattr(self, name), least)
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            raise UsageError(f"the device is auto, cpu or cuda, not {self.device!r}.")
