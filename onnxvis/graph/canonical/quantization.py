"""The pieces that rewrites of quantized operators share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, constant_of, dtype_of, shape_of

__all__ = ["Triple", "dequantize", "product", "quantize"]

Triple = tuple[ir.Value | None, ir.Value | None, ir.Value | None]
"""A quantized tensor, its scale and its zero point (``None``: zero)."""


def dequantize(patch: Patch, triple: Triple, hint: str, axis: int | None = None) -> ir.Value:
    """The float twin of a quantized tensor; ``axis`` counts only where the scale has several elements."""
    value, scale, zero = triple
    several = shape_of(scale) not in ((), (1,))
    inputs = [value, scale] if zero is None else [value, scale, zero]
    return patch.op("DequantizeLinear", *inputs, hint=hint, axis=axis if several else None)


def quantize(patch: Patch, value: ir.Value, scale: ir.Value | None, zero: ir.Value | None, like: ir.Value) -> ir.Value:
    """Quantize a float tensor; without a zero point the result has the element type of ``like``."""
    if zero is None:
        kind = dtype_of(like) or ir.DataType.UINT8
        zero = patch.constant("zero_point", np.zeros((), kind.numpy()))
    return patch.op("QuantizeLinear", value, scale, zero)


def product(patch: Patch, factors: Sequence[ir.Value | None], hint: str, extra: float = 1.0) -> ir.Value:
    """The product of scales: a constant where they are."""
    arrays = [constant_of(factor) for factor in factors]
    known = [array for array in arrays if array is not None]
    if len(known) == len(factors):
        total = np.asarray(extra, np.float64)
        for array in known:
            total = total * array.reshape(-1 if array.size > 1 else ()).astype(np.float64)
        return patch.constant(hint, np.asarray(total, known[0].dtype))
    result = factors[0]
    assert result is not None
    for factor in factors[1:]:
        result = patch.op("Mul", result, factor, hint=hint)
    return result if extra == 1.0 else patch.op("Mul", result, patch.constant("alpha", np.asarray(extra, np.float32)))
