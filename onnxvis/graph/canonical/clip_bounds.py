"""Bring Clip from before opset 11 to opset 17: bounds as inputs.

y = Clip<min=0, max=6>(x)   ->   y = Clip(x, 0, 6)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, dtype_of, nodes_of

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Clip"):
        if not {"min", "max"} & set(node.attributes):
            continue
        kind = (dtype_of(node.inputs[0]) or ir.DataType.FLOAT).numpy()
        patch = Patch(model, node)
        node.resize_inputs(3)
        for index, name in ((1, "min"), (2, "max")):
            if name in node.attributes:
                bound = np.asarray(node.attributes.get_float(name), kind)
                node.replace_input_with(index, patch.constant(name, bound))
                node.attributes.pop(name)
        if node.inputs[2] is None:
            node.resize_inputs(2)
        count += 1
    return count


REWRITE = Rewrite("clip-bounds", "Clip brought to opset 17: bounds as inputs", _apply, "form")
