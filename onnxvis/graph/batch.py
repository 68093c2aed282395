"""Free the batch axis of a graph that was exported for a fixed number of images.

    x: [1, 3, 224, 224] ... Reshape(f, [1, 1280])          ->   x: [batch, 3, 224, 224] ... Reshape(f, [-1, 1280])
    Reshape(f, [1, 6, -1])                                 ->   Reshape(f, [0, 6, -1])
    Resize(f, , , [1, 64, 28, 28])                         ->   Resize(f, , , [0, 64, 28, 28] + [1, 0, 0, 0] * n)
    Concat(token: [1, 1, 768], f)                          ->   Concat(Expand(token, [n, 1, 1]), f)

with n = Shape(f)[0]. What to rewrite is data, found by running the graph (:mod:`onnxvis.runtime.rebatch`);
this module only writes it down. Every number of images is taken from an input of the rewritten node itself,
so the part of the graph behind a cut works without the picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxvis.errors import ModelError
from onnxvis.graph.batch_edits import Edit, KeepRow, RepeatRow, SetElement, SetToRows
from onnxvis.graph.fold import attributes, fold, tensor_values

__all__ = ["fixed_batch", "free_batch"]

_ATTRIBUTES = {("Reshape", 1): "shape", ("Slice", 2): "ends"}  # where old operator sets keep these inputs
_OLDEST_EXPAND = 8  # operator set
_OLDEST_LOOSE_INITIALIZER = 4  # IR version; before it every initializer had to be a graph input


def fixed_batch(model: onnx.ModelProto, image_input: str) -> int:
    """The batch size that a graph declares for its image input, 0 where it leaves it free or says nothing."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name == image_input and len(dims) and dims[0].HasField("dim_value"):
            return max(0, int(dims[0].dim_value))
    return 0


def free_batch(model: onnx.ModelProto, image_input: str, edits: Iterable[Edit] = ()) -> onnx.ModelProto:
    """A copy of the model whose image input has a free batch axis, with baked constants rewritten.

    Declared shapes of inner tensors and outputs are dropped, since they state the old batch; element types
    and the other inputs stay. Constants that several nodes share are rewritten for the named node only.

    Args:
        model: any ONNX model; weights may be external.
        image_input: the input whose first axis counts images.
        edits: what else to rewrite. An edit of an input that the node does not have (sizes of a Resize that
            names its axes, say) has nothing to do and is passed over.

    Raises:
        ModelError: the node of an edit is not in the main graph, or cannot be rewritten in its operator set.
    """
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    for value in edited.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name == image_input and len(dims):
            dims[0].dim_param = "batch"
    for value in (*edited.graph.output, *edited.graph.value_info):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    editor = _Editor(edited)
    for edit in edits:
        editor.apply(edit)
    editor.insert()
    return edited


