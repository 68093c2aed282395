"""Bring Slice from before opset 10 to opset 17: its bounds as inputs.

y = Slice<starts=[0], ends=[2], axes=[1]>(x)   ->   y = Slice(x, [0], [2], [1])
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, nodes_of

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Slice"):
        if "starts" not in node.attributes:
            continue
        patch = Patch(model, node)
        names = [name for name in ("starts", "ends", "axes") if name in node.attributes]
        node.resize_inputs(1 + len(names))
        for index, name in enumerate(names, start=1):
            bounds = np.asarray(node.attributes.get_ints(name), np.int64)
            node.replace_input_with(index, patch.constant(name, bounds))
            node.attributes.pop(name)
        count += 1
    return count


REWRITE = Rewrite("slice-inputs", "Slice brought to opset 17: bounds as inputs", _apply, "form")
