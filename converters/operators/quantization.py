"""Quantized operators of the ONNX standard, emulated in floating point (see ``fakequant``)."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxvis.converters.fakequant import along_axis, limits_of, quantize, round_through
from onnxvis.converters.operators.basic import WorkingType
from onnxvis.converters.operators.convolution import conv_function
from onnxvis.converters.registry import MICROSOFT, Node, Operator, converter, operator

__all__ = ["Emulated", "output_limits"]


class Emulated(WorkingType):
    """Base of emulated integer operators: brings integer tensors to the working float type."""

    def real(self, x: Tensor) -> Tensor:
        """The tensor in the working float type."""
        return x.to(self.probe.dtype)

    def centered(self, x: Tensor, zero_point: Tensor | None, axis: int = 0) -> Tensor:
        """``x - zero_point``, whole numbers in the working float type."""
        x = self.real(x)
        return x if zero_point is None else x - along_axis(self.real(zero_point), x, axis)


def output_limits(node: Node, index: int) -> tuple[int, int] | None:
    """Limits of the type of the zero point at this input, when they are known at conversion."""
    element_type = node.element_type(index)
    if element_type is None:
        return None
    try:
        return limits_of(element_type, None)
    except ValueError as error:
        raise node.refuse(str(error)) from error


class _Quantize(Emulated):
    def __init__(self, limits: tuple[int, int] | None, axis: int, block: int) -> None:
        super().__init__()
        self.limits, self.axis, self.block = limits, axis, block

    def forward(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        limits = self.limits or limits_of(None, zero_point)
        x = self.real(x)
        step = along_axis(scale, x, self.axis, self.block)
        zero = None if zero_point is None else along_axis(zero_point, x, self.axis, self.block)
        return quantize(x, step, zero, limits)


@converter("QuantizeLinear")
@converter("QuantizeLinear", domain=MICROSOFT)
def _quantize_linear(node: Node) -> Operator:
    limits = output_limits(node, 2)
    if not node.has(2) and node.attr("output_dtype", 0):
        try:
            limits = limits_of(node.attr("output_dtype"), None)
        except ValueError as error:
            raise node.refuse(str(error)) from error
    return operator(node, _Quantize(limits, node.attr("axis", 1), node.attr("block_size", 0)))


class _Dequantize(Emulated):
    def __init__(self, axis: int, block: int) -> None:
        super().__init__()
        self.axis, self.block = axis, block

    def forward(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        x = self.real(x)
        if zero_point is not None:
            x = x - along_axis(self.real(zero_point), x, self.axis, self.block)
        return x * along_axis(scale, x, self.axis, self.block)


@converter("DequantizeLinear")
@converter("DequantizeLinear", domain=MICROSOFT)
def _dequantize_linear(node: Node) -> Operator:
    return operator(node, _Dequantize(node.attr("axis", 1), node.attr("block_size", 0)))


@converter("DynamicQuantizeLinear")
def _dynamic_quantize_linear(node: Node) -> Operator:
    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Scale and zero point count as constants of this input: they cancel in the dequantized value,
        # and their own derivatives are artefacts of the two extreme elements.
        high, low = x.detach().amax().clamp(min=0), x.detach().amin().clamp(max=0)
        scale = (high - low) / 255
        scale = torch.where(scale == 0, 1.0, scale)
        zero = (-low / scale).clamp(0, 255).round()
        return quantize(x, scale, zero, (0, 255)), scale, zero

    return operator(node, run)


class _ConvInteger(Emulated):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self.convolve = conv_function(node)

    def forward(self, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
        return self.convolve(self.centered(x, x_zero), self.centered(w, w_zero))


@converter("ConvInteger")
def _conv_integer(node: Node) -> Operator:
    return operator(node, _ConvInteger(node))


class _MatMulInteger(Emulated):
    def forward(self, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        return self.centered(a, a_zero, axis=-2) @ self.centered(b, b_zero, axis=-1)


@converter("MatMulInteger")
def _matmul_integer(node: Node) -> Operator:
    return operator(node, _MatMulInteger())


class _QLinearConv(Emulated):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self.convolve, self.limits = conv_function(node), output_limits(node, 7)

    def forward(
        self,
        x: Tensor,
        x_scale: Tensor,
        x_zero: Tensor,
        w: Tensor,
        w_scale: Tensor,
        w_zero: Tensor,
        y_scale: Tensor,
        y_zero: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        total = self.convolve(
            self.centered(x, x_zero), self.centered(w, w_zero), None if bias is None else self.real(bias)
        )
        factor = along_axis(x_scale * w_scale / y_scale, total, 1)
        limits = self.limits or limits_of(None, y_zero)
        return (round_through(total * factor) + self.real(y_zero)).clamp(*limits)


@converter("QLinearConv")
@converter("QLinearConv", domain=MICROSOFT)
def _qlinear_conv(node: Node) -> Operator:
    if node.attr("channels_last", 0):
        raise node.refuse("channels_last convolutions are not supported")
    return operator(node, _QLinearConv(node))


class _QLinearMatMul(Emulated):
    def __init__(self, limits: tuple[int, int] | None) -> None:
        super().__init__()
        self.limits = limits

    def forward(
        self,
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor,
        y_scale: Tensor,
        y_zero: Tensor,
    ) -> Tensor:
        total = self.centered(a, a_zero, axis=-2) @ self.centered(b, b_zero, axis=-1)
        rows, columns = along_axis(a_scale, total, -2), along_axis(b_scale, total, -1)
        limits = self.limits or limits_of(None, y_zero)
        return (round_through(total * (rows * columns / y_scale)) + self.real(y_zero)).clamp(*limits)


@converter("QLinearMatMul")
def _qlinear_matmul(node: Node) -> Operator:
    return operator(node, _QLinearMatMul(output_limits(node, 7)))
