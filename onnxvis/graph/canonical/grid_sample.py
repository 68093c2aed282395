"""Bring GridSample of opset 20 and later to opset 17: the older names of its modes.

y = GridSample<mode=linear>(x, grid)   ->   y = GridSample<mode=bilinear>(x, grid)      (x of rank 4)
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, nodes_of, shape_of

__all__ = ["REWRITE"]

_OLDER = {"linear": "bilinear", "cubic": "bicubic"}


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "GridSample"):
        mode, dims = node.attributes.get_string("mode", ""), shape_of(node.inputs[0])
        if mode in _OLDER and dims is not None and len(dims) == 4:
            node.attributes["mode"] = ir.AttrString("mode", _OLDER[mode])
            count += 1
    return count


REWRITE = Rewrite("grid-sample", "GridSample brought to opset 17: the older names of its modes", _apply, "form")
