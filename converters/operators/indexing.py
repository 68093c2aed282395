"""Operators that pick or place elements by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__ = ["slice_axis"]


def _wrap(index: Tensor, size: int) -> Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@converter("Gather")
def _gather(node: Node) -> Operator:
    axis = node.attr("axis", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        place = _wrap(index, x.shape[axis])
        if place.dim() == 0:
            return x.index_select(axis, place.reshape(1)).squeeze(axis)
        along = axis % x.dim()
        picked = x.index_select(along, place.reshape(-1))
        return picked.reshape(*x.shape[:along], *index.shape, *x.shape[along + 1 :])

    return operator(node, run)


@converter("GatherElements")
def _gather_elements(node: Node) -> Operator:
    axis = node.attr("axis", 0)
    return operator(node, lambda x, index: torch.gather(x, axis, _wrap(index, x.shape[axis])))


@converter("GatherND")
def _gather_nd(node: Node) -> Operator:
    batch = node.attr("batch_dims", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        depth = index.shape[-1]
        parts = [_wrap(index[..., i], x.shape[batch + i]) for i in range(depth)]
        leading = []
        for i in range(batch):
            shape = [1] * (index.dim() - 1)
            shape[i] = -1
            leading.append(torch.arange(x.shape[i], device=index.device).reshape(shape))
        return x[(*leading, *parts)]

    return operator(node, run)


def _reduction(node: Node, name: str) -> str | None:
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    if name not in ("none", *names):
        raise node.refuse(f"reduction {name!r} is unknown")
    return names.get(name)


@converter("ScatterElements", "Scatter")
def _scatter_elements(node: Node) -> Operator:
    axis, how = node.attr("axis", 0), _reduction(node, node.attr("reduction", "none"))

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        place = _wrap(index, x.shape[axis])
        if how is None:
            return x.scatter(axis, place, updates)
        return x.scatter_reduce(axis, place, updates, how)

    return operator(node, run)


@converter("ScatterND")
def _scatter_nd(node: Node) -> Operator:
    how = _reduction(node, node.attr("reduction", "none"))

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        depth = index.shape[-1]
        if depth == 0:
            return updates.reshape(x.shape)
        flat = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
        for i in range(depth):
            flat = flat * x.shape[i] + _wrap(index[..., i], x.shape[i])
        rows = x.reshape(-1, *x.shape[depth:]).reshape(_count(x.shape[:depth]), -1)
        place = flat.reshape(-1, 1).expand(-1, rows.shape[1])
        values = updates.reshape(place.shape)
        if how is None:
            return rows.scatter(0, place, values).reshape(x.shape)
        return rows.scatter_reduce(0, place, values, how).reshape(x.shape)

    return operator(node, run)


def _count(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def slice_axis(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """``x[start:end:step]`` along an axis with ONNX's clamping; ``step`` may be negative."""
    size = x.shape[axis]
    first, last, _ = slice(start, end, step).indices(size)
    # Unlike Python, ONNX moves a start that lies before the axis to its first place even when walking back.
    places = range(max(first, 0), last, step) if size else range(0)
    if len(places) == 0:
        return x.narrow(axis, 0, 0)
    low, high = (places[0], places[-1]) if step > 0 else (places[-1], places[0])
    picked = x.narrow(axis, low, high - low + 1)
    if abs(step) > 1:
        picked = picked[(slice(None),) * axis + (slice(None, None, abs(step)),)]
    return picked if step > 0 else picked.flip(axis)


@converter("Slice")
def _slice(node: Node) -> Operator:
    """Bounds are attributes up to opset 9 and inputs after it; both are read."""
    fixed = node.attr("starts"), node.attr("ends"), node.attr("axes")

    def run(
        x: Tensor,
        starts: Tensor | None = None,
        ends: Tensor | None = None,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        first, last, along = fixed if starts is None or ends is None else (starts.tolist(), ends.tolist(), None)
        along = axes.tolist() if axes is not None else along or list(range(len(first)))
        stride = [1] * len(first) if steps is None else steps.tolist()
        for axis, start, end, step in zip(along, first, last, stride, strict=True):
            x = slice_axis(x, axis % x.dim(), start, end, step)
        return x

    return operator(node, run, host=(1, 2, 3, 4))


@converter("TopK")
def _top_k(node: Node) -> Operator:
    axis, largest = node.attr("axis", -1), bool(node.attr("largest", 1))
    fixed = node.attr("k")

    def run(x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        k = fixed if count is None else int(count.item())
        # Unlike topk, a stable sort puts the lower index first among equals, as ONNX demands.
        values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)

    return operator(node, run, host=(1,))


@converter("NonZero")
def _non_zero(node: Node) -> Operator:
    return operator(node, lambda x: torch.nonzero(x).T)


@converter("Compress")
def _compress(node: Node) -> Operator:
    axis = node.attr("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        place = torch.nonzero(condition).reshape(-1)
        return x.reshape(-1)[place] if axis is None else x.index_select(axis, place)

    return operator(node, run)
