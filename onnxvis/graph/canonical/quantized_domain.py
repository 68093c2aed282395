"""Write onnxruntime's own QuantizeLinear and DequantizeLinear as those of the standard.

    y = com.microsoft.DequantizeLinear(x: int8, s, z)   ->   y = DequantizeLinear(x, s, z)

Only for 8 bits (and 32 for constants): 16 and 4 bits came to the standard with opset 21.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, dtype_of, input_of, nodes_of

__all__ = ["REWRITE"]

_KNOWN = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32)


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "QuantizeLinear", "DequantizeLinear", domain="com.microsoft"):
        kind = dtype_of(input_of(node, 2))
        if kind is None and node.op_type == "DequantizeLinear":
            kind = dtype_of(node.inputs[0])
        if kind in _KNOWN and "block_size" not in node.attributes:
            node.domain = ""
            count += 1
    return count


REWRITE = Rewrite("quantized-domain", "onnxruntime's QuantizeLinear written as that of the standard", _apply, "modern")
