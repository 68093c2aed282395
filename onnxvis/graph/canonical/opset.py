"""Pin the operator set at version 17 where every node allows it.

    opset_import: 20, all nodes in a form that opset 17 knows   ->   opset_import: 17
    opset_import: 9,  all nodes in a form that opset 17 knows   ->   opset_import: 17

A node's form is that of opset 17 when its attributes, inputs, outputs and element types fit the schema that
version 17 has for it; the ``form`` rewrites before this one bring the forms that differ, and write out what
changed its meaning. Where a node does not fit, the import stays and the converters read the version.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError

from onnxvis.graph.canonical.rewrite import PINNED, Rewrite, dtype_of, is_default_domain, opset_of
from onnxvis.graph.canonical.validate import type_code

__all__ = ["OLDEST", "REWRITE", "misfits"]

OLDEST = 7
"""The oldest operator set that onnxruntime runs as a whole."""
_SOFTMAX_CHANGED, _SCAN_CHANGED, _RESIZE_CHANGED, _DROPOUT_CHANGED, _DFT_CHANGED = 13, 9, 11, 12, 20
_DEFAULTS_OF_LATER_VERSIONS: dict[tuple[str, str], object] = {
    ("Cast", "saturate"): 1,
    ("Cast", "round_mode"): "up",
    ("CastLike", "saturate"): 1,
    ("QuantizeLinear", "block_size"): 0,
    ("DequantizeLinear", "block_size"): 0,
    ("QuantizeLinear", "saturate"): 1,
    ("QuantizeLinear", "output_dtype"): 0,
    ("QuantizeLinear", "precision"): 0,
    ("DequantizeLinear", "output_dtype"): 0,
}
_ONES = {("AveragePool", "dilations"), ("LpPool", "dilations")}
_ZEROS = {("LpPool", "ceil_mode")}
_KNOWN_VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("GridSample", "mode"): ("bilinear", "nearest", "bicubic"),
    ("Pad", "mode"): ("constant", "reflect", "edge"),
    ("ScatterElements", "reduction"): ("none", "add", "mul"),
    ("ScatterND", "reduction"): ("none", "add", "mul"),
    ("Resize", "coordinate_transformation_mode"): (
        *("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"),
    ),
}


def _droppable(node: ir.Node, name: str) -> bool:
    key, value = (node.op_type, name), node.attributes[name].value
    if key in _ONES:
        return all(v == 1 for v in value)
    if key in _ZEROS:
        return not value
    return key in _DEFAULTS_OF_LATER_VERSIONS and value == _DEFAULTS_OF_LATER_VERSIONS[key]


def _meaning_changed(node: ir.Node, version: int) -> bool:
    """Operators whose schema looks the same at version 17 but which mean something else there."""
    kind = node.op_type
    if kind in ("Softmax", "LogSoftmax", "Hardmax") and version < _SOFTMAX_CHANGED:
        return "axis" not in node.attributes
    if kind == "Resize" and version < _RESIZE_CHANGED:
        return "coordinate_transformation_mode" not in node.attributes
    if kind == "Dropout" and version < _DROPOUT_CHANGED:
        return True  # its mask; a Dropout without one is an Identity by now
    if kind == "DFT":
        return version >= _DFT_CHANGED
    return kind == "Scan" and version < _SCAN_CHANGED


def _types_fit(node: ir.Node, schema: OpSchema) -> bool:
    formals = list(schema.inputs)
    for index, value in enumerate(node.inputs):
        formal = formals[min(index, len(formals) - 1)] if formals else None
        kind = dtype_of(value)
        if formal is None or kind is None:
            continue
        allowed = set(formal.types)
        if any(text.startswith("tensor(") for text in allowed) and f"tensor({_spelled(kind)})" not in allowed:
            return False
    return True


def _spelled(kind: ir.DataType) -> str:
    return str(onnx.TensorProto.DataType.Name(int(kind))).lower()


def _fits(node: ir.Node, version: int) -> bool:
    try:
        schema = onnx.defs.get_schema(node.op_type, PINNED, "")
    except SchemaError:
        return False
    if schema.deprecated or _meaning_changed(node, version):
        return False
    known = schema.attributes
    if any(name not in known and not _droppable(node, name) for name in node.attributes):
        return False
    if any(declared.required and name not in node.attributes for name, declared in known.items()):
        return False
    for (kind, name), values in _KNOWN_VALUES.items():
        if node.op_type == kind and name in node.attributes and node.attributes.get_string(name) not in values:
            return False
    if any(name in known and type_code(known[name]) != int(a.type) for name, a in node.attributes.items()):
        return False
    inputs = max((i + 1 for i, value in enumerate(node.inputs) if value is not None), default=0)
    arity = schema.min_input <= inputs <= schema.max_input and len(node.outputs) <= schema.max_output
    return arity and _types_fit(node, schema)


def misfits(model: ir.Model) -> list[ir.Node]:
    """The default-domain nodes of all graphs whose form is not that of the pinned operator set."""
    version = opset_of(model)
    return [node for node in model.graph.all_nodes() if is_default_domain(node) and not _fits(node, version)]


def _apply(model: ir.Model) -> int:
    version, imports = opset_of(model), model.graph.opset_imports
    if version == PINNED or version < OLDEST or misfits(model):
        return 0
    for node in model.graph.all_nodes():
        if is_default_domain(node):
            schema = onnx.defs.get_schema(node.op_type, PINNED, "")
            for name in [n for n in node.attributes if n not in schema.attributes]:
                node.attributes.pop(name)
            node.domain = ""
    imports.pop("ai.onnx", None)
    imports[""] = PINNED
    return 1


REWRITE = Rewrite("opset", f"the operator set pinned at version {PINNED}", _apply, "form")
