"""Bring Pad to opset 17: widths as an input, for all axes.

y = Pad<pads=[0,0,1,1, 0,0,1,1], value=0>(x)   ->   y = Pad(x, [0,0,1,1, 0,0,1,1], 0)
y = Pad(x, [1,1,1,1], 0, axes=[2,3])           ->   y = Pad(x, [0,0,1,1, 0,0,1,1], 0)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import (
    Patch,
    Rewrite,
    constant_of,
    dtype_of,
    input_of,
    nodes_of,
    shape_of,
)

__all__ = ["REWRITE"]


def _from_attributes(model: ir.Model, node: ir.Node) -> None:
    widths = node.attributes.get_ints("pads") or node.attributes.get_ints("paddings") or ()
    kind = (dtype_of(node.inputs[0]) or ir.DataType.FLOAT).numpy()
    patch = Patch(model, node)
    constant_mode = node.attributes.get_string("mode", "constant") == "constant"
    node.resize_inputs(3 if constant_mode else 2)
    node.replace_input_with(1, patch.constant("pads", np.asarray(widths, np.int64)))
    if constant_mode:
        fill = np.asarray(node.attributes.get_float("value", 0.0), kind)
        node.replace_input_with(2, patch.constant("fill", fill))
    for name in ("pads", "paddings", "value"):
        node.attributes.pop(name, None)


def _spread_axes(model: ir.Model, node: ir.Node) -> bool:
    widths, axes, dims = constant_of(node.inputs[1]), constant_of(node.inputs[3]), shape_of(node.inputs[0])
    if widths is None or axes is None or dims is None:
        return False
    rank, given = len(dims), axes.reshape(-1).size
    full = np.zeros(2 * rank, np.int64)
    for index, axis in enumerate(int(a) % rank for a in axes.reshape(-1)):
        full[axis], full[rank + axis] = widths[index], widths[given + index]
    node.replace_input_with(1, Patch(model, node).constant("pads", full))
    node.resize_inputs(3 if node.inputs[2] is not None else 2)
    return True


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Pad"):
        if {"pads", "paddings"} & set(node.attributes):
            _from_attributes(model, node)
            count += 1
        elif input_of(node, 3) is not None:
            count += _spread_axes(model, node)
        elif len(node.inputs) > 3:
            node.resize_inputs(3)
            count += 1
    return count


REWRITE = Rewrite("pad-inputs", "Pad brought to opset 17: widths as an input, for all axes", _apply, "form")
