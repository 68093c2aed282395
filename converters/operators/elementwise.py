"""Arithmetic, comparison, logic and rounding, element by element."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from onnx import TensorProto
from torch import Tensor

from onnxvis.converters.registry import ActivationKind, Node, Operator, converter, operator
from onnxvis.converters.relu import ReluRule, rectify

__all__: list[str] = []

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    # The result has the base's type, whatever the exponent's.
    return torch.pow(a, b).to(a.dtype)


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Pow": _power,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


@converter(*_UNARY)
def _unary(node: Node) -> Operator:
    return operator(node, _UNARY[node.op_type])


@converter(*_BINARY)
def _binary_with_axis(node: Node) -> Operator:
    """Until opset 6 the second operand was aligned by an ``axis`` attribute."""
    function, axis = _BINARY[node.op_type], node.attr("axis")
    if not node.attr("broadcast") or axis is None:
        return operator(node, function)

    def run(a: Tensor, b: Tensor) -> Tensor:
        start = axis + a.dim() if axis < 0 else axis
        return function(a, b.reshape(*b.shape, *[1] * (a.dim() - start - b.dim())))

    return operator(node, run)


@converter(*_BINARY, since=7)
def _binary(node: Node) -> Operator:
    return operator(node, _BINARY[node.op_type])


def _refuse_widened(node: Node) -> None:
    """Unsigned types beyond uint8 are held in wider signed ones, whose high bits would show."""
    if node.element_type(0) in (TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64):
        raise node.refuse("torch has no bit operations on unsigned types beyond uint8")


@converter("BitwiseNot")
def _bitwise_not(node: Node) -> Operator:
    _refuse_widened(node)
    return operator(node, torch.bitwise_not)


@converter("BitShift")
def _bit_shift(node: Node) -> Operator:
    left = node.attr("direction") == "LEFT"
    if left:
        _refuse_widened(node)

    def shift(a: Tensor, b: Tensor) -> Tensor:
        # A shift by the whole width is undefined in torch: shift in two steps, each short enough. Negative
        # amounts count as huge ones, as if they were unsigned.
        bits = torch.iinfo(a.dtype).bits
        function = torch.bitwise_left_shift if left else torch.bitwise_right_shift
        amount = torch.where(b < 0, bits, b).clamp(max=bits)
        most = amount.clamp(max=bits - 1)
        return function(function(a, most), amount - most).to(a.dtype)

    return operator(node, shift)


@converter("Mod")
def _mod(node: Node) -> Operator:
    return operator(node, torch.fmod if node.attr("fmod", 0) else torch.remainder)


@converter("IsInf")
def _is_inf(node: Node) -> Operator:
    negative, positive = node.attr("detect_negative", 1), node.attr("detect_positive", 1)

    def is_inf(x: Tensor) -> Tensor:
        hit = torch.isinf(x)
        hit = hit if negative else hit & (x > 0)
        return hit if positive else hit & (x < 0)

    return operator(node, is_inf)


@converter("Where")
def _where(node: Node) -> Operator:
    return operator(node, torch.where)


@converter("Sum", "Mean")
def _sum(node: Node) -> Operator:
    scale = 1.0 / len(node.inputs) if node.op_type == "Mean" else None

    def run(*terms: Tensor) -> Tensor:
        total = functools.reduce(torch.add, terms)
        return total if scale is None else total * scale

    return operator(node, run)


@converter("Max", "Min")
def _extremum(node: Node) -> Operator:
    if node.op_type == "Max" and (data := _rectified_input(node)) is not None:
        return operator(node, _rectify_any, inputs=(data,), activation=ActivationKind.RELU)
    function = torch.maximum if node.op_type == "Max" else torch.minimum
    return operator(node, lambda *terms: functools.reduce(function, terms))


def _rectified_input(node: Node) -> str | None:
    """The data input of ``Max(x, 0)``, a rectifier in other words."""
    if len(node.inputs) != 2:
        return None
    for data, bound in ((0, 1), (1, 0)):
        value = node.constant(bound)
        if (
            value is not None
            and value.numel() == 1
            and value.dim() == 0
            and value.is_floating_point()
            and value.item() == 0.0
            and node.constant(data) is None
        ):
            return node.inputs[data]
    return None


def _rectify_any(x: Tensor, rule: ReluRule | None = None) -> Tensor:
    return rectify(x, rule=rule)
