"""Find where a graph has its batch size baked in, by running it at two batch sizes side by side.

The canonical graph runs node by node on ``b`` images and on ``3 b`` that begin with the same ``b``. The axis
of a tensor that grew three times is the one that counts images, and the first third of it must hold the same
values again: so every node is checked on the spot, numbers included. A constant that stands in the way
is rewritten before the node runs; a node that mixes images, or loses them, ends the search with its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxvis.errors import ConversionError, ModelError, require
from onnxvis.graph.batch_edits import Edit
from onnxvis.runtime.baked import GROWTH, Pair, Rows, changes

if TYPE_CHECKING:
    import torch

    from onnxvis.converters.module import TorchGraph
    from onnxvis.converters.plan import Step

__all__ = ["find_edits"]

_TOLERANCE = 0.02  # relative; tells a wrong row (1) from rounding, that of quantized nets included
_SHAPE_READERS = ("Shape", "Size")


def find_edits(
    model: onnx.ModelProto, image_input: str, images: np.ndarray, constants: Mapping[str, np.ndarray]
) -> tuple[Edit, ...]:
    """The edits that let a graph run any number of images.

    Args:
        model: the graph in the canonical dialect, weights in memory, with its batch as the file declares it.
        image_input: the input that takes the images.
        images: ``(3 b, ...)`` different images, where ``b`` is the batch size that the file fixes.
        constants: values of the other inputs, the same for every batch.

    Raises:
        ModelError: a node loses or mixes images in a way that cannot be repaired; it is named.
        ConversionError: a node cannot be run in torch.
        DependencyError: torch is not installed.
    """
    torch = require("torch", "torch", "finding where a batch size is baked in")

    from onnxvis.converters import convert

    graph = convert(model)
    few = len(images) // GROWTH
    with torch.no_grad():
        search = _Search(graph, model, few)
        pictures = _tensor(images, graph.dtype)
        search.values[image_input] = Pair(pictures[:few], pictures, Rows(0))
        for name, array in constants.items():
            value = _tensor(array, graph.dtype)
            search.values[name] = Pair(value, value)
        search.run()
    return tuple(search.edits)


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(np.array(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


class _Search:
    def __init__(self, graph: TorchGraph, model: onnx.ModelProto, few: int) -> None:
        self.graph = graph
        self.few = few
        self.nodes = {name: node for node in model.graph.node for name in node.output if name}
        self.outputs = [value.name for value in model.graph.output]
        self.values: dict[str, Pair] = {}
        self.edits: list[Edit] = []

    def run(self) -> None:
        last = {name: step.index for step in self.graph.steps for name in (*step.inputs, *step.outputs)}
        for step in self.graph.steps:
            self._visit(step)
            for name in {*step.inputs, *step.outputs}:
                if last.get(name) == step.index and name not in self.outputs:
                    self.values.pop(name, None)
        for name in self.outputs:
            if self.graph.constant(name) is None and self.values[name].rows is None:
                raise ModelError(f"output {name!r} has no batch axis")

    def _visit(self, step: Step) -> None:
        node = self.nodes[next(name for name in step.outputs if name)]
        given = [self._read(name) if name else None for name in step.inputs]
        few = self.graph.run_step(step, [None if pair is None else pair.few for pair in given])
        where = f"node {step.name!r} ({step.op_type})"
        changed = {}
        for change in changes(node, [self._read(n) if n else None for n in node.input], few[0], self.few):
            self.edits.append(change.edit)
            changed[change.edit.input] = change.value
        arguments = [None if pair is None else pair.many for pair in given]
        for index, value in changed.items():
            # Where the converter takes other inputs than the node has, they go by their names.
            same = tuple(step.inputs) == tuple(node.input)[: len(step.inputs)]
            arguments[index if same else step.inputs.index(node.input[index])] = value
        try:
            many = self.graph.run_step(step, arguments)
        except ConversionError as error:
            cause = error.__cause__ or error
            raise ModelError(f"{where} fails on {GROWTH * self.few} images: {str(cause)[:160]}") from error
        batched = any(pair is not None and pair.rows is not None for pair in given)
        for name, a, b in zip(step.outputs, few, many, strict=False):
            if name:
                rows = _locate(a, b, self.few, where)
                if rows is None and batched and step.op_type not in _SHAPE_READERS:
                    raise ModelError(f"{where} loses the batch axis: it makes {list(b.shape)} of any number of images")
                self.values[name] = Pair(a, b, rows)

    def _read(self, name: str) -> Pair:
        if name not in self.values:
            value = self.graph.constant(name)
            if value is None:
                raise ModelError(f"the graph needs a value for its input {name!r}")
            return Pair(value, value)
        return self.values[name]


def _locate(few: torch.Tensor, many: torch.Tensor, count: int, where: str) -> Rows | None:
    """Where the images of a tensor are, ``None`` if its shape is that of one batch.

    Raises:
        ModelError: more than one axis grew, or none of the ways to split the grown one shows the same images.
    """
    if few.shape == many.shape:
        return None
    said = f"{list(few.shape)} becomes {list(many.shape)} for {GROWTH} times as many images"
    grown = [i for i, (a, b) in enumerate(zip(few.shape, many.shape, strict=False)) if a != b]
    if few.dim() != many.dim() or len(grown) != 1 or many.shape[grown[0]] != GROWTH * few.shape[grown[0]]:
        raise ModelError(f"{where} does not keep the images apart: {said}")
    axis = grown[0]
    size = few.shape[axis]
    if not few.is_floating_point():
        return Rows(axis)
    for outer in range(1, size // count + 1):
        if size % (outer * count) == 0 and _same(few, _first_images(many, axis, outer, count)):
            return Rows(axis, outer)
    raise ModelError(f"{where} mixes images: {said}, and the same images have other values")


def _first_images(many: torch.Tensor, axis: int, outer: int, count: int) -> torch.Tensor:
    """The first third of the images of a tensor."""
    split = many.reshape(*many.shape[:axis], outer, GROWTH * count, -1, *many.shape[axis + 1 :])
    return split.narrow(axis + 1, 0, count)


def _same(few: torch.Tensor, first: torch.Tensor) -> bool:
    a = few.double().nan_to_num().reshape(-1)
    error = (a - first.double().nan_to_num().reshape(-1)).norm()
    return bool(error <= _TOLERANCE * a.norm() + 1e-12)
