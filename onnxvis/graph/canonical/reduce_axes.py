"""Bring reductions from opset 18 and later to opset 17: axes as an attribute.

    y = ReduceMean(x, [2, 3])      ->   y = ReduceMean<axes=[2, 3]>(x)
    y = ReduceMean(x, []) <noop>   ->   y = Identity(x)

ReduceSum keeps its axes as an input, as it has since opset 13.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, constant_of, input_of, nodes_of

__all__ = ["REWRITE"]

_ALONE = {  # what the operator does to a single element
    "ReduceL1": "Abs",
    "ReduceL2": "Abs",
    "ReduceLogSum": "Log",
    "ReduceLogSumExp": "Identity",
    "ReduceMax": "Identity",
    "ReduceMean": "Identity",
    "ReduceMin": "Identity",
    "ReduceProd": "Identity",
}
_OPERATORS = (*_ALONE, "ReduceSumSquare")


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, *_OPERATORS):
        given = input_of(node, 1)
        if len(node.inputs) < 2 and "noop_with_empty_axes" not in node.attributes:
            continue
        axes = constant_of(given)
        if given is not None and axes is None:
            continue
        if axes is not None and axes.size:
            node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes.reshape(-1)])
        elif node.attributes.get_int("noop_with_empty_axes", 0):
            if node.op_type not in _ALONE:
                continue
            node.op_type = _ALONE[node.op_type]
            node.attributes.clear()
        node.attributes.pop("noop_with_empty_axes", None)
        node.resize_inputs(1)
        count += 1
    return count


REWRITE = Rewrite("reduce-axes", "reductions brought to opset 17: axes as an attribute", _apply, "form")
