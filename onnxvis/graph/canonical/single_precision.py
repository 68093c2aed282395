"""Raise half-precision numbers to float32.

    x: float16, w: float16     y = Conv(x, w)          ->   x, w: float32      y = Conv(x, w)
    h = Cast<to=float16>(x);   y = Cast<to=float32>(h) ->   h = Cast<to=float32>(x); y = Cast<to=float32>(h)

A gradient in half precision can underflow to nothing. Inputs and outputs keep their names and become
float32 too. float64 stays: it loses nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, dtype_of, is_default_domain, remember, shape_of

__all__ = ["REWRITE"]

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision")


def _raised(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(np.asarray(tensor.numpy()).astype(np.float32), name=tensor.name)


def _raise_value(value: ir.Value) -> int:
    changed = 0
    if value.const_value is not None and value.const_value.dtype in _HALF:
        value.const_value = _raised(value.const_value)
        changed = 1
    if isinstance(value.type, ir.TensorType) and value.type.dtype in _HALF:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        changed = 1
    if value.producer() is not None and dtype_of(value) in _HALF:
        remember(value, shape_of(value), ir.DataType.FLOAT)
    return changed


def _raise_attributes(node: ir.Node) -> int:
    changed = 0
    for name, attribute in tuple(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _HALF:
            node.attributes[name] = ir.AttrTensor(name, _raised(attribute.as_tensor()))
            changed = 1
        elif name in _TYPE_ATTRIBUTES and is_default_domain(node) and attribute.value in _HALF:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            changed = 1
    return changed


def _apply(model: ir.Model) -> int:
    count = 0
    for graph in model.graphs():
        values = [*graph.inputs, *graph.initializers.values(), *graph.outputs]
        values += [value for node in graph for value in node.outputs]
        count += sum(_raise_value(value) for value in dict.fromkeys(values))
        count += sum(_raise_attributes(node) for node in graph)
    return count


REWRITE = Rewrite(
    "single-precision", "float16 and bfloat16 raised to float32, for gradients that do not underflow", _apply
)
