"""Follow shapes element by element, with the batch as a symbol.

    s = Shape(x); h = Gather(s, 2)                        ->   initializer h    (x: [batch, 3, 224, 224])
    y = Reshape(x, Concat(Gather(Shape(x), 0), [1280]))   ->   y = Reshape(x, [0, 1280])
    y = Reshape(x, Concat(n, [-1]))  with n unrelated     ->   unchanged

What is known is folded, what is not stays computed: a free batch axis stays free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.numpy_ops import STRUCTURAL, evaluate
from onnxvis.graph.canonical.rewrite import (
    Patch,
    Rewrite,
    constant_of,
    input_of,
    is_default_domain,
    nodes_of,
    set_constant,
    shape_of,
)

__all__ = ["REWRITE", "Partial", "Symbol", "partial_values"]

_MOST = 64
_INTEGERS = {"Add": (0, 0), "Sub": (None, 0), "Mul": (1, 1), "Div": (None, 1)}


@dataclass(frozen=True)
class Symbol:
    """An extent that is not known: a named one, or that of one axis of one tensor."""

    name: str
    axis: int | None = None


Partial = np.ndarray
"""An object array whose elements are ``int`` or :class:`Symbol`."""


def symbols_of(value: ir.Value | None) -> list[int | Symbol] | None:
    """The shape of a tensor, unknown extents as symbols."""
    dims = shape_of(value)
    if value is None or dims is None:
        return None
    named = [Symbol(d) if isinstance(d, str) else d for d in dims]
    return [Symbol(value.name or "", axis) if d is None else d for axis, d in enumerate(named)]


def _objects(elements: list[int | Symbol]) -> Partial:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def _operands(node: ir.Node, found: dict[ir.Value, Partial]) -> list[np.ndarray | None] | None:
    arrays: list[np.ndarray | None] = []
    for value in node.inputs:
        if value is None:
            arrays.append(None)
        elif value in found:
            arrays.append(found[value])
        else:
            constant = constant_of(value)
            if constant is None or constant.size > _MOST or constant.dtype.kind not in "iu":
                return None
            arrays.append(constant)
    return arrays


def _combine(kind: str, left: object, right: object, fresh: Symbol) -> int | Symbol:
    """One element of an integer operation; a neutral operand leaves a symbol as it is."""
    neutral_left, neutral_right = _INTEGERS[kind]
    if isinstance(left, Symbol) or isinstance(right, Symbol):
        if isinstance(left, Symbol) and not isinstance(right, Symbol) and right == neutral_right:
            return left
        if isinstance(right, Symbol) and not isinstance(left, Symbol) and left == neutral_left:
            return right
        return fresh
    a, b = int(left), int(right)  # type: ignore[call-overload]
    if kind == "Div":
        return fresh if b == 0 else int(abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1))
    return int({"Add": a + b, "Sub": a - b, "Mul": a * b}[kind])


def _arithmetic(node: ir.Node, arrays: list[np.ndarray | None]) -> Partial | None:
    left, right = arrays
    if left is None or right is None or "broadcast" in node.attributes:
        return None
    a, b = np.broadcast_arrays(left.astype(object), right.astype(object))
    if a.size > _MOST:
        return None
    made = np.empty(a.shape, dtype=object)
    for index in np.ndindex(a.shape):
        fresh = Symbol(node.outputs[0].name or "", int(np.ravel_multi_index(index, a.shape)) if index else 0)
        made[index] = _combine(node.op_type, a[index], b[index], fresh)
    return made


def _evaluate(node: ir.Node, found: dict[ir.Value, Partial]) -> Partial | None:
    if node.op_type == "Shape":
        symbols = symbols_of(node.inputs[0])
        window = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", None))
        return None if symbols is None or len(symbols) > _MOST else _objects(symbols[window])
    if not any(value in found for value in node.inputs if value is not None):
        return None
    arrays = _operands(node, found)
    if arrays is None or any(value in found for value in node.inputs[1:] if node.op_type not in ("Concat", *_INTEGERS)):
        return None  # a symbol as an index or as an axis
    if node.op_type == "Cast":
        kind = node.attributes["to"].as_int()
        return arrays[0] if kind in (ir.DataType.INT64, ir.DataType.INT32) else None
    if node.op_type in _INTEGERS and len(arrays) == 2:
        return _arithmetic(node, arrays)
    if node.op_type in STRUCTURAL:
        first = [array.astype(object) if array is not None and i == 0 else array for i, array in enumerate(arrays)]
        return evaluate(node, first)
    return None


def partial_values(model: ir.Model) -> dict[ir.Value, Partial]:
    """Integer tensors of the main graph that are computed from shapes, element by element."""
    found: dict[ir.Value, Partial] = {}
    for node in model.graph:
        if not is_default_domain(node) or len(node.outputs) != 1:
            continue
        partial = _evaluate(node, found)
        if partial is not None and partial.size <= _MOST:
            found[node.outputs[0]] = np.asarray(partial, dtype=object)
    return found


def _integer_kind(value: ir.Value) -> type[np.int64] | type[np.int32]:
    """The element type: int64 as Shape makes it, unless a Cast on the way says otherwise."""
    node = value.producer()
    while node is not None and node.op_type != "Shape":
        if node.op_type == "Cast":
            return np.int32 if node.attributes["to"].as_int() == ir.DataType.INT32 else np.int64
        constants = [constant_of(v) for v in node.inputs]
        if constants and constants[0] is not None and node.op_type in ("Concat", *_INTEGERS):
            return np.int32 if constants[0].dtype == np.int32 else np.int64
        first = next((v for v in node.inputs if v is not None and v.const_value is None), None)
        node = None if first is None else first.producer()
    return np.int64


def _static_target(data: list[int | Symbol], target: list[int | Symbol]) -> list[int] | None:
    """A constant shape for Reshape that means the same, if there is one."""
    shape: list[int] = []
    for index, element in enumerate(target):
        if not isinstance(element, Symbol):
            shape.append(element)
        elif index < len(data) and data[index] == element:
            shape.append(0)
        elif -1 in target or -1 in shape:
            return None
        else:
            shape.append(-1)
    return shape


def _settle_reshapes(model: ir.Model, found: dict[ir.Value, Partial]) -> int:
    count = 0
    for node in nodes_of(model, "Reshape"):
        target, data = input_of(node, 1), symbols_of(node.inputs[0])
        if target is None or target not in found or found[target].ndim != 1:
            continue
        if node.attributes.get_int("allowzero", 0) or 0 in found[target].tolist():
            continue
        shape = _static_target(data or [], found[target].tolist())
        if shape is not None:
            patch = Patch(model, node)
            node.replace_input_with(1, patch.constant("shape", np.asarray(shape, np.int64)))
            count += 1
    return count


def _apply(model: ir.Model) -> int:
    found, count = partial_values(model), 0
    count += _settle_reshapes(model, found)
    for value, partial in found.items():
        node = value.producer()
        if node is None or value.is_graph_output() or any(isinstance(e, Symbol) for e in partial.reshape(-1)):
            continue
        array = np.asarray(partial.tolist(), dtype=_integer_kind(value)).reshape(partial.shape)
        set_constant(node, array)
        count += 1
    return count


REWRITE = Rewrite("shape-arithmetic", "shapes computed element by element, a free batch kept free", _apply)
