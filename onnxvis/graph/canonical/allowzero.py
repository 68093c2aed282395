"""Drop ``allowzero`` from Reshape where it changes nothing.

    y = Reshape<allowzero=1>(x, [1, 1280])   ->   y = Reshape(x, [1, 1280])

The attribute only matters when the shape has a zero; today's PyTorch exporter sets it on every flatten.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, constant_of, input_of, nodes_of

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Reshape"):
        if "allowzero" not in node.attributes:
            continue
        shape = constant_of(input_of(node, 1))
        if node.attributes.get_int("allowzero", 0) and (shape is None or not shape.all()):
            continue
        node.attributes.pop("allowzero")
        count += 1
    return count


REWRITE = Rewrite("allowzero", "Reshape's allowzero dropped where the shape has no zero", _apply)
