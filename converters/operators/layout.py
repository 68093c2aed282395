"""Operators that rearrange elements: reshape, transpose, split, concatenate, tile, depth and space."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__: list[str] = []


@converter("Reshape")
def _reshape(node: Node) -> Operator:
    zero_means_zero = bool(node.attr("allowzero", 0))
    fixed = node.attr("shape")

    def run(x: Tensor, shape: Tensor | None = None) -> Tensor:
        sizes: list[int] = list(fixed) if shape is None else shape.tolist()
        if not zero_means_zero:
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        return x.reshape(sizes)

    return operator(node, run, host=(1,))


@converter("Flatten")
def _flatten(node: Node) -> Operator:
    axis = node.attr("axis", 1)

    def run(x: Tensor) -> Tensor:
        split = axis + x.dim() if axis < 0 else axis
        rows = 1
        for size in x.shape[:split]:
            rows *= size
        columns = 1
        for size in x.shape[split:]:
            columns *= size
        return x.reshape(rows, columns)

    return operator(node, run)


@converter("Squeeze")
def _squeeze(node: Node) -> Operator:
    fixed = node.attr("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = fixed if axes is None else axes.reshape(-1).tolist()
        if chosen is None:
            return x.squeeze()
        wrong = [axis for axis in chosen if x.shape[axis] != 1]
        if wrong:
            raise ValueError(f"axes {wrong} cannot be squeezed, their sizes are not 1")
        return x.squeeze(tuple(chosen)) if chosen else x

    return operator(node, run, host=(1,))


@converter("Unsqueeze")
def _unsqueeze(node: Node) -> Operator:
    fixed = node.attr("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = fixed if axes is None else axes.reshape(-1).tolist()
        rank = x.dim() + len(chosen)
        for axis in sorted(a % rank for a in chosen):
            x = x.unsqueeze(axis)
        return x

    return operator(node, run, host=(1,))


@converter("Transpose")
def _transpose(node: Node) -> Operator:
    order = node.attr("perm")
    return operator(node, lambda x: x.permute(order or tuple(reversed(range(x.dim())))))


@converter("Expand")
def _expand(node: Node) -> Operator:
    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes: torch.Size = torch.broadcast_shapes(tuple(x.shape), tuple(shape.tolist()))  # type: ignore[no-untyped-call]
        return x.expand(sizes)

    return operator(node, run, host=(1,))


@converter("Tile")
def _tile(node: Node) -> Operator:
    return operator(node, lambda x, repeats: x.repeat(repeats.tolist()) if x.dim() else x, host=(1,))


@converter("Concat")
def _concat(node: Node) -> Operator:
    axis = node.attr("axis", 1)
    return operator(node, lambda *parts: torch.cat(parts, dim=axis))


def _split_sizes(size: int, parts: int) -> list[int]:
    chunk = -(-size // parts)
    return [chunk] * (parts - 1) + [size - chunk * (parts - 1)]


@converter("Split")
def _split(node: Node) -> Operator:
    axis, fixed, parts = node.attr("axis", 0), node.attr("split"), len(node.outputs)

    def run(x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
        chosen = fixed if sizes is None else sizes.tolist()
        return torch.split(x, chosen or _split_sizes(x.shape[axis], parts), dim=axis)

    return operator(node, run, host=(1,))


@converter("DepthToSpace")
def _depth_to_space(node: Node) -> Operator:
    block, depth_first = node.attr("blocksize"), node.attr("mode", "DCR") == "DCR"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        depth = c // (block * block)
        if depth_first:
            cells = x.reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            cells = x.reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        return cells.reshape(n, depth, h * block, w * block)

    return operator(node, run)


@converter("SpaceToDepth")
def _space_to_depth(node: Node) -> Operator:
    block, depth_first = node.attr("blocksize"), node.attr("mode", "DCR") == "DCR"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        cells = x.reshape(n, c, h // block, block, w // block, block)
        cells = cells.permute(0, 3, 5, 1, 2, 4) if depth_first else cells.permute(0, 1, 3, 5, 2, 4)
        return cells.reshape(n, c * block * block, h // block, w // block)

    return operator(node, run)


def _triangle(upper: bool) -> Callable[[Tensor, int], Tensor]:
    return torch.triu if upper else torch.tril


@converter("Trilu")
def _trilu(node: Node) -> Operator:
    triangle = _triangle(bool(node.attr("upper", 1)))

    def run(x: Tensor, diagonal: Tensor | None = None) -> Tensor:
        return triangle(x, 0 if diagonal is None else int(diagonal.item()))

    return operator(node, run, host=(1,))


@converter("CenterCropPad")
def _center_crop_pad(node: Node) -> Operator:
    axes = node.attr("axes")

    def run(x: Tensor, shape: Tensor) -> Tensor:
        for axis, size in zip(axes or range(x.dim()), shape.tolist(), strict=True):
            x = _center(x, axis % x.dim(), size)
        return x

    return operator(node, run, host=(1,))


def _center(x: Tensor, axis: int, size: int) -> Tensor:
    have = x.shape[axis]
    if have >= size:
        return x.narrow(axis, (have - size) // 2, size)
    before = (size - have) // 2
    amounts = [0, 0] * (x.dim() - axis - 1) + [before, size - have - before]
    return functional.pad(x, amounts)


@converter("ReverseSequence")
def _reverse_sequence(node: Node) -> Operator:
    batch_axis, time_axis = node.attr("batch_axis", 1), node.attr("time_axis", 0)

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        moved = x.movedim((batch_axis, time_axis), (0, 1))
        time = torch.arange(moved.shape[1], device=x.device)
        length = lengths.to(x.device)[:, None]
        place = torch.where(time < length, length - 1 - time, time)
        picked = moved[torch.arange(moved.shape[0], device=x.device)[:, None], place]
        return picked.movedim((0, 1), (batch_axis, time_axis))

    return operator(node, run)