class _Editor:
    """Applies edits to a model in place; new nodes wait until :meth:`insert`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.nodes = list(model.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.stored = {t.name: t for t in self.graph.initializer}
        self.names = {*self.makers, *self.stored, *(v.name for v in self.graph.input)}
        self.names |= {node.name for node in self.nodes}
        self.before: dict[int, list[onnx.NodeProto]] = {}

    def apply(self, edit: Edit) -> None:
        """Rewrite one input of one node."""
        node = self.makers.get(edit.tensor)
        if node is None:
            raise ModelError(
                f"the {edit.op_type} that makes {edit.tensor!r} holds the batch size, but is not in the file's main "
                "graph under that name, so it cannot be rewritten"
            )
        if node.op_type != edit.op_type:
            return
        if isinstance(edit, SetElement | SetToRows):
            self._set(node, edit)
        elif isinstance(edit, KeepRow):
            node.input[edit.input] = self._first_row(node, edit)
        else:
            self._repeat(node, edit)

    def insert(self) -> None:
        """Put the new nodes before the nodes that read them."""
        if not self.before:
            return
        nodes = [new for node in self.nodes for new in (*self.before.get(id(node), ()), node)]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)

    def _set(self, node: onnx.NodeProto, edit: SetElement | SetToRows) -> None:
        index = edit.input
        if index >= len(node.input) or not node.input[index]:
            self._set_attribute(node, edit)
            return
        axes = attributes(node).get("axes") if node.op_type == "Resize" else None
        if axes is not None and edit.element not in axes:
            return
        element, length = (edit.element, edit.length) if axes is None else (list(axes).index(edit.element), len(axes))
        values = self._constant(node.input[index])
        if values is None and node.op_type == "Slice":
            return  # ends that are computed follow the batch by themselves
        if isinstance(edit, SetElement) and values is not None:
            values[element] = edit.value
            node.input[index] = self._store(node, values)
            return
        rest = self._blanked(node, index, element, length, values)
        if isinstance(edit, SetElement):
            added = self._store(node, _unit(length, element) * edit.value)
        else:
            rows = self._rows(node, edit.source, edit.axis, edit.times, edit.per)
            added = self._add(node, "Mul", rows, self._store(node, _unit(length, element)))
        node.input[index] = self._add(node, "Add", rest, added)

    @staticmethod
    def _set_attribute(node: onnx.NodeProto, edit: SetElement | SetToRows) -> None:
        name = _ATTRIBUTES.get((node.op_type, edit.input))
        found = next((a for a in node.attribute if a.name == name), None)
        if found is None:
            return
        if not isinstance(edit, SetElement):
            raise ModelError(
                f"node {node.name or edit.tensor!r} ({node.op_type}) keeps the batch size in an attribute of an old "
                "operator set, where it cannot be computed"
            )
        found.ints[edit.element] = edit.value

    def _blanked(self, node: onnx.NodeProto, index: int, element: int, length: int, values: np.ndarray | None) -> str:
        """The input with 0 in place of one number."""
        if values is None:
            return self._add(node, "Mul", node.input[index], self._store(node, 1 - _unit(length, element)))
        values[element] = 0
        return self._store(node, values)

    def _repeat(self, node: onnx.NodeProto, edit: RepeatRow) -> None:
        if self.opset < _OLDEST_EXPAND:
            raise ModelError(
                f"node {node.name or edit.tensor!r} ({node.op_type}) needs its input {node.input[edit.input]!r} "
                f"repeated for every image, which operator set {self.opset} cannot do"
            )
        row = self._first_row(node, edit)
        rows = self._rows(node, edit.source, edit.source_axis, 1, 1)
        ones = [np.ones(n, np.int64) for n in (edit.axis, edit.rank - edit.axis - 1)]
        parts = [self._store(node, ones[0])] if ones[0].size else []
        parts += [rows]
        parts += [self._store(node, ones[1])] if ones[1].size else []
        shape = self._add(node, "Concat", *parts, axis=0) if len(parts) > 1 else rows
        node.input[edit.input] = self._add(node, "Expand", row, shape)

    def _first_row(self, node: onnx.NodeProto, edit: RepeatRow | KeepRow) -> str:
        first = self._store(node, np.zeros(1, np.int64))
        return self._add(node, "Gather", node.input[edit.input], first, axis=edit.axis)

    def _rows(self, node: onnx.NodeProto, source: int, axis: int, times: int, per: int) -> str:
        """``Shape(inputs[source])[axis] * times / per`` as a tensor of one number."""
        shape = self._add(node, "Shape", node.input[source])
        rows = self._add(node, "Gather", shape, self._store(node, np.asarray([axis], np.int64)), axis=0)
        if times != 1:
            rows = self._add(node, "Mul", rows, self._store(node, np.asarray([times], np.int64)))
        return rows if per == 1 else self._add(node, "Div", rows, self._store(node, np.asarray([per], np.int64)))

    def _constant(self, name: str) -> np.ndarray | None:
        """A copy of the value of an initializer or ``Constant`` node, ``None`` for what is computed."""
        maker, tensor = self.makers.get(name), self.stored.get(name)
        values = None if tensor is None else tensor_values(tensor)
        if maker is not None and maker.op_type == "Constant":
            found = fold(maker, [])
            values = None if found is None else found[0]
        return None if values is None else np.array(values)

    def _store(self, node: onnx.NodeProto, values: np.ndarray) -> str:
        self.model.ir_version = max(self.model.ir_version, _OLDEST_LOOSE_INITIALIZER)
        name = self._fresh(node, "constant")
        self.stored[name] = self.graph.initializer.add()
        self.stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _add(self, node: onnx.NodeProto, op_type: str, *inputs: str, **given: Any) -> str:
        name = self._fresh(node, op_type.lower())
        self.before.setdefault(id(node), []).append(helper.make_node(op_type, list(inputs), [name], name, **given))
        return name

    def _fresh(self, node: onnx.NodeProto, hint: str) -> str:
        stem = next(name for name in node.output if name)
        name, number = f"{stem}_batch_{hint}", 1
        while name in self.names:
            name, number = f"{stem}_batch_{hint}_{number}", number + 1
        self.names.add(name)
        return name


def _unit(length: int, element: int) -> np.ndarray:
    unit = np.zeros(length, np.int64)
    unit[element] = 1
    return unit
