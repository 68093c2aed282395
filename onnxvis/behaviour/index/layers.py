"""Which tensors a pass reads: the layers whose units are counted, and the one that makes the embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.rectifiers import below_bound
from onnxvis.errors import LayerError

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["Tap", "embedding_tap", "unit_taps"]

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_NOT_IN_FILE = "it exists only in the rewritten graph, which runs image by image and slowly"


@dataclass(frozen=True)
class Tap:
    """A tensor to read, and where its units stand.

    Attributes:
        tensor: its name.
        reason: why this one.
        units: number of channels.
        channel: their axis.
        spatial: axes (rows, columns), ``None`` for a tensor without places.
        places: positions at the model's usual input size, 1 for a tensor without places.
    """

    tensor: str
    reason: str
    units: int
    channel: int
    spatial: tuple[int, int] | None
    places: int

    def maps(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """``(N, U, h, w)`` float32; one place where the tensor has none.

        Raises:
            LayerError: the tensor has another number of units on this input.
        """
        moved = np.asarray(array, np.float32)
        if self.spatial is not None:
            moved = moved.transpose(0, self.channel, *self.spatial)
        moved = np.ascontiguousarray(moved).reshape(len(moved), moved.shape[1], *(moved.shape[2:] or (1, 1)))
        if moved.shape[1] != self.units:
            raise LayerError(
                f"{self.tensor!r} has {moved.shape[1]} units on this picture and {self.units} at the model's usual "
                "size: bring pictures to one size (--size)."
            )
        return moved

    def vectors(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """``(N, U)`` float32: the mean over the places."""
        maps = self.maps(array)
        return np.asarray(maps.reshape(*maps.shape[:2], -1).mean(axis=2, dtype=np.float32))


def unit_taps(model: Model, names: Sequence[str]) -> tuple[Tap, ...]:
    """The layers asked for; "auto" is the one that class activation maps would take.

    Where that layer ends in a rectifier with an upper bound (ReLU6), what enters the rectifier is taken: at the bound
    all places of a unit are alike, and none of them would be its strongest.

    Raises:
        LayerError: there is no such layer, or it has no units.
    """
    taps = [_auto(model) if name == "auto" else _named(model, name) for name in names]
    return tuple({tap.tensor: tap for tap in taps}.values())


def _named(model: Model, name: str) -> Tap:
    return _tap(model, model.layer(name), f"asked for as {name!r}")


def _last_map(model: Model) -> Tap:
    head = model.head
    if head.cam_layer is None or head.channel_axis is None or head.spatial_axes is None:
        raise LayerError(
            f"no layer of {model.name!r} could be chosen by structure: {head.reason}. Name one with --layers; "
            "`onnxvis inspect` lists them."
        )
    return _made(model, head.cam_layer, head.reason, head.channel_axis, head.spatial_axes)


def _auto(model: Model) -> Tap:
    """The last map, below an upper bound."""
    tap = _last_map(model)
    below = below_bound(model, tap.tensor)
    if below is None:
        return tap
    tensor, bound = below
    reason = f"it enters the rectifier, whose upper bound {bound:g} would make strong places alike; {tap.reason}"
    return dataclasses.replace(tap, tensor=tensor, reason=reason)


def _made(model: Model, tensor: str, reason: str, channel: int, spatial: tuple[int, int] | None) -> Tap:
    shape = model.shapes[tensor]
    stated = reason if model.in_file(tensor) else f"{reason} ({_NOT_IN_FILE})"
    return Tap(tensor, stated, shape[channel], channel, spatial, int(np.prod(shape[1:])) // max(1, shape[channel]))


def _tap(model: Model, tensor: str, reason: str) -> Tap:
    shape, field = model.shapes.get(tensor, ()), model.fields.get(tensor)
    if len(shape) == 2:
        return _made(model, tensor, reason, 1, None)
    if len(shape) != 4:
        raise LayerError(
            f"layer {tensor!r} has shape {shape}: units are counted in maps of 4 axes and vectors of 2. Choose another "
            "(`onnxvis inspect` lists them)."
        )
    spatial = (2, 3) if model.layout == "NCHW" else (1, 2)
    if field is not None and field.rows is not None and field.cols is not None:
        spatial = (field.rows.axis, field.cols.axis)
    elif shape[2:] == (1, 1):
        spatial = (2, 3)
    channel = next(axis for axis in range(1, 4) if axis not in spatial)
    return _made(model, tensor, reason, channel, spatial)


def embedding_tap(model: Model, name: str | None) -> Tap:
    """The tensor that represents a picture: asked for, or what enters the last linear layer.

    Where that is a map, its mean over the places is the embedding.

    Raises:
        LayerError: there is no such layer, or no linear layer to find it by.
    """
    if name is not None:
        return _named(model, name)
    head = model.head
    if head.linear is None:
        if head.cam_layer is not None:
            reason = f"the mean of the last map, since no last linear layer was found: {head.reason}"
            return dataclasses.replace(_last_map(model), reason=reason)
        raise LayerError(
            f"no layer of {model.name!r} is followed by a linear one, so none represents a picture by structure: "
            f"{head.reason}. Name one with --embedding; `onnxvis inspect` lists them."
        )
    given = model.index.data_inputs(model.index.node(head.linear))
    tensor = _in_file(model, next(t for t in given if len(model.shapes.get(t, ())) in (2, 4)))
    if not model.in_file(tensor) and head.cam_layer is not None and model.in_file(head.cam_layer):
        reason = f"the mean of the last map, since {tensor!r} is not in the file itself"
        return dataclasses.replace(_last_map(model), reason=reason)
    tap = _tap(model, tensor, f"it enters the last linear layer ({head.linear!r})")
    words = f"{tap.reason}; its mean over the {tap.places} places"
    return dataclasses.replace(tap, reason=words) if tap.places > 1 else tap


def _in_file(model: Model, tensor: str) -> str:
    """The same numbers under a name that the file has, if only reshapes stand between."""
    makers = {name: node for node in model.canonical.model.graph.node for name in node.output}
    start = tensor
    while not model.in_file(tensor) and tensor in makers and makers[tensor].op_type in _RESHAPES:
        tensor = makers[tensor].input[0]
    fits = model.in_file(tensor) and len(model.shapes.get(tensor, ())) in (2, 4)
    return tensor if fits else start
