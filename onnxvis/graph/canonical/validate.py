"""Refuse malformed graphs with one clear error, before anything is rewritten.

Checked: names defined and made once, required inputs and attributes present, attributes known and of the
right type, the bytes of initializers matching their shapes. Cycles are found by the ``sort`` rewrite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.defs import OpSchema, SchemaError, get_schema

from onnxvis.errors import ModelError

__all__ = ["type_code", "validate"]

_ADVICE = "Export the model again, or repair the file: `onnx.checker.check_model` describes its state."
_SUB_BYTE = {"UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2"}


def _refuse(what: str) -> ModelError:
    return ModelError(f"the graph is malformed: {what}. {_ADVICE}")


def _where(node: NodeProto) -> str:
    label = node.name or next((name for name in node.output if name), "without a name")
    return f"{node.op_type or 'operator'} node {label!r}"


def _schema_of(node: NodeProto, imports: dict[str, int]) -> OpSchema | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        return get_schema(node.op_type, imports.get(domain, 1), domain)
    except SchemaError:
        return None


def type_code(declared: OpSchema.Attribute) -> int:
    """The number that AttributeProto uses for the type of a schema's attribute."""
    return int(getattr(declared.type, "value"))  # noqa: B009 (an enum without typed members)


def _check_attributes(node: NodeProto, schema: OpSchema) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        if attribute.name in seen:
            raise _refuse(f"{_where(node)} has the attribute {attribute.name!r} twice")
        seen.add(attribute.name)
        if attribute.name not in schema.attributes:
            raise _refuse(f"{_where(node)} has the attribute {attribute.name!r}, which its operator does not know")
        if attribute.ref_attr_name:
            continue
        expected = type_code(schema.attributes[attribute.name])
        if attribute.type != expected:
            wanted = AttributeProto.AttributeType.Name(expected).lower()
            raise _refuse(f"the attribute {attribute.name!r} of {_where(node)} is not of type {wanted}")
    for name, declared in schema.attributes.items():
        if declared.required and name not in seen:
            raise _refuse(f"{_where(node)} lacks the attribute {name!r}")


def _check_arity(node: NodeProto, schema: OpSchema) -> None:
    if len(node.input) > schema.max_input or len(node.output) > schema.max_output:
        raise _refuse(f"{_where(node)} has more inputs or outputs than its operator knows")
    required = OpSchema.FormalParameterOption.Single
    for index, formal in enumerate(schema.inputs):
        if formal.option == required and (index >= len(node.input) or not node.input[index]):
            raise _refuse(f"{_where(node)} lacks its input {formal.name!r} (number {index + 1})")
    if len(node.input) < schema.min_input:
        raise _refuse(f"{_where(node)} has {len(node.input)} inputs, but needs {schema.min_input}")
    if not any(node.output):
        raise _refuse(f"{_where(node)} has no output")


def _check_tensor(tensor: TensorProto) -> None:
    if any(extent < 0 for extent in tensor.dims):
        raise _refuse(f"the initializer {tensor.name!r} has a negative extent")
    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
    except ValueError as error:
        raise _refuse(f"the initializer {tensor.name!r} has the unknown element type {tensor.data_type}") from error
    if kind == "UNDEFINED":
        raise _refuse(f"the initializer {tensor.name!r} has no element type")
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(
            f"the values of the initializer {tensor.name!r} are in another file and were not loaded. "
            "Load the model together with its external data."
        )
    if tensor.HasField("raw_data") and kind not in _SUB_BYTE and kind != "STRING":
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if len(tensor.raw_data) != math.prod(tensor.dims) * size:
            raise _refuse(f"the initializer {tensor.name!r} has {len(tensor.raw_data)} bytes for {list(tensor.dims)}")


def _declare(names: Iterable[str], known: set[str], what: str) -> None:
    for name in names:
        if not name:
            continue
        if name in known:
            raise _refuse(f"the tensor {name!r} is made twice ({what})")
        known.add(name)


def _check_graph(graph: GraphProto, outer: frozenset[str], imports: dict[str, int], inner: bool) -> None:
    known: set[str] = set()
    _declare((value.name for value in graph.input), known, "as an input")
    constants: set[str] = set()
    _declare((t.name for t in graph.initializer), constants, "as an initializer")
    known |= constants
    if graph.sparse_initializer:
        raise ModelError(
            f"the initializer {graph.sparse_initializer[0].values.name!r} is sparse, which is not supported. "
            "Store it densely: export the model again without sparse tensors."
        )
    for tensor in graph.initializer:
        _check_tensor(tensor)
        if not tensor.name:
            raise _refuse("an initializer has no name")
    for node in graph.node:
        _declare(node.output, known, f"by {_where(node)}")
    visible = outer | known
    for node in graph.node:
        _check_node(node, frozenset(visible), imports)
    if not graph.output and not inner:
        raise _refuse("the graph has no outputs")
    missing = [value.name for value in graph.output if value.name not in (visible if inner else known)]
    if missing:
        raise _refuse(f"the output {missing[0]!r} is not made by any node")


def _check_node(node: NodeProto, visible: frozenset[str], imports: dict[str, int]) -> None:
    for name in node.input:
        if name and name not in visible:
            raise _refuse(f"{_where(node)} reads the tensor {name!r}, which is not defined")
    schema = _schema_of(node, imports)
    if schema is not None:
        _check_attributes(node, schema)
        _check_arity(node, schema)
    if not node.op_type:
        raise _refuse(f"{_where(node)} names no operator")
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            _check_graph(attribute.g, visible, imports, inner=True)
        for body in attribute.graphs:
            _check_graph(body, visible, imports, inner=True)


def validate(model: ModelProto) -> None:
    """Refuse a malformed model.

    Raises:
        ModelError: with the node or tensor that is wrong.
    """
    imports = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    _check_graph(model.graph, frozenset(), imports, inner=False)
    for function in model.functions:
        own = {"" if e.domain == "ai.onnx" else e.domain: e.version for e in function.opset_import}
        known: set[str] = set()
        _declare(function.input, known, f"as an input of the function {function.name!r}")
        for node in function.node:
            _declare(node.output, known, f"by {_where(node)} of the function {function.name!r}")
        for node in function.node:
            _check_node(node, frozenset(known), own or imports)
