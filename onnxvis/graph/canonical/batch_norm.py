"""Write inference-mode BatchNormalization as scale and shift.

    y = BatchNormalization(x, gamma, beta, mean, var)

      ->   s = gamma / sqrt(var + epsilon)
           m = Mul(x, s);  y = Add(m, beta - mean * s)

The constants are folded in float64. One operator fewer to differentiate, and a known defect avoided:
the CPU backward of torch's eval-mode batch_norm is wrong for some memory layouts. Where the rank of ``x`` is
not known the node stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, constant_of, is_used, nodes_of, opset_of, shape_of

__all__ = ["REWRITE"]

_UNARY = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSwish", "Dropout")
_KEEPING_RANK = ("MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", *_UNARY)
_BINARY = ("Add", "Mul", "Sub", "Div")
_FAR = 64
_FIRST_BROADCASTING = 7


def _rank(value: ir.Value | None, far: int = _FAR) -> int | None:
    """Rank of a tensor: inferred, or that of the weight of the convolution it comes from."""
    dims = shape_of(value)
    if value is None or dims is not None:
        return None if dims is None else len(dims)
    node = value.producer()
    if node is None or far == 0:
        return None
    if node.op_type in ("Conv", "FusedConv", "ConvTranspose"):
        return _rank(node.inputs[1], far - 1)
    if node.op_type in _BINARY:
        ranks = [_rank(operand, far // 2) for operand in node.inputs]
        known = [rank for rank in ranks if rank is not None]
        return max(known) if len(known) == len(ranks) else None
    return _rank(node.inputs[0], far - 1) if node.op_type in _KEEPING_RANK else None


def _apply(model: ir.Model) -> int:
    count = 0
    if opset_of(model) < _FIRST_BROADCASTING:
        return 0
    for node in nodes_of(model, "BatchNormalization"):
        constants = [constant_of(value) for value in node.inputs[1:5]]
        training = node.attributes.get_int("training_mode", 0) or any(is_used(out) for out in node.outputs[1:])
        if training or len(constants) < 4 or any(c is None for c in constants):
            continue
        rank = _rank(node.inputs[0])
        if rank is None:
            continue
        gamma, beta, mean, var = (np.asarray(c, dtype=np.float64) for c in constants)
        scale = gamma / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
        shift = beta - mean * scale
        kind = np.asarray(constants[0]).dtype
        # Parameters of rank one belong to the channels; those of the old spatial=0 have one per position.
        shape = (-1,) + (1,) * max(rank - 2, 0) if gamma.ndim == 1 else gamma.shape
        patch = Patch(model, node)
        factor = patch.constant("scale", scale.astype(kind).reshape(shape))
        offset = patch.constant("shift", shift.astype(kind).reshape(shape))
        scaled = patch.op("Mul", node.inputs[0], factor, hint="scaled")
        patch.replace(patch.op("Add", scaled, offset, hint="shifted"))
        count += 1
    return count


REWRITE = Rewrite("batch-norm", "BatchNormalization written as a scale and a shift", _apply)
