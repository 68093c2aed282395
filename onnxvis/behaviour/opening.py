"""The model that a store was made with, opened again where an answer needs it: receptive fields, projections, maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.stored import Pictures, Reader
from onnxvis.errors import LayerError, ModelError, UsageError

if TYPE_CHECKING:
    from onnxvis.graph.receptive import TensorField
    from onnxvis.model import Model

__all__ = ["LayerMaps", "input_size", "layer_field", "model_of", "pictures_of"]

_AT_ONCE = 8


def model_of(store: Reader, path: str | os.PathLike[str] | None = None, gradients: str = "auto") -> Model:
    """Open the model that a store was made with, prepared as it was then.

    Args:
        store: the store.
        path: where the file is now; left out: where it was.
        gradients: who computes them, as for :func:`onnxvis.load`.

    Raises:
        ModelError: it is gone, or another file by now.
        UsageError: the store does not say which model it was.
    """
    from onnxvis.model import load

    known = store.manifest.get("model") or {}
    file = path if path is not None else known.get("path")
    if file is None:
        raise UsageError("the store was made from a model in memory: say where its file is with --model.")
    if not Path(file).is_file():
        raise ModelError(f"the model of the store, {file}, is not there any more: say where it is with --model.")
    size = store.manifest.get("size")
    model = load(
        file,
        preprocessing=store.manifest.get("preprocessing"),
        output=store.manifest.get("output"),
        size=tuple(size) if isinstance(size, list) else size,
        gradients=gradients,
    )
    if known.get("sha256") and model.sha256 != known["sha256"]:
        raise ModelError(
            f"{file} is not the model that the store was made with (SHA-256 {model.sha256[:12]}..., then "
            f"{known['sha256'][:12]}...): index again, or name the right file with --model."
        )
    return model


def pictures_of(store: Reader, model: Model) -> Pictures:
    """The store's pictures, prepared by the model's own preprocessing."""
    return Pictures(store.pictures(), model.prepare)


def layer_field(model: Model, layer: str) -> TensorField | None:
    """The receptive field of a layer; ``None`` for one whose units have no place in the picture."""
    field = model.fields.get(model.layer(layer))
    return field if field is not None and field.spatial_axes is not None else None


def input_size(model: Model) -> tuple[int, int]:
    """``(height, width)`` of the model's input."""
    shape = model.one_image_shape()
    return (shape[2], shape[3]) if model.layout == "NCHW" else (shape[1], shape[2])


class LayerMaps:
    """Activation maps of a layer on pictures of the store: those it kept, else the model is run again.

    Args:
        store: the store.
        layer: the layer.
        model: runs where nothing was kept.
        pictures: opens the pictures then.

    Attributes:
        source: one sentence: where the maps come from.
    """

    def __init__(self, store: Reader, layer: str, model: Model, pictures: Pictures) -> None:
        self._store, self._layer, self._model, self._pictures = store, layer, model, pictures
        first = next((row.id for row in store.pictures() if not row.error), None)
        self._kept = first is not None and store.maps(layer, [first]) is not None
        self.source = (
            "maps kept in the store, rounded to half precision"
            if self._kept
            else "the store keeps no maps, so the model was run again on these pictures (index with --keep-maps to "
            "have them)"
        )

    @property
    def kept(self) -> bool:
        """Whether the store has them."""
        return self._kept

    def __call__(self, ids: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """For each picture its number and maps ``(U, h, w)``, a few pictures in memory at a time.

        Raises:
            PictureError: the model has to run, and a picture is gone or has changed.
            LayerError: the layer has no maps.
        """
        for start in range(0, len(ids), _AT_ONCE):
            part = list(ids[start : start + _AT_ONCE])
            maps = self._stored(part) if self._kept else self._computed(part)
            yield from zip(part, maps, strict=True)

    def _stored(self, ids: list[int]) -> Iterator[NDArray[np.float32]]:
        for id in ids:  # one by one: pictures of different sizes have maps of different sizes
            found = self._store.maps(self._layer, [id])
            if found is None:
                raise LayerError(f"the store has no maps of {self._layer!r} for picture {id}; index again.")
            yield np.asarray(found[0], np.float32)

    def _computed(self, ids: list[int]) -> Iterator[NDArray[np.float32]]:
        model = self._model
        tensor = model.layer(self._layer)
        field = layer_field(model, self._layer)
        if field is None or field.spatial_axes is None:
            raise LayerError(f"the units of layer {self._layer!r} have no place in the picture, so they have no maps.")
        channel = field.channel_axis(len(model.shapes[tensor]))
        assert channel is not None
        tensors: list[NDArray[Any]] = [self._pictures.prepared(id).tensor for id in ids]
        same = len({t.shape for t in tensors}) == 1
        for batch in [np.concatenate(tensors)] if same else tensors:
            found = model.engine.forward(batch, (tensor,), _AT_ONCE)[tensor]
            moved = np.asarray(found, np.float32).transpose(0, channel, *field.spatial_axes)
            yield from moved
