"""Write Gelu and its relatives with elementary operators.

    y = Gelu(x)                      ->   y = 0.5 * (x * (1 + Erf(x / sqrt(2))))
    y = Gelu<approximate=tanh>(x)    ->   y = 0.5 * (x * (1 + Tanh(sqrt(2/pi) * (x + 0.044715 * x^3))))
    y = com.microsoft.QuickGelu(x)   ->   y = x * Sigmoid(alpha * x)
    y = Swish(x), Mish(x)            ->   y = x * Sigmoid(alpha * x), x * Tanh(Softplus(x))

The operators of the standard came with opset 18 to 24; onnxruntime's BiasGelu and FastGelu add a bias first.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, dtype_of, input_of, is_default_domain

__all__ = ["REWRITE"]

_STANDARD = ("Gelu", "Mish", "Swish")
_MICROSOFT = ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")


class _Writer:
    """Scalars of the right type, and one-line operators."""

    def __init__(self, patch: Patch, kind: np.dtype) -> None:
        self.patch, self.kind = patch, kind

    def scale(self, value: ir.Value, factor: float) -> ir.Value:
        return self.patch.op("Mul", value, self.patch.constant("factor", np.asarray(factor, self.kind)))

    def shift(self, value: ir.Value, offset: float) -> ir.Value:
        return self.patch.op("Add", value, self.patch.constant("offset", np.asarray(offset, self.kind)))

    def exact(self, x: ir.Value) -> ir.Value:
        inner = self.patch.op("Erf", self.scale(x, math.sqrt(0.5)))
        return self.scale(self.patch.op("Mul", x, self.shift(inner, 1.0)), 0.5)

    def tanh(self, x: ir.Value) -> ir.Value:
        cube = self.patch.op("Mul", self.patch.op("Mul", x, x), x)
        argument = self.scale(self.patch.op("Add", x, self.scale(cube, 0.044715)), math.sqrt(2 / math.pi))
        return self.scale(self.patch.op("Mul", x, self.shift(self.patch.op("Tanh", argument), 1.0)), 0.5)

    def swish(self, x: ir.Value, alpha: float) -> ir.Value:
        return self.patch.op("Mul", x, self.patch.op("Sigmoid", x if alpha == 1.0 else self.scale(x, alpha)))

    def mish(self, x: ir.Value) -> ir.Value:
        return self.patch.op("Mul", x, self.patch.op("Tanh", self.patch.op("Softplus", x)))


def _written(write: _Writer, node: ir.Node, x: ir.Value) -> ir.Value:
    kind = node.op_type
    if kind == "Mish":
        return write.mish(x)
    if kind in ("Swish", "QuickGelu"):
        return write.swish(x, node.attributes.get_float("alpha", 1.702 if kind == "QuickGelu" else 1.0))
    if kind == "FastGelu" or node.attributes.get_string("approximate", "none") == "tanh":
        return write.tanh(x)
    return write.exact(x)


def _apply(model: ir.Model) -> int:
    count = 0
    for node in tuple(model.graph.all_nodes()):
        standard = is_default_domain(node) and node.op_type in _STANDARD
        if not standard and not (node.domain == "com.microsoft" and node.op_type in _MICROSOFT):
            continue
        x, bias = node.inputs[0], input_of(node, 1)
        assert x is not None
        patch = Patch(model, node)
        write = _Writer(patch, (dtype_of(x) or ir.DataType.FLOAT).numpy())
        if bias is not None:
            x = patch.op("Add", x, bias, hint="biased")
        patch.replace(_written(write, node, x))
        count += 1
    return count


REWRITE = Rewrite("gelu", "Gelu, QuickGelu, Swish and Mish written with elementary operators", _apply, "modern")
