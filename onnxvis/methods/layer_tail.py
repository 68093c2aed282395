"""Running only what comes after the layer: many changed activations in, their logits out.

A method that asks "what would the network say if this unit were off?" need not run the picture again. The
trunk (picture to layer) ran once; the tail (layer to logits) is a small part of the network at the usual layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxvis.graph.cut import needed_nodes
from onnxvis.methods.base import Task, rows_of
from onnxvis.target import Score

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["LayerTail", "reads_image", "score_values"]

_BYTES = 1 << 25
_MOST = 256


class LayerTail:
    """The tail of the deployed graph for one image.

    Where the layer exists only in the rewritten graph, or in float64, the converted network runs instead,
    which :attr:`note` says.

    Attributes:
        activation: of the image, as the file has it, ``(1, ...)``.
        rows: how many activations run at once: at least the task's batch size, more where they are small.
        note: one sentence for the result.
    """

    def __init__(self, task: Task, row: int) -> None:
        layer = task.layer
        assert layer is not None
        self._task = task
        self._layer = layer
        one = slice(row, row + 1)
        self.activation = rows_of(task.tensors[layer.tensor], one)
        self._image = rows_of(task.x, one)
        self._converted = task.float64 or not task.model.in_file(layer.tensor)
        self._needs_image = self._converted or reads_image(task.model, layer.tensor)
        bytes_each = max(self.activation.nbytes, task.logits[row].nbytes, 1)
        if self._needs_image:
            bytes_each = max(bytes_each, self._image.nbytes)
        self.rows = max(task.batch_size, min(_MOST, _BYTES // bytes_each))
        where = "converted network" if self._converted else "deployed file"
        self.note = f"only the part of the {where} after the layer ran again"
        task.model.engine.batch_plan(task.x[:1])  # a batch is believed only after it was compared with single runs

    def __call__(self, activations: np.ndarray) -> np.ndarray:
        """Logits for activations of the layer.

        Args:
            activations: ``(M, ...)`` in the layout of the file.

        Returns:
            ``(M, K)``, or dense ``(M, ...)``.
        """
        model = self._task.model
        feeds = {self._layer.tensor: activations}
        if self._converted:
            feeds[model.image_input.name] = np.repeat(self._image, len(activations), axis=0)
            logits = model.engine.gradients(
                feeds, model.logits.tensor, (), (self._layer.tensor,), float64=self._task.float64
            ).output
        else:
            if self._needs_image:
                feeds[model.image_input.name] = self._image
            logits = model.engine.tail(feeds, model.logits.tensor, self.rows)
        return logits.reshape(len(activations), *self._task.logits.shape[1:])

    def ablated(self) -> Iterator[tuple[int, np.ndarray]]:
        """Logits with one unit after the other set to 0: (first unit, logits of some units), in order."""
        units = np.moveaxis(self.activation, self._layer.spatial_axes, (-2, -1)).shape[1:-2]
        count = int(np.prod(units))
        buffer = np.repeat(self.activation, min(self.rows, count), axis=0)
        view = np.moveaxis(buffer, self._layer.spatial_axes, (-2, -1))
        original = np.moveaxis(self.activation, self._layer.spatial_axes, (-2, -1))[0]
        for start in range(0, count, len(buffer)):
            stop = min(start + len(buffer), count)
            chosen = [tuple(int(n) for n in np.unravel_index(c, units)) for c in range(start, stop)]
            for i, unit in enumerate(chosen):
                view[(i, *unit)] = 0
            yield start, self(buffer[: len(chosen)])
            for i, unit in enumerate(chosen):
                view[(i, *unit)] = original[unit]


def reads_image(model: Model, tensor: str, rewritten: bool = False) -> bool:
    """Whether the part after a layer reads the picture too, if only for its size; control flow is taken to.

    Args:
        model: the model.
        tensor: the layer.
        rewritten: ask of the rewritten graph instead of the file.
    """
    graph = model.canonical.model.graph if rewritten else model.file.proto.graph
    nodes = needed_nodes(graph, [tensor], [model.logits.tensor])
    image = model.image_input.name
    return any(image in node.input or any(a.HasField("g") for a in node.attribute) for node in nodes)


def score_values(scores: Sequence[Score], logits: np.ndarray) -> np.ndarray:
    """The scores of one image at some logits ``(M, ...)``: ``(M, T)`` float64."""
    return np.stack([score.value(logits) for score in scores], axis=1)
