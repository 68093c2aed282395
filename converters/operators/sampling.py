"""Sampling at computed positions: GridSample, AffineGrid, RoiAlign, DeformConv."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import Node, Operator, converter, operator
from onnxvis.converters.windows import read_window

__all__: list[str] = []

_GRID_MODES = {
    "bilinear": "bilinear",
    "linear": "bilinear",
    "nearest": "nearest",
    "bicubic": "bicubic",
    "cubic": "bicubic",
}


@converter("GridSample")
def _grid_sample(node: Node) -> Operator:
    mode, padding = _GRID_MODES.get(node.attr("mode", "linear")), node.attr("padding_mode", "zeros")
    if mode is None:
        raise node.refuse(f"mode {node.attr('mode')!r} is unknown")
    corners = bool(node.attr("align_corners", 0))

    def run(x: Tensor, grid: Tensor) -> Tensor:
        return functional.grid_sample(x, grid, mode, padding, corners)

    return operator(node, run)


@converter("AffineGrid")
def _affine_grid(node: Node) -> Operator:
    corners = bool(node.attr("align_corners", 0))
    return operator(node, lambda theta, size: functional.affine_grid(theta, size.tolist(), corners), host=(1,))


@converter("RoiAlign")
def _roi_align(node: Node) -> Operator:
    if node.attr("mode", "avg") != "avg":
        raise node.refuse("only mode 'avg' is supported")
    rows, columns = node.attr("output_height", 1), node.attr("output_width", 1)
    ratio, scale = node.attr("sampling_ratio", 0), node.attr("spatial_scale", 1.0)
    default = "half_pixel" if node.version >= 16 else "output_half_pixel"
    offset = 0.5 if node.attr("coordinate_transformation_mode", default) == "half_pixel" else 0.0

    def run(x: Tensor, boxes: Tensor, batch: Tensor) -> Tensor:
        pooled = []
        for box, index in zip(boxes.detach().tolist(), batch.tolist(), strict=True):
            left, top, right, bottom = (value * scale - offset for value in box)
            spans = bottom - top, right - left
            if offset == 0.0:
                spans = max(spans[0], 1.0), max(spans[1], 1.0)
            down = _bins(top, spans[0], rows, ratio, x.shape[2])
            across = _bins(left, spans[1], columns, ratio, x.shape[3])
            pooled.append(torch.einsum("ph,chw,qw->cpq", down.to(x), x[index], across.to(x)))
        return torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[1], rows, columns)

    return operator(node, run, host=(1, 2))


@converter("DeformConv")
def _deformable_convolution(node: Node) -> Operator:
    window, groups, parts = read_window(node), node.attr("group", 1), node.attr("offset_group", 1)

    def run(
        x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        n, channels, *spatial = x.shape
        full = window.for_rank(2, tuple(weight.shape[2:]))
        pads, (rows, columns), cells = full.resolved_pads(spatial), offset.shape[2:], math.prod(full.kernel)
        shifts = offset.reshape(n * parts, cells, 2, rows, columns)
        grid = []
        for axis, count in ((1, columns), (0, rows)):
            base = torch.arange(count, device=x.device) * full.strides[axis] - pads[axis][0]
            tap = torch.arange(full.kernel[axis], device=x.device) * full.dilations[axis]
            taps = tap.repeat(full.kernel[0]) if axis == 1 else tap.repeat_interleave(full.kernel[1])
            base = base if axis == 1 else base[:, None]
            place = shifts[:, :, axis] + taps[:, None, None] + base
            grid.append((2 * place + 1) / spatial[axis] - 1)
        points = torch.stack(grid, dim=-1).reshape(n * parts, cells * rows, columns, 2)
        taken = functional.grid_sample(x.reshape(n * parts, -1, *spatial), points, "bilinear", "zeros", False)
        taken = taken.reshape(n, parts, channels // parts, cells, rows, columns)
        if mask is not None:
            taken = taken * mask.reshape(n, parts, 1, cells, rows, columns)
        taken = taken.reshape(n, groups, channels // groups, cells, rows, columns)
        kernels = weight.reshape(groups, weight.shape[0] // groups, channels // groups, cells)
        out = torch.einsum("ngckhw,gock->ngohw", taken, kernels).reshape(n, -1, rows, columns)
        return out if bias is None else out + bias.reshape(-1, 1, 1)

    return operator(node, run)


def _bins(start: float, span: float, bins: int, ratio: int, size: int) -> Tensor:
    """The ``(bins, size)`` matrix that averages bilinear samples in each bin along one axis."""
    step = span / bins
    count = ratio if ratio > 0 else max(math.ceil(step), 1)
    offsets = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    place = start + step * (torch.arange(bins, dtype=torch.float64)[:, None] + offsets)
    valid = (place >= -1.0) & (place <= size)
    place = place.clamp(0, size - 1)
    low = place.floor().long()
    share = place - low
    matrix = torch.zeros(bins, size, dtype=torch.float64)
    matrix.scatter_add_(1, low, torch.where(valid, 1 - share, 0.0))
    matrix.scatter_add_(1, (low + 1).clamp(max=size - 1), torch.where(valid, share, 0.0))
    return matrix / count
