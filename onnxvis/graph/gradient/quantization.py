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
        known = kind in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(kind) if known else f"the unknown element type {kind}"
        raise n.refuse(f"quantization to {name} is not supported")
    zero = _along(n, n.input(2)) if n.has(2) else None
    return _straight(n, _along(n, n.input(1)), zero, _LIMITS[kind])


@rule("DynamicQuantizeLinear")
def _dynamic_quantize(n: Call) -> Found:
    """Scale and zero point count as constants of this picture: they cancel in the value that is read."""
    _, scale, zero = n.outputs
    if scale is None or zero is None:
        raise n.refuse("its scale or zero point has no name")
    return _straight(n, scale, zero, _LIMITS[TensorProto.UINT8])


def _straight(n: Call, scale: Tensor, zero: Tensor | None, limits: tuple[int, int]) -> Tensor:
    steps = (n.x / scale).op("Round")
    if zero is not None:
        steps = steps + zero.cast(n.x.dtype)
    saturated = (steps < float(limits[0])).op("Or", steps > float(limits[1]))
    return saturated.op("Not").keep(n.g / scale)
