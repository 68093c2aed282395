"""Write Sum as Add.

    y = Sum(a, b, c)   ->   s = Add(a, b); y = Add(s, c)
    y = Sum(a)         ->   y = Identity(a)

Caffe2 writes its residual connections as Sum.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, nodes_of, opset_of

__all__ = ["REWRITE"]

_FIRST_BROADCASTING = 7


def _apply(model: ir.Model) -> int:
    if opset_of(model) < _FIRST_BROADCASTING:
        return 0
    count = 0
    for node in nodes_of(model, "Sum"):
        patch, total = Patch(model, node), node.inputs[0]
        if total is None:
            continue
        for summand in node.inputs[1:]:
            total = patch.op("Add", total, summand, hint="partial")
        patch.replace(total)
        count += 1
    return count


REWRITE = Rewrite("sum-of-two", "Sum written as Add", _apply)
