"""Bring Dropout from before opset 12 to opset 17: no ratio attribute.

    y, mask = Dropout<ratio=0.5>(x)   ->   y, mask = Dropout(x, 0.5)

At inference the ratio changes nothing; only a Dropout whose mask is read is still here to need one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, nodes_of

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Dropout"):
        if "ratio" not in node.attributes:
            continue
        ratio = np.asarray(node.attributes.get_float("ratio"), np.float32)
        node.attributes.pop("ratio")
        node.resize_inputs(2)
        node.replace_input_with(1, Patch(model, node).constant("ratio", ratio))
        count += 1
    return count


REWRITE = Rewrite("dropout-ratio", "Dropout brought to opset 17: its ratio as an input", _apply, "form")
