"""Compute what depends on constants only.

    w_t = Transpose(w)                        ->   initializer w_t
    w_f = DequantizeLinear(w_q, scale, zero)  ->   initializer w_f
    h   = Gather(Shape(x), 2)                 ->   initializer h        (x's height known)

A tensor keeps its name. Nothing is computed whose size would get out of hand: a file of a few bytes can ask
for a terabyte.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.numpy_ops import evaluate, result_size
from onnxvis.graph.canonical.rewrite import Rewrite, constant_of, is_default_domain, set_constant, shape_of

__all__ = ["REWRITE", "affordable"]

_ALWAYS = 1 << 16  # bytes that any node may make
_TOTAL = 5 << 27  # bytes of all constants together that growth may lead to: enough for VGG-19 kept as fills


def affordable(model: ir.Model, elements: int, size: int) -> bool:
    """Whether a constant that grows to that many elements of ``size`` bytes still fits the model."""
    wanted = elements * size
    if elements < 0:
        return False
    if wanted <= _ALWAYS:
        return True
    if wanted > _TOTAL:
        return False
    present = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    return present + wanted <= _TOTAL


def _known_shape(node: ir.Node) -> np.ndarray | None:
    dims = shape_of(node.inputs[0])
    if dims is None:
        return None
    window = dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]
    if node.op_type == "Size":
        window = dims
    if any(not isinstance(d, int) for d in window):
        return None
    found = np.asarray(window, np.int64)
    return found if node.op_type == "Shape" else np.asarray(found.prod(), np.int64)


def _folded(model: ir.Model, node: ir.Node) -> np.ndarray | None:
    if node.op_type in ("Shape", "Size") and node.inputs[0] is not None:
        return _known_shape(node)
    arrays = [constant_of(value) for value in node.inputs]
    absent = [value is None for value in node.inputs]
    if not arrays or any(array is None and not gone for array, gone in zip(arrays, absent, strict=True)):
        return None
    size = result_size(node, arrays)
    distinct = {id(v): a.size for v, a in zip(node.inputs, arrays, strict=True) if a is not None}
    largest = max(array.itemsize for array in arrays if array is not None)
    if not 0 <= size <= sum(distinct.values()) and not affordable(model, size, max(largest, 4)):
        return None
    return evaluate(node, arrays)


def _apply(model: ir.Model) -> int:
    count = 0
    for node in tuple(model.graph.all_nodes()):
        if not is_default_domain(node) or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            continue
        if node.op_type in ("Constant", "ConstantOfShape") or node.graph is None:
            continue  # lifted by their own rewrite
        array = _folded(model, node)
        if array is None:
            continue
        set_constant(node, array)
        count += 1
    return count


REWRITE = Rewrite("fold-constants", "constant subgraphs and known shapes computed", _apply)
