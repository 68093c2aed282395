"""Element types and dims of a graph's tensors, inferred anew from its inputs."""

from __future__ import annotations

import math

import onnx
from onnx import helper

from onnxvis.graph.fold import attributes
from onnxvis.graph.gradient.tensor import Known

__all__ = ["infer"]

_SMALL = 4096


def infer(model: onnx.ModelProto) -> dict[str, Known]:
    """What follows from the declared inputs; declarations of inner tensors are not believed.

    Where onnx and onnxruntime disagree about the size of a pool with ``ceil_mode``, onnxruntime is right: it is
    what runs.
    """
    light = _light(model)
    found = _inferred(light)
    for node in [n for n in light.graph.node if n.op_type in ("MaxPool", "AveragePool")]:
        own = _pooled(node, found.get(node.input[0], Known()))
        known = found.get(node.output[0], Known())
        if own is None or known.dims == own:
            continue
        light.graph.node.remove(node)
        light.graph.input.append(helper.make_tensor_value_info(node.output[0], known.dtype, list(own)))
        light.graph.input.extend(onnx.ValueInfoProto(name=name) for name in node.output[1:] if name)
        found = _inferred(light)
    return found | {t.name: Known(t.data_type, tuple(t.dims)) for t in model.graph.initializer}


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large weights by shape alone, so that a copy stays small."""
    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 4)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    weights = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(_with_symbols(value) for value in model.graph.input if value.name not in weights)
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def _with_symbols(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """The input with a symbol of its own for each free axis: files name height and width alike that differ."""
    own = onnx.ValueInfoProto()
    own.CopyFrom(value)
    for axis, dim in enumerate(own.type.tensor_type.shape.dim):
        if dim.dim_value <= 0:
            dim.dim_param = f"{value.name}/{axis}"
    return own


def _inferred(light: onnx.ModelProto) -> dict[str, Known]:
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    return {value.name: known_of(value) for value in (*graph.input, *graph.output, *graph.value_info)}


def _pooled(node: onnx.NodeProto, x: Known) -> tuple[int | str | None, ...] | None:
    """The output's dims of a pool with ``ceil_mode``: a window that would begin beyond the picture is left out."""
    attrs = attributes(node)
    if not attrs.get("ceil_mode", 0) or attrs.get("auto_pad", "NOTSET") != "NOTSET" or x.dims is None:
        return None
    kernel = attrs["kernel_shape"]
    axes = len(kernel)
    strides, dilations = attrs.get("strides") or [1] * axes, attrs.get("dilations") or [1] * axes
    pads = attrs.get("pads") or [0] * 2 * axes
    dims: list[int | str | None] = list(x.dims[:2])
    for axis, size in enumerate(x.dims[2:]):
        if not isinstance(size, int):
            dims.append(None)
            continue
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        count = -(-(size + pads[axis] + pads[axis + axes] - reach) // strides[axis]) + 1
        dims.append(count - ((count - 1) * strides[axis] >= size + pads[axis]))
    return tuple(dims)


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
