"""Element types and dims of a graph's tensors, inferred anew from its inputs."""

from __future__ import annotations

import math

import onnx

from onnxvis.graph.gradient.tensor import Known

__all__ = ["infer"]

_SMALL = 4096


def infer(model: onnx.ModelProto) -> dict[str, Known]:
    """What follows from the declared inputs; declarations of inner tensors are not believed.

    Large weights take part by shape alone, so that a copy of the model stays small.
    """
    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 4)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    weights = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in weights)
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    found = {tensor.name: Known(tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        found.setdefault(value.name, known_of(value))
    return found


def known_of(value: onnx.ValueInfoProto) -> Known:
    """What a declaration says."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return Known(kind.elem_type)
    dims: list[int | str | None] = []
    for dim in kind.shape.dim:
        fixed = dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0
        dims.append(dim.dim_value if fixed else (dim.dim_param or None))
    return Known(kind.elem_type, tuple(dims))
