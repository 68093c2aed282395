"""Write onnxruntime's other quantized operators between float twins.

    y = com.microsoft.QLinearAdd(a, sa, za, b, sb, zb, sy, zy)
                         ->   f = Add(DequantizeLinear(a, sa, za), DequantizeLinear(b, sb, zb))
                              y = QuantizeLinear(f, sy, zy)

Likewise Mul, Sigmoid, LeakyRelu, Softmax, Concat, Where, AveragePool and GlobalAveragePool. Their
channels-last variants stay.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxvis.graph.canonical.quantization import Triple, dequantize, quantize
from onnxvis.graph.canonical.rewrite import Patch, Rewrite, input_of, is_default_domain
from onnxvis.graph.canonical.softmax_axis import flattened_softmax

__all__ = ["REWRITE"]

_DOMAIN = "com.microsoft"
_UNARY = {
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
}
_BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
_NOT_OURS = ("channels_last", "opset")
_NEW_SOFTMAX = 13


def _triple(node: ir.Node, start: int) -> Triple:
    return input_of(node, start), input_of(node, start + 1), input_of(node, start + 2)


def _finish(patch: Patch, node: ir.Node, value: ir.Value, scale_at: int, like: ir.Value | None) -> bool:
    assert like is not None
    patch.replace(quantize(patch, value, input_of(node, scale_at), input_of(node, scale_at + 1), like))
    return True


def _unary(patch: Patch, node: ir.Node) -> bool:
    attributes = {name: a.value for name, a in node.attributes.items() if name not in _NOT_OURS}
    x = dequantize(patch, _triple(node, 0), "x")
    return _finish(patch, node, patch.op(_UNARY[node.op_type], x, hint="float", **attributes), 3, node.inputs[0])


def _binary(patch: Patch, node: ir.Node) -> bool:
    a, b = dequantize(patch, _triple(node, 0), "a"), dequantize(patch, _triple(node, 3), "b")
    return _finish(patch, node, patch.op(_BINARY[node.op_type], a, b, hint="float"), 6, node.inputs[0])


def _softmax(patch: Patch, node: ir.Node) -> bool:
    x, axis = dequantize(patch, _triple(node, 0), "x"), node.attributes.get_int("axis", -1)
    old = node.attributes.get_int("opset", _NEW_SOFTMAX) < _NEW_SOFTMAX
    value = flattened_softmax(patch, "Softmax", x, axis) if old else patch.op("Softmax", x, axis=axis)
    return _finish(patch, node, value, 3, node.inputs[0])


def _concat(patch: Patch, node: ir.Node) -> bool:
    parts = [dequantize(patch, _triple(node, i), "part") for i in range(2, len(node.inputs), 3)]
    value = patch.op("Concat", *parts, axis=node.attributes.get_int("axis", 0), hint="float")
    return _finish(patch, node, value, 0, node.inputs[2])


def _where(patch: Patch, node: ir.Node) -> bool:
    x, y = dequantize(patch, _triple(node, 1), "x"), dequantize(patch, _triple(node, 4), "y")
    return _finish(patch, node, patch.op("Where", node.inputs[0], x, y, hint="float"), 7, node.inputs[1])


_WRITERS: dict[str, Callable[[Patch, ir.Node], bool]] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    "QLinearSoftmax": _softmax,
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
}


def _apply(model: ir.Model) -> int:
    count = 0
    for node in tuple(model.graph.all_nodes()):
        if is_default_domain(node) or node.domain != _DOMAIN or node.op_type not in _WRITERS:
            continue
        if node.attributes.get_int("channels_last", 0) or any(value is None for value in node.inputs[:2]):
            continue
        count += _WRITERS[node.op_type](Patch(model, node), node)
    return count


REWRITE = Rewrite(
    "quantized-pointwise",
    "onnxruntime's QLinearAdd and its relatives written between float twins",
    _apply,
    "modern",
)
