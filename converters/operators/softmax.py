"""Softmax, LogSoftmax and Hardmax; before opset 13 they work on the input flattened to two axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__: list[str] = []


def _hardmax(x: Tensor, axis: int) -> Tensor:
    first = torch.argmax(x, dim=axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1.0)


_FUNCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "Softmax": torch.softmax,
    "LogSoftmax": torch.log_softmax,
    "Hardmax": _hardmax,
}


@converter("Softmax", "LogSoftmax", "Hardmax")
def _flattened(node: Node) -> Operator:
    function, axis = _FUNCTIONS[node.op_type], node.attr("axis", 1)

    def run(x: Tensor) -> Tensor:
        split = axis + x.dim() if axis < 0 else axis
        rows = 1
        for size in x.shape[:split]:
            rows *= size
        return function(x.reshape(rows, -1), 1).reshape(x.shape)

    return operator(node, run)


@converter("Softmax", "LogSoftmax", "Hardmax", since=13)
def _along_axis(node: Node) -> Operator:
    function, axis = _FUNCTIONS[node.op_type], node.attr("axis", -1)
    return operator(node, lambda x: function(x, axis))
