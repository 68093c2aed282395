"""Remove nodes that return their input at inference.

    b = Identity(a); c = Relu(b)           ->   c = Relu(a)
    b = Dropout(a);  c = Gemm(b, w)        ->   c = Gemm(a, w)      (mask not used, not in training mode)
    y = Dropout(a)   as a graph output     ->   y = Identity(a)

A node that makes a graph output stays as an Identity, so that the output keeps its name.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import (
    Rewrite,
    constant_of,
    input_of,
    is_used,
    nodes_of,
    opset_of,
    remove_node,
)

__all__ = ["REWRITE"]

_DROPOUT_AT_INFERENCE = 7  # before, an attribute told training from inference


def _inert(model: ir.Model, node: ir.Node) -> bool:
    if node.op_type == "Identity":
        return True
    if opset_of(model) < _DROPOUT_AT_INFERENCE and not node.attributes.get_int("is_test", 0):
        return False
    if any(is_used(mask) for mask in node.outputs[1:]):
        return False
    if input_of(node, 2) is not None:
        training = constant_of(node.inputs[2])
        return training is not None and training.size > 0 and not bool(training.reshape(-1)[0])
    return True


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Identity", "Dropout"):
        source = node.inputs[0]
        if source is None or not _inert(model, node):
            continue
        if not node.outputs[0].is_graph_output():
            remove_node(node, source)
        elif node.op_type == "Dropout":
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
            node.resize_outputs(1)
        else:
            continue
        count += 1
    return count


REWRITE = Rewrite("identity", "Identity and inference-mode Dropout nodes removed", _apply)
