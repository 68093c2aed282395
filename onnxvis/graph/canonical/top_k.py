"""Bring TopK from before opset 10 to opset 17: k as an input.

v, i = TopK<k=5>(x)   ->   v, i = TopK(x, [5])
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, nodes_of

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "TopK"):
        if "k" not in node.attributes:
            continue
        k = np.asarray([node.attributes.get_int("k")], np.int64)
        node.attributes.pop("k")
        node.resize_inputs(2)
        node.replace_input_with(1, Patch(model, node).constant("k", k))
        count += 1
    return count


REWRITE = Rewrite("top-k", "TopK brought to opset 17: k as an input", _apply, "form")
