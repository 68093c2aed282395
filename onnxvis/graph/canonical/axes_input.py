"""Bring Squeeze, Unsqueeze and ReduceSum from before opset 13 to opset 17: axes as an input.

y = Unsqueeze<axes=[2]>(x)   ->   y = Unsqueeze(x, [2])
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, nodes_of

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Squeeze", "Unsqueeze", "ReduceSum"):
        axes = node.attributes.get_ints("axes", None)
        if axes is None:
            continue
        node.attributes.pop("axes")
        node.resize_inputs(2)
        node.replace_input_with(1, Patch(model, node).constant("axes", np.asarray(axes, np.int64)))
        count += 1
    return count


REWRITE = Rewrite(
    "axes-input", "Squeeze, Unsqueeze and ReduceSum brought to opset 17: axes as an input", _apply, "form"
)
