"""Write QLinearConv, QLinearMatMul and QGemm between float twins.

    y = QLinearConv(x, sx, zx, w, sw, zw, sy, zy, b)   ->   f = Conv(DequantizeLinear(x, sx, zx),
                                                                     DequantizeLinear(w, sw, zw),
                                                                     DequantizeLinear(b, sx * sw))
                                                            y = QuantizeLinear(f, sy, zy)

The weights become float constants. The result can differ by one quantum where a sum lies halfway.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.quantization import Triple, dequantize, product, quantize
from onnxvis.graph.canonical.rewrite import Patch, Rewrite, input_of, nodes_of, shape_of

__all__ = ["REWRITE"]


def _triple(node: ir.Node, start: int) -> Triple:
    return input_of(node, start), input_of(node, start + 1), input_of(node, start + 2)


def _convolution(model: ir.Model, node: ir.Node) -> bool:
    patch, bias = Patch(model, node), input_of(node, 8)
    operands = [
        dequantize(patch, _triple(node, 0), "x"),
        dequantize(patch, _triple(node, 3), "weight", axis=0),
    ]
    if bias is not None:
        scale = product(patch, [input_of(node, 1), input_of(node, 4)], "bias_scale")
        operands.append(dequantize(patch, (bias, scale, None), "bias", axis=0))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    value = patch.op("Conv", *operands, hint="float", **attributes)
    assert node.inputs[0] is not None
    patch.replace(quantize(patch, value, input_of(node, 6), input_of(node, 7), node.inputs[0]))
    return True


def _plain(scale: ir.Value | None) -> bool:
    dims = shape_of(scale)
    return dims is not None and len(dims) <= 1


def _matrix_product(model: ir.Model, node: ir.Node) -> bool:
    if not (_plain(input_of(node, 1)) and _plain(input_of(node, 4))):
        return False
    patch = Patch(model, node)
    left = dequantize(patch, _triple(node, 0), "a", axis=-2)
    value = patch.op("MatMul", left, dequantize(patch, _triple(node, 3), "b", axis=-1), hint="float")
    assert node.inputs[0] is not None
    patch.replace(quantize(patch, value, input_of(node, 6), input_of(node, 7), node.inputs[0]))
    return True


def _linear(model: ir.Model, node: ir.Node) -> bool:
    attributes = node.attributes
    patch, bias, alpha = Patch(model, node), input_of(node, 6), attributes.get_float("alpha", 1.0)
    transposed = attributes.get_int("transB", 0)
    columns = 0 if transposed else 1
    operands = [
        dequantize(patch, _triple(node, 0), "a"),
        dequantize(patch, _triple(node, 3), "b", axis=columns),
    ]
    if bias is not None:
        rank = len(shape_of(bias) or ())
        scale = product(patch, [input_of(node, 1), input_of(node, 4)], "bias_scale", alpha)
        operands.append(dequantize(patch, (bias, scale, None), "bias", axis=max(rank - 1, 0)))
    transposes = {"transA": attributes.get_int("transA", 0), "transB": transposed}
    value = patch.op("Gemm", *operands, hint="float", alpha=alpha, beta=1.0, **transposes)
    if input_of(node, 7) is None:
        patch.replace(value)
    else:
        assert node.inputs[0] is not None
        patch.replace(quantize(patch, value, input_of(node, 7), input_of(node, 8), node.inputs[0]))
    return True


def _apply(model: ir.Model) -> int:
    count = sum(_convolution(model, node) for node in nodes_of(model, "QLinearConv"))
    count += sum(_matrix_product(model, node) for node in nodes_of(model, "QLinearMatMul"))
    return count + sum(_linear(model, node) for node in nodes_of(model, "QGemm", domain="com.microsoft"))


REWRITE = Rewrite(
    "quantized-conv", "QLinearConv, QLinearMatMul and QGemm written between float twins", _apply, "modern"
)
