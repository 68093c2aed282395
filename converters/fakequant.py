"""Integer arithmetic emulated in floating point, with straight-through gradients.

A quantized tensor is a float tensor that holds whole numbers. Rounding passes gradients unchanged (the
straight-through estimator of Bengio, Léonard & Courville 2013, arXiv:1308.3432), saturation stops them.
"""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

__all__ = ["along_axis", "limits_of", "quantize", "round_through"]

_LIMITS: dict[int, tuple[int, int]] = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}
_LIMITS_OF_DTYPE = {
    torch.int8: _LIMITS[TensorProto.INT8],
    torch.uint8: _LIMITS[TensorProto.UINT8],
    torch.int16: _LIMITS[TensorProto.INT16],
}


def limits_of(element_type: int | None, zero_point: Tensor | None) -> tuple[int, int]:
    """Smallest and largest value of the quantized type.

    Args:
        element_type: the ONNX type, where the file states it.
        zero_point: tells the type otherwise; uint8 when there is none (the standard's default).

    Raises:
        ValueError: the type is not known or is not an integer type that can be emulated.
    """
    if element_type is not None:
        if element_type not in _LIMITS:
            raise ValueError(f"quantization to {TensorProto.DataType.Name(element_type)} is not supported")
        return _LIMITS[element_type]
    if zero_point is None:
        return _LIMITS[TensorProto.UINT8]
    if zero_point.dtype not in _LIMITS_OF_DTYPE:
        raise ValueError(f"cannot tell the quantized type from a zero point of type {zero_point.dtype}")
    return _LIMITS_OF_DTYPE[zero_point.dtype]


def round_through(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged."""
    return x + (x.round() - x).detach()


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]) -> Tensor:
    """``clamp(round(x / scale) + zero_point)`` as a float tensor; no gradient where it saturates."""
    steps = round_through(x / scale)
    steps = steps if zero_point is None else steps + zero_point.to(x.dtype)
    return steps.clamp(*limits)


def along_axis(value: Tensor, x: Tensor, axis: int, block: int = 0) -> Tensor:
    """A scale or zero point made broadcastable to x.

    A vector lies along ``axis``; with a block size each of its entries serves that many places of the axis.
    """
    if value.numel() == 1:
        return value.reshape(())
    axis = axis % x.dim()
    if block > 0:
        return value.repeat_interleave(block, dim=axis).narrow(axis, 0, x.shape[axis])
    if value.dim() != 1:
        return value
    return value.reshape(-1, *[1] * (x.dim() - axis - 1))
