"""Lift constants to initializers.

    w = Constant(value=...)             ->   initializer w
    w = ConstantOfShape([64, 3, 7, 7])  ->   initializer w      (shape known)

Paddle, Keras and Caffe2 exporters keep weights in nodes; a weight must be seen as one. A ConstantOfShape
that asks for more memory than a model may hold stays a node.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.fold_constants import affordable
from onnxvis.graph.canonical.numpy_ops import evaluate, result_size
from onnxvis.graph.canonical.rewrite import Rewrite, constant_of, nodes_of, set_constant

__all__ = ["REWRITE"]

_SCALARS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    for name, attribute in node.attributes.items():
        if name == "value":
            return attribute.as_tensor()
        if name in _SCALARS:
            return ir.tensor(np.asarray(attribute.value, dtype=_SCALARS[name]))
    return None  # strings, sparse tensors and references to a function's attribute stay nodes


def _filled_tensor(model: ir.Model, node: ir.Node) -> ir.TensorProtocol | None:
    shape = constant_of(node.inputs[0])
    if shape is None or shape.dtype.kind not in "iu" or (shape < 0).any():
        return None
    size = node.attributes["value"].as_tensor().dtype.itemsize if "value" in node.attributes else 4
    if not affordable(model, result_size(node, [shape]), max(int(size), 1)):
        return None
    array = evaluate(node, [shape])
    return None if array is None else ir.tensor(np.array(array))


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Constant", "ConstantOfShape"):
        if node.outputs[0].is_graph_output():
            continue
        tensor = _constant_tensor(node) if node.op_type == "Constant" else _filled_tensor(model, node)
        if tensor is not None:
            set_constant(node, tensor)
            count += 1
    return count


REWRITE = Rewrite("lift-constants", "Constant and ConstantOfShape nodes turned into initializers", _apply)
