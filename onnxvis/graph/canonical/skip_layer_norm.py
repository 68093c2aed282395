"""Take onnxruntime's SkipLayerNormalization apart.

y, , , s = com.microsoft.SkipLayerNormalization(x, skip, gamma, beta, bias)
                                ->   s = Add(Add(x, skip), bias); y = LayerNormalization(s, gamma, beta)
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import PINNED, Patch, Rewrite, input_of, is_used, nodes_of, opset_of

__all__ = ["REWRITE"]


def _skip(model: ir.Model, node: ir.Node) -> bool:
    if any(is_used(out) for out in node.outputs[1:3]):
        return False
    patch, bias = Patch(model, node), input_of(node, 4)
    total = patch.op("Add", node.inputs[0], node.inputs[1], hint="sum")
    if bias is not None:
        total = patch.op("Add", total, bias, hint="biased_sum")
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    parameters = [value for value in (input_of(node, 2), input_of(node, 3)) if value is not None]
    normal = patch.op("LayerNormalization", total, *parameters, axis=-1, epsilon=epsilon)
    for unused in node.outputs[1:3]:
        unused.name = None
    if len(node.outputs) == 4 and is_used(node.outputs[3]):
        kept = node.outputs[3]
        total.name, total.type, total.shape = kept.name, kept.type, kept.shape
        kept.name = None
        ir.convenience.replace_all_uses_with(kept, total, replace_graph_outputs=True)
    patch.replace(normal)
    return True


def _apply(model: ir.Model) -> int:
    if opset_of(model) < PINNED:
        return 0
    return sum(_skip(model, node) for node in nodes_of(model, "SkipLayerNormalization", domain="com.microsoft"))


REWRITE = Rewrite("skip-layer-norm", "onnxruntime's SkipLayerNormalization taken apart", _apply, "modern")
