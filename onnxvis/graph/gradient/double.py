"""The same graph in double precision."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["in_double"]

_STAYS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that the standard wants in float32 whatever the data is."""


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every float32 input, weight, constant and conversion in float64; the argument is not changed."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    kept = {
        name for node in graph.node for i, name in enumerate(node.input) if i in _STAYS.get(node.op_type, ()) and name
    }
    for position, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            wide = numpy_helper.to_array(tensor).astype(np.float64)
            graph.initializer[position].CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                wide = numpy_helper.to_array(attribute.t).astype(np.float64)
                attribute.CopyFrom(helper.make_attribute(attribute.name, numpy_helper.from_array(wide)))
    return twin
