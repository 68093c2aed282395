"""Casts, pass-through operators, and operators that make tensors from shapes or numbers."""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor, nn

from onnxvis.converters.constants import FLOATS, onnx_dtype, tensor_of
from onnxvis.converters.registry import Node, Operator, converter, operator

__all__ = ["WorkingType"]


class WorkingType(nn.Module):
    """Base of modules that have to know the graph's working float type and device.

    The empty buffer follows ``.to(...)`` with the rest of the graph.
    """

    probe: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("probe", torch.empty(0), persistent=False)

    def resolve(self, element_type: int) -> torch.dtype:
        """The torch type for an ONNX element type that is known to be a number or bool."""
        dtype = onnx_dtype(element_type, self.probe.dtype)
        assert dtype is not None
        return dtype


class _Cast(WorkingType):
    """To a float type: the working float type. To an integer type or bool: for real."""

    def __init__(self, element_type: int) -> None:
        super().__init__()
        self.element_type = element_type

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.resolve(self.element_type)
        if self.element_type not in FLOATS and dtype is not torch.bool and x.is_floating_point():
            x = x.trunc()
        return x.to(dtype)


_WIDE_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NARROW_INTEGERS = frozenset({TensorProto.INT4, TensorProto.UINT4})


def _checked_cast(node: Node, element_type: int) -> _Cast:
    """Refuses types whose rounding or wrapping would be lost in the type that holds them."""
    narrow_float = element_type in FLOATS and element_type not in _WIDE_FLOATS
    held = onnx_dtype(element_type, torch.float32)
    if held is None or narrow_float or element_type in _NARROW_INTEGERS:
        known = element_type in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(element_type) if known else f"the unknown element type {element_type}"
        raise node.refuse(f"casts to {name} are not supported")
    return _Cast(element_type)


@converter("Cast")
def _cast(node: Node) -> Operator:
    return operator(node, _checked_cast(node, node.attr("to")))


@converter("CastLike")
def _cast_like(node: Node) -> Operator:
    element_type = node.element_type(1)
    if element_type is not None:
        return operator(node, _checked_cast(node, element_type), inputs=node.inputs[:1])
    return operator(node, lambda x, like: x.to(like.dtype))


@converter("Identity")
def _identity(node: Node) -> Operator:
    return operator(node, lambda x: x)


@converter("Dropout")
def _dropout(node: Node) -> Operator:
    if node.has(2):
        training = node.constant(2)
        if training is None or bool(training.item()):
            raise node.refuse("it is in training mode")

    def dropout(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.ones_like(x, dtype=torch.bool)

    if not node.wants(1):
        return operator(node, lambda x: x, inputs=node.inputs[:1])
    return operator(node, dropout, inputs=node.inputs[:1])


@converter("Shape")
def _shape(node: Node) -> Operator:
    start, end = node.attr("start", 0), node.attr("end")
    return operator(node, lambda x: torch.tensor(tuple(x.shape)[start:end], dtype=torch.int64))


@converter("Size")
def _size(node: Node) -> Operator:
    return operator(node, lambda x: torch.tensor(x.numel(), dtype=torch.int64))


class _Filled(WorkingType):
    def __init__(self, element_type: int, value: float) -> None:
        super().__init__()
        self.element_type, self.value = element_type, value

    def forward(self, shape: Tensor) -> Tensor:
        dtype = self.resolve(self.element_type)
        # Integers take part in shape arithmetic, which stays on the CPU.
        device = self.probe.device if dtype.is_floating_point else torch.device("cpu")
        return torch.full(shape.tolist(), self.value, dtype=dtype, device=device)


@converter("ConstantOfShape")
def _constant_of_shape(node: Node) -> Operator:
    proto = node.attr("value")
    value = None if proto is None else tensor_of(proto)
    if value is None:
        return operator(node, _Filled(TensorProto.FLOAT, 0.0), host=(0,))
    return operator(node, _Filled(proto.data_type, value.reshape(()).item()), host=(0,))


@converter("Range")
def _range(node: Node) -> Operator:
    def arange(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)

    return operator(node, arange)


class _EyeLike(WorkingType):
    def __init__(self, element_type: int | None, diagonal: int) -> None:
        super().__init__()
        self.element_type, self.diagonal = element_type, diagonal

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype if self.element_type is None else self.resolve(self.element_type)
        rows, columns = x.shape
        offset = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device)[:, None]
        return (offset == self.diagonal).to(dtype)


@converter("EyeLike")
def _eye_like(node: Node) -> Operator:
    return operator(node, _EyeLike(node.attr("dtype"), node.attr("k", 0)))


@converter("OneHot")
def _one_hot(node: Node) -> Operator:
    axis = node.attr("axis", -1)

    def one_hot(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        size = int(depth.reshape(()).item())
        index = indices.to(torch.int64)
        index = torch.where(index < 0, index + size, index)
        place = axis + indices.dim() + 1 if axis < 0 else axis
        classes = torch.arange(size, device=index.device).reshape(-1, *[1] * (indices.dim() - place))
        return torch.where(index.unsqueeze(place) == classes, values[1], values[0])

    return operator(node, one_hot, host=(1,))
