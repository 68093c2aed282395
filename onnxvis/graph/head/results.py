"""What the walk back from the output finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Activation", "Head", "HeadKind", "Logits", "LogitsKind"]

Activation = Literal["softmax", "log-softmax", "sigmoid"]
LogitsKind = Literal["classifier", "dense", "detection", "unknown"]
HeadKind = Literal[
    "gap-linear",
    "gap-conv1x1",
    "class-maps-gap",
    "gap-mlp",
    "gap-norm-linear",
    "gmp-linear",
    "flatten-linear",
    "flatten-mlp",
    "dense",
    "none",
]


@dataclass(frozen=True)
class Logits:
    """The tensor whose values are explained.

    Attributes:
        tensor: its name; explanations are of this tensor, before any softmax or sigmoid.
        output: the graph output it was reached from.
        activation: what turns it into the output, or None where the output is the logits.
        skipped: operators between ``tensor`` and ``output``, from the output backwards.
        reason: one sentence for people.
        class_axis: the axis of ``tensor`` that counts the classes.
        kind: ``"classifier"`` (one score for each class), ``"dense"`` (scores at positions),
            ``"detection"`` (rows of box coordinates and scores) or ``"unknown"``.
        spatial_axes: axes ``(rows, cols)`` of ``tensor`` where it is a map, else None.
        others: the graph's other outputs that depend on the picture.
    """

    tensor: str
    output: str
    activation: Activation | None
    skipped: tuple[str, ...]
    reason: str
    class_axis: int
    kind: LogitsKind
    spatial_axes: tuple[int, int] | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """How the logits are made from the last feature map.

    Attributes:
        kind: ``gap-linear``: global average pool, then one linear layer; ``gap-conv1x1``: the linear layer
            is a 1×1 convolution; ``class-maps-gap``: one map for each class, averaged; ``gap-mlp``: more
            than one layer after the pool; ``gap-norm-linear``: a normalization stands between;
            ``gmp-linear``: maximum instead of mean; ``flatten-linear`` and ``flatten-mlp``: positions are
            flattened into one or more linear layers; ``dense``: convolution at every position; ``none``:
            no such structure (a transformer, for instance).
        cam_layer: the activation map to explain with, or None where the graph has none.
        cam_shape: its shape.
        spatial_axes: its axes ``(rows, cols)``.
        channel_axis: its channel axis.
        pool: name of the node that pools over space, if there is one.
        linear: name of the last linear node.
        weight: the constant tensor with that node's weights.
        bias: the constant tensor with its bias, where it has one.
        chain: operators from ``cam_layer`` to the logits, in order.
        cam_applies: original CAM (Zhou et al. 2016) holds by structure: each logit is a weighted sum of the
            spatial means of ``cam_layer``'s channels.
        reason: one sentence for people.
    """

    kind: HeadKind
    cam_layer: str | None
    cam_shape: tuple[int, ...] | None
    spatial_axes: tuple[int, int] | None
    channel_axis: int | None
    pool: str | None
    linear: str | None
    weight: str | None
    bias: str | None
    chain: tuple[str, ...]
    cam_applies: bool
    reason: str

    @classmethod
    def nowhere(cls, reason: str) -> Head:
        """No head and no layer."""
        return cls("none", None, None, None, None, None, None, None, None, (), False, reason)
