"""Write type conversions plainly, and remove those that change nothing.

y = CastLike(x, t: float)          ->   y = Cast<to=float>(x)
y = Cast<to=float>(x: float)       ->   y = Identity(x)
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, dtype_of, nodes_of

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "CastLike"):
        kind = dtype_of(node.inputs[1])
        if kind is None:
            continue
        node.op_type = "Cast"
        node.resize_inputs(1)
        node.attributes["to"] = ir.AttrInt64("to", int(kind))
        count += 1
    for node in nodes_of(model, "Cast"):
        kind = dtype_of(node.inputs[0])
        if kind is not None and node.attributes.get_int("to", 0) == int(kind):
            node.op_type = "Identity"
            node.attributes.clear()
            count += 1
    return count


REWRITE = Rewrite("idle-cast", "conversions to the type that a tensor has already removed", _apply)
