"""Know shapes and element types, as far as they follow from the graph's inputs.

    x: float32 [batch, 3, 224, 224];  y = Conv(x, w: [64, 3, 7, 7])   ->   y: float32 [batch, 64, 112, 112]

The graph does not change; later rewrites read what is known. Declared types of inner tensors are not used:
onnxruntime enforces those of the graph's inputs only.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Dims, Rewrite, distrust, dtype_of, remember, shape_of

__all__ = ["REWRITE", "declare"]

_LONGEST_SHAPE = 1 << 12
_SMALL = 256  # elements: larger constants are weights, whose values shape inference never reads


def _declaration(name: str, dtype: ir.DataType | None, dims: Dims | None) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, int(dtype or 0), None if dims is None else list(dims))


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without its weights: they become inputs of known type and shape."""
    proto, graph = onnx.ModelProto(), model.graph
    proto.ir_version = max(model.ir_version or 0, 4)
    for domain, version in graph.opset_imports.items():
        proto.opset_import.append(onnx.helper.make_opsetid(domain, version))
    proto.graph.name = graph.name or "graph"
    for value in graph.inputs:
        if isinstance(value.type, ir.TensorType):
            proto.graph.input.append(_declaration(value.name or "", value.dtype, shape_of(value)))
        else:
            proto.graph.input.append(ir.serde.serialize_value(value))
    for name, value in graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        if tensor.size <= _SMALL:
            proto.graph.initializer.append(ir.serde.serialize_tensor(tensor))
        elif not value.is_graph_input():
            proto.graph.input.append(_declaration(name, tensor.dtype, tuple(tensor.shape.numpy())))
    proto.graph.node.extend(ir.serde.serialize_node(node) for node in graph)
    return proto


def _attempt(skeleton: onnx.ModelProto, data_prop: bool) -> onnx.ModelProto | None:
    try:
        return onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=data_prop)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        return None  # what cannot be inferred stays unknown, and the rewrites that need it do nothing


def _long_vectors(inferred: onnx.ModelProto) -> bool:
    """Whether a node makes a vector too long to be a shape."""
    for info in inferred.graph.value_info:
        dims = info.type.tensor_type.shape.dim
        if len(dims) == 1 and dims[0].dim_value > _LONGEST_SHAPE:
            return True
    return False


def _infer(skeleton: onnx.ModelProto) -> onnx.ModelProto | None:
    plain = _attempt(skeleton, data_prop=False)
    if plain is None or _long_vectors(plain):
        return plain  # following values element by element would take memory without bound
    return _attempt(skeleton, data_prop=True) or plain


def _dims(shape: onnx.TensorShapeProto) -> Dims:
    dims: list[int | str | None] = []
    for dim in shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            named = dim.dim_param and not dim.dim_param.startswith("unk__")
            dims.append(dim.dim_param if named else None)
    return tuple(dims)


def _apply(model: ir.Model) -> int:
    inferred = _infer(_skeleton(model))
    known: dict[str, onnx.TypeProto.Tensor] = {}
    if inferred is not None:
        for info in (*inferred.graph.value_info, *inferred.graph.output):
            if info.type.HasField("tensor_type"):
                known[info.name] = info.type.tensor_type
    for node in model.graph.all_nodes():
        for value in node.outputs:
            found = known.get(value.name or "") if node.graph is model.graph else None
            dims = _dims(found.shape) if found is not None and found.HasField("shape") else None
            kind = ir.DataType(found.elem_type) if found is not None and found.elem_type else None
            remember(value, dims, kind)
    for body in model.graph.subgraphs():
        for value in body.inputs:
            distrust(value)
    return 0


def declare(model: ir.Model) -> None:
    """Write what is known about inner tensors into the model, in place of what the file declared."""
    _apply(model)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.is_graph_output():
                continue
            dims, kind = shape_of(value), dtype_of(value)
            value.shape = None if dims is None or kind is None else ir.Shape(dims)
            value.type = None if kind is None else ir.TensorType(kind)


REWRITE = Rewrite("shapes", "shapes and element types inferred from the graph's inputs", _apply)
