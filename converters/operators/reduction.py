"""Reductions over axes, cumulative sums, positions of extremes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__: list[str] = []

Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _extreme(x: Tensor, axes: tuple[int, ...], keep: bool, largest: bool) -> Tensor:
    if x.dtype is torch.bool:
        return _extreme(x.to(torch.uint8), axes, keep, largest).to(torch.bool)
    if any(x.shape[axis] == 0 for axis in axes):
        return _of_nothing(x, axes, keep, largest)
    return torch.amax(x, axes, keep) if largest else torch.amin(x, axes, keep)


def _of_nothing(x: Tensor, axes: tuple[int, ...], keep: bool, largest: bool) -> Tensor:
    sizes = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
    if x.is_floating_point():
        return x.new_full(sizes, -math.inf if largest else math.inf)
    limits = torch.iinfo(x.dtype)
    return x.new_full(sizes, limits.min if largest else limits.max)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _norm(x: Tensor, axes: tuple[int, ...], keep: bool, p: int) -> Tensor:
    if not x.is_floating_point():
        return _norm(x.to(torch.float64), axes, keep, p).to(x.dtype)
    out: Tensor = torch.linalg.vector_norm(x, p, axes, keep)
    return out


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if not x.is_floating_point():
        return torch.logsumexp(x.to(torch.float64), axes, keep).to(x.dtype)
    return torch.logsumexp(x, axes, keep)


_REDUCTIONS: dict[str, Reduce] = {
    "ReduceL1": lambda x, axes, keep: _norm(x, axes, keep, 1),
    "ReduceL2": lambda x, axes, keep: _norm(x, axes, keep, 2),
    "ReduceLogSum": lambda x, axes, keep: torch.log(_sum(x, axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda x, axes, keep: _extreme(x, axes, keep, True),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, axes, keep: _extreme(x, axes, keep, False),
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes, keep: _sum(x * x, axes, keep),
}


def _same(x: Tensor) -> Tensor:
    return x


_POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "ReduceL1": torch.abs,
    "ReduceL2": torch.abs,
    "ReduceLogSum": torch.log,
    "ReduceSumSquare": torch.square,
}


@converter(*_REDUCTIONS)
def _reduce(node: Node) -> Operator:
    """Axes are an attribute up to a version, an input (which may be empty) after it; both are read."""
    function = _REDUCTIONS[node.op_type]
    alone = _POINTWISE.get(node.op_type, _same)
    keep, noop = bool(node.attr("keepdims", 1)), bool(node.attr("noop_with_empty_axes", 0))
    fixed: list[int] | None = node.attr("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen: list[int] | None = fixed if axes is None else axes.tolist()
        if not chosen and noop:
            return alone(x)  # an unreduced ReduceL1 still takes absolute values
        every = tuple(range(x.dim()))
        picked = tuple(axis % x.dim() for axis in chosen) if chosen else every
        return function(x, picked, keep) if picked else alone(x)

    return operator(node, run, host=(1,))


@converter("ArgMax", "ArgMin")
def _arg_extreme(node: Node) -> Operator:
    function = torch.argmax if node.op_type == "ArgMax" else torch.argmin
    axis, keep = node.attr("axis", 0), bool(node.attr("keepdims", 1))
    if not node.attr("select_last_index", 0):
        return operator(node, lambda x: function(x, dim=axis, keepdim=keep))
    return operator(node, lambda x: x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=keep))


@converter("CumSum", "CumProd")
def _cumulate(node: Node) -> Operator:
    exclusive, reverse = bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0))
    function, neutral = (torch.cumsum, 0) if node.op_type == "CumSum" else (torch.cumprod, 1)

    def run(x: Tensor, axis: Tensor) -> Tensor:
        along = int(axis.reshape(()).item())
        x = x.flip(along) if reverse else x
        if exclusive:
            size = x.shape[along]
            start = torch.full_like(x.narrow(along, 0, min(1, size)), neutral)
            x = torch.cat([start, x.narrow(along, 0, max(size - 1, 0))], dim=along)
        out = function(x, along, dtype=x.dtype)
        return out.flip(along) if reverse else out

    return operator(node, run, host=(1,))
