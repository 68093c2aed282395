"""Quantizers: rounding passes the gradient straight through, saturation stops it.

The straight-through estimator of Bengio, Léonard & Courville 2013 (arXiv:1308.3432). Without the mask of what
saturates, the gradient of an int8 network grows without bound, because its rectifiers live in that mask.
"""

from __future__ import annotations

from onnx import TensorProto

from onnxvis.graph.gradient.table import Call, Found, rule
from onnxvis.graph.gradient.tensor import Tensor

__all__: list[str] = []

_LIMITS: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}


def _along(n: Call, value: Tensor) -> Tensor:
    """A scale or zero point that can be stretched to the input."""
    if n.attr("block_size", 0):
        raise n.refuse("scales of blocks are not supported")
    if value.dims is None:
        raise n.refuse("the shape of its scale is not known")
    if len(value.dims) == 0 or value.dims == (1,):
        return value.reshape([])
    axis = int(n.attr("axis", 1)) % n.rank()
    return value.reshape([-1] + [1] * (n.rank() - axis - 1))


@rule("DequantizeLinear")
def _dequantize(n: Call) -> Found:
    return n.g * _along(n, n.input(1))


@rule("QuantizeLinear")
def _quantize(n: Call) -> Found:
    kind = n.input(2).dtype if n.has(2) else int(n.attr("output_dtype", 0)) or int(TensorProto.UINT8)
    if kind not in _LIMITS:
        raise n.refuse(f"quantization to {TensorProto.DataType.Name(kind)} is not supported")
    low, high = _LIMITS[kind]
    scale = _along(n, n.input(1))
    steps = (n.x / scale).op("Round")
    if n.has(2):
        steps = steps + _along(n, n.input(2)).cast(n.x.dtype)
    saturated = (steps < float(low)).op("Or", steps > float(high))
    return saturated.op("Not").keep(n.g / scale)
