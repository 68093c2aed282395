"""Bring Softmax, LogSoftmax and Hardmax from before opset 13 to opset 17.

    y = Softmax<axis=1>(x)  of [n, 1000]       ->   y = Softmax<axis=-1>(x)
    y = Softmax<axis=1>(x)  of [n, 1000, 1, 1] ->   y = Softmax<axis=1>(x)
    y = Softmax<axis=1>(x)  otherwise          ->   f = Flatten<axis=1>(x)
                                                    s = Softmax<axis=-1>(f)
                                                    y = Reshape(s, Shape(x))

The old operators flatten everything from the axis on; the new ones normalize along the axis alone.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, nodes_of, opset_of, shape_of

__all__ = ["REWRITE", "flattened_softmax"]

_CHANGED = 13


def _new_axis(node: ir.Node, axis: int) -> int | None:
    """The axis with which the new operator does the same, ``None`` where it cannot."""
    dims = shape_of(node.inputs[0])
    if axis == -1 or dims is None:
        return axis if axis == -1 else None
    axis = axis % len(dims)
    long = [i for i in range(axis, len(dims)) if dims[i] != 1]
    if not long:
        return axis
    return long[0] if len(long) == 1 and long[0] >= axis else None


def flattened_softmax(patch: Patch, op_type: str, source: ir.Value, axis: int) -> ir.Value:
    """Softmax, LogSoftmax or Hardmax with the meaning that it had before opset 13."""
    flat = patch.op("Flatten", source, axis=axis)
    return patch.op("Reshape", patch.op(op_type, flat, axis=-1), patch.op("Shape", source))


def _apply(model: ir.Model) -> int:
    if opset_of(model) >= _CHANGED:
        return 0
    count = 0
    for node in nodes_of(model, "Softmax", "LogSoftmax", "Hardmax"):
        axis, source = node.attributes.get_int("axis", 1), node.inputs[0]
        new_axis = _new_axis(node, axis)
        if new_axis is not None:
            if node.attributes.get_int("axis", None) != new_axis:
                node.attributes["axis"] = ir.AttrInt64("axis", new_axis)
                count += 1
            continue
        assert source is not None
        patch = Patch(model, node)
        patch.replace(flattened_softmax(patch, node.op_type, source, axis))
        count += 1
    return count


REWRITE = Rewrite("softmax-axis", "Softmax of old operator sets brought to opset 17", _apply, "form")
