"""Take onnxruntime's FusedMatMul apart.

y = com.microsoft.FusedMatMul<alpha, transA, transB>(a, b)   ->   t = Transpose(b)
                                                                  m = MatMul(a, t)
                                                                  y = Mul(m, alpha)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, dtype_of, nodes_of, shape_of

__all__ = ["REWRITE"]


def _order(rank: int, batch: bool, swap: bool) -> list[int]:
    """The permutation that the operator applies: first the batch axes behind the rows, then the last two."""
    order = list(range(rank))
    if batch:
        order = [*order[1:-1], order[0], order[-1]]
    if swap:
        order[-2:] = [order[-1], order[-2]]
    return order


def _operand(patch: Patch, node: ir.Node, index: int) -> ir.Value | None:
    side, value = "AB"[index], node.inputs[index]
    batch = bool(node.attributes.get_int(f"transBatch{side}", 0))
    swap = bool(node.attributes.get_int(f"trans{side}", 0))
    dims = shape_of(value)
    if value is None or not (batch or swap):
        return value
    if dims is None:
        return None
    if len(dims) < 2:
        return value
    return patch.op("Transpose", value, hint=f"operand_{side.lower()}", perm=_order(len(dims), batch, swap))


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "FusedMatMul", "TransposeMatMul", domain="com.microsoft"):
        patch = Patch(model, node)
        left, right = _operand(patch, node, 0), _operand(patch, node, 1)
        if left is None or right is None:
            continue
        value, alpha = patch.op("MatMul", left, right), node.attributes.get_float("alpha", 1.0)
        if alpha != 1.0:
            kind = (dtype_of(node.inputs[0]) or ir.DataType.FLOAT).numpy()
            value = patch.op("Mul", value, patch.constant("alpha", np.asarray(alpha, kind)))
        patch.replace(value)
        count += 1
    return count


REWRITE = Rewrite("fused-matmul", "onnxruntime's FusedMatMul taken apart", _apply, "modern")
