"""Quantized operators of the com.microsoft domain, emulated in floating point (see ``fakequant``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.fakequant import along_axis, limits_of, quantize, round_through
from onnxvis.converters.operators.pooling import average_pool
from onnxvis.converters.operators.quantization import Emulated, output_limits
from onnxvis.converters.registry import MICROSOFT, Node, Operator, converter, operator
from onnxvis.converters.windows import read_window

__all__: list[str] = []


class _Through(Emulated):
    """Dequantize groups of (value, scale, zero point), compute in float, quantize with the last pair."""

    def __init__(self, limits: tuple[int, int] | None, operands: int, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.limits, self.operands, self.function = limits, operands, function

    def forward(self, *inputs: Tensor | None) -> Tensor:
        real = []
        for i in range(self.operands):
            value, scale, zero = inputs[3 * i : 3 * i + 3]
            assert value is not None
            assert scale is not None
            real.append(self.centered(value, zero) * scale)
        scale, zero = (*inputs[3 * self.operands :], None)[:2]
        assert scale is not None
        return quantize(self.function(*real), scale, zero, self.limits or limits_of(None, zero))


def _through(node: Node, operands: int, function: Callable[..., Tensor]) -> Operator:
    return operator(node, _Through(output_limits(node, 3 * operands + 1), operands, function))


def _refuse_channels_last(node: Node) -> None:
    if node.attr("channels_last", 0):
        raise node.refuse("channels_last is not supported")


@converter("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def _binary(node: Node) -> Operator:
    return _through(node, 2, torch.add if node.op_type == "QLinearAdd" else torch.mul)


@converter("QLinearGlobalAveragePool", domain=MICROSOFT)
def _global_average(node: Node) -> Operator:
    _refuse_channels_last(node)
    return _through(node, 1, lambda x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True))


@converter("QLinearAveragePool", domain=MICROSOFT)
def _average(node: Node) -> Operator:
    _refuse_channels_last(node)
    window, include = read_window(node), bool(node.attr("count_include_pad", 0))
    return _through(node, 1, lambda x: average_pool(x, window, include))


@converter("QLinearLeakyRelu", domain=MICROSOFT)
def _leaky_relu(node: Node) -> Operator:
    slope = node.attr("alpha", 0.01)
    return _through(node, 1, lambda x: functional.leaky_relu(x, slope))


@converter("QLinearSigmoid", domain=MICROSOFT)
def _sigmoid(node: Node) -> Operator:
    return _through(node, 1, torch.sigmoid)


@converter("QLinearSoftmax", domain=MICROSOFT)
def _softmax(node: Node) -> Operator:
    axis = node.attr("axis", -1)
    if node.attr("opset", 13) < 13:
        raise node.refuse("the flattening softmax of opsets before 13 is not supported")
    return _through(node, 1, lambda x: torch.softmax(x, axis))


@converter("QLinearReduceMean", domain=MICROSOFT)
def _reduce_mean(node: Node) -> Operator:
    axes, keep = node.attr("axes"), bool(node.attr("keepdims", 1))
    return _through(node, 1, lambda x: x.mean(tuple(axes) if axes else tuple(range(x.dim())), keep))


class _Concat(Emulated):
    def __init__(self, limits: tuple[int, int] | None, axis: int) -> None:
        super().__init__()
        self.limits, self.axis = limits, axis

    def forward(self, scale: Tensor, zero: Tensor, *inputs: Tensor) -> Tensor:
        groups: Sequence[tuple[Tensor, Tensor, Tensor]] = list(
            zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True)
        )
        joined = torch.cat([self.centered(x, z) * s for x, s, z in groups], dim=self.axis)
        return quantize(joined, scale, zero, self.limits or limits_of(None, zero))


@converter("QLinearConcat", domain=MICROSOFT)
def _concat(node: Node) -> Operator:
    return operator(node, _Concat(output_limits(node, 1), node.attr("axis")))


class _QGemm(Emulated):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self.flip = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
        self.alpha, self.limits = node.attr("alpha", 1.0), output_limits(node, 8)

    def forward(
        self,
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor,
        bias: Tensor | None = None,
        y_scale: Tensor | None = None,
        y_zero: Tensor | None = None,
    ) -> Tensor:
        left = self.centered(a, a_zero)
        right = self.centered(b, b_zero, axis=0 if self.flip[1] else 1)
        total = (left.T if self.flip[0] else left) @ (right.T if self.flip[1] else right)
        total = total if bias is None else total + self.real(bias)
        factor = along_axis(self.alpha * a_scale * b_scale, total, 1)
        if y_scale is None:
            return total * factor
        limits = self.limits or limits_of(None, y_zero)
        steps = round_through(total * (factor / y_scale))
        return (steps if y_zero is None else steps + self.real(y_zero)).clamp(*limits)


@converter("QGemm", domain=MICROSOFT)
def _qgemm(node: Node) -> Operator:
    return operator(node, _QGemm(node))


class _MatMulIntegerToFloat(Emulated):
    def forward(
        self,
        a: Tensor,
        b: Tensor,
        a_scale: Tensor,
        b_scale: Tensor,
        a_zero: Tensor | None = None,
        b_zero: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        total = self.centered(a, a_zero, axis=-2) @ self.centered(b, b_zero, axis=-1)
        total = total * (a_scale * along_axis(b_scale, total, -1))
        return total if bias is None else total + bias


@converter("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_integer_to_float(node: Node) -> Operator:
    return operator(node, _MatMulIntegerToFloat())


class _DynamicQuantizeMatMul(Emulated):
    def forward(
        self,
        a: Tensor,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        # Quantizing and dequantizing at once: only the rounding of A remains, to the grid of its own range.
        high, low = a.detach().amax().clamp(min=0), a.detach().amin().clamp(max=0)
        scale = (high - low) / 255
        scale = torch.where(scale == 0, 1.0, scale)
        zero = (-low / scale).clamp(0, 255).round()
        steps = quantize(a, scale, zero, (0, 255)) - zero
        total = steps @ self.centered(b, b_zero, axis=-1)
        total = total * (scale * along_axis(b_scale, total, -1))
        return total if bias is None else total + bias


@converter("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_quantize_matmul(node: Node) -> Operator:
    return operator(node, _DynamicQuantizeMatMul())
