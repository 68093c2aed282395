"""Write integer convolutions and products, as dynamic quantization makes them, in float.

    i = ConvInteger(x, w, zx, zw); y = Cast<to=float>(i)   ->   y = Conv(Cast(x) - zx, Cast(w) - zw)
    i = MatMulInteger(a, b, za, zb); y = Cast<to=float>(i) ->   y = MatMul(Cast(a) - za, Cast(b) - zb)
    y = com.microsoft.DynamicQuantizeMatMul(a, b, sb, zb, c)
                  ->   q, s, z = DynamicQuantizeLinear(a)
                       y = MatMul(DequantizeLinear(q, s, z), DequantizeLinear(b, sb, zb)) + c

The numbers are the same integers, now carried by floats: exact up to 2^24, beyond that to rounding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.quantization import dequantize
from onnxvis.graph.canonical.rewrite import Patch, Rewrite, input_of, nodes_of, remove_node, shape_of

__all__ = ["REWRITE"]

_FLOAT = int(ir.DataType.FLOAT)
_PLAIN = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def _to_float(output: ir.Value) -> list[ir.Node] | None:
    """The Cast nodes that read an integer result, if nothing else does."""
    readers = [use.node for use in output.uses()]
    only = all(r.op_type == "Cast" and r.attributes.get_int("to", 0) == _FLOAT for r in readers)
    return readers if readers and only and not output.is_graph_output() else None


def _centered(patch: Patch, value: ir.Value | None, zero: ir.Value | None, hint: str, rows: str) -> ir.Value | None:
    """A quantized tensor minus its zero point, in float; ``None`` where the zero point has an odd shape."""
    result = patch.op("Cast", value, to=_FLOAT, hint=hint)
    if zero is None:
        return result
    dims, shift = shape_of(zero), patch.op("Cast", zero, to=_FLOAT, hint=f"{hint}_zero")
    if dims is None or len(dims) > 1:
        return None
    if dims not in ((), (1,)):
        if rows == "none":
            return None
        layout = {"conv": [-1] + [1] * (len(shape_of(value) or ()) - 1), "columns": [-1]}[rows]
        shift = patch.op("Reshape", shift, patch.constant(f"{hint}_rows", np.asarray(layout, np.int64)))
    return patch.op("Sub", result, shift, hint=f"{hint}_centered")


def _integer(model: ir.Model, node: ir.Node) -> bool:
    casts = _to_float(node.outputs[0])
    if casts is None:
        return False
    patch, convolution = Patch(model, node), node.op_type == "ConvInteger"
    if convolution and shape_of(node.inputs[1]) is None:
        return False
    left = _centered(patch, node.inputs[0], input_of(node, 2), "x", "none")
    right = _centered(patch, node.inputs[1], input_of(node, 3), "weight", "conv" if convolution else "columns")
    if left is None or right is None:
        return False
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    value = patch.op(_PLAIN[node.op_type], left, right, hint="float", **attributes)
    patch.insert()
    for cast in casts:
        if cast.outputs[0].is_graph_output():
            cast.op_type = "Identity"
            cast.attributes.clear()
            cast.replace_input_with(0, value)
        else:
            remove_node(cast, value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True


def _dynamic(model: ir.Model, node: ir.Node) -> bool:
    patch = Patch(model, node)
    quantized, scale, zero = patch.ops("DynamicQuantizeLinear", node.inputs[0], outputs=3, hint="quantized")
    left = dequantize(patch, (quantized, scale, zero), "a")
    right = dequantize(patch, (node.inputs[1], input_of(node, 2), input_of(node, 3)), "b", axis=-1)
    value, bias = patch.op("MatMul", left, right), input_of(node, 4)
    patch.replace(value if bias is None else patch.op("Add", value, bias))
    return True


def _to_float_product(model: ir.Model, node: ir.Node) -> bool:
    patch = Patch(model, node)
    left = dequantize(patch, (node.inputs[0], input_of(node, 2), input_of(node, 4)), "a", axis=-2)
    right = dequantize(patch, (node.inputs[1], input_of(node, 3), input_of(node, 5)), "b", axis=-1)
    value, bias = patch.op("MatMul", left, right), input_of(node, 6)
    patch.replace(value if bias is None else patch.op("Add", value, bias))
    return True


def _apply(model: ir.Model) -> int:
    domain = "com.microsoft"
    count = sum(_integer(model, node) for node in nodes_of(model, *_PLAIN))
    count += sum(_dynamic(model, node) for node in nodes_of(model, "DynamicQuantizeMatMul", domain=domain))
    return count + sum(_to_float_product(model, n) for n in nodes_of(model, "MatMulIntegerToFloat", domain=domain))


REWRITE = Rewrite(
    "integer-product", "ConvInteger, MatMulInteger and their relatives written in float", _apply, "modern"
)
