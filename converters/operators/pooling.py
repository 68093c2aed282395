"""Pooling with windows: maximum, average, Lp; any padding, ceil mode, dilation, any rank."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import Node, Operator, converter, operator
from onnxvis.converters.windows import Window, pad_spatial, read_window, window_sums

__all__ = ["average_pool"]

_MAX: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


@converter("MaxPool")
def _max_pool(node: Node) -> Operator:
    window, column_major = read_window(node), bool(node.attr("storage_order", 0))
    if len(window.kernel) not in _MAX:
        raise node.refuse(f"pooling over {len(window.kernel)} spatial axes is not supported (1 to 3 are)")
    if node.wants(1):
        return operator(node, lambda x: _max_with_indices(x, window, column_major))
    return operator(node, lambda x: _max(x, window))


def _max(x: Tensor, window: Window) -> Tensor:
    if not x.is_floating_point():
        return _max(x.to(torch.float64), window).to(x.dtype)
    rank = len(window.kernel)
    full, spatial = window.for_rank(rank), tuple(x.shape[2:])
    pads = full.resolved_pads(spatial)
    native = not full.ceil and all(
        begin == end and 2 * begin <= k for (begin, end), k in zip(pads, full.kernel, strict=True)
    )
    if native:
        padding = [begin for begin, _ in pads]
        return _MAX[rank](x, full.kernel, full.strides, padding, full.dilations)
    x = pad_spatial(x, full.covering_pads(spatial, pads), -math.inf)
    return _MAX[rank](x, full.kernel, full.strides, 0, full.dilations)


def _max_with_indices(x: Tensor, window: Window, column_major: bool) -> tuple[Tensor, Tensor]:
    if not x.is_floating_point():
        values, indices = _max_with_indices(x.to(torch.float64), window, column_major)
        return values.to(x.dtype), indices
    rank = len(window.kernel)
    full, spatial = window.for_rank(rank), tuple(x.shape[2:])
    pads = full.covering_pads(spatial, full.resolved_pads(spatial))
    padded = pad_spatial(x, pads, -math.inf)
    values, place = _MAX[rank](padded, full.kernel, full.strides, 0, full.dilations, return_indices=True)
    flat = torch.zeros_like(place)
    # torch counts inside the padded plane, ONNX over the whole unpadded tensor.
    coordinates = []
    for size, (begin, _) in zip(reversed(padded.shape[2:]), reversed(pads), strict=True):
        coordinates.append(place % size - begin)
        place = place // size
    order = list(zip(reversed(coordinates), spatial, strict=True))
    weight = 1
    for coordinate, size in order if column_major else reversed(order):
        flat = flat + coordinate * weight
        weight *= size
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    return values, flat + planes.reshape(x.shape[0], x.shape[1], *[1] * rank) * weight


@converter("AveragePool")
def _average_pool(node: Node) -> Operator:
    window, include = read_window(node), bool(node.attr("count_include_pad", 0))
    return operator(node, lambda x: average_pool(x, window, include))


def average_pool(x: Tensor, window: Window, include_pads: bool) -> Tensor:
    """Mean over windows of ``(N, C, *spatial)``; padded cells count only when ``include_pads``.

    Cells that ceil mode adds behind the padding never count.
    """
    rank = len(window.kernel)
    full, spatial = window.for_rank(rank), tuple(x.shape[2:])
    pads = full.resolved_pads(spatial)
    native = (
        not full.ceil
        and rank in _AVERAGE
        and set(full.dilations) == {1}
        and all(begin == end and 2 * begin <= k for (begin, end), k in zip(pads, full.kernel, strict=True))
    )
    if native:
        padding = [begin for begin, _ in pads]
        return _AVERAGE[rank](x, full.kernel, full.strides, padding, False, include_pads)
    fitted = full.covering_pads(spatial, pads)
    ones = torch.ones(spatial, dtype=x.dtype, device=x.device)
    if include_pads:
        ones = pad_spatial(ones, pads, 1.0)
        beyond = [(0, end - own) for (_, end), (_, own) in zip(fitted, pads, strict=True)]
        counted = pad_spatial(ones, beyond)
    else:
        counted = pad_spatial(ones, fitted)
    return window_sums(pad_spatial(x, fitted), full) / window_sums(counted, full)


@converter("LpPool")
def _lp_pool(node: Node) -> Operator:
    window, p = read_window(node), float(node.attr("p", 2))

    def run(x: Tensor) -> Tensor:
        full, spatial = window.for_rank(len(window.kernel)), tuple(x.shape[2:])
        fitted = full.covering_pads(spatial, full.resolved_pads(spatial))
        sums = window_sums(pad_spatial(x.abs() ** p, fitted), full)
        # The root has an infinite slope at 0; an all-zero window gets gradient 0 instead of NaN.
        empty = sums == 0
        return torch.where(empty, 0.0, torch.where(empty, 1.0, sums) ** (1.0 / p))

    return operator(node, run)


@converter("MaxUnpool")
def _max_unpool(node: Node) -> Operator:
    window = read_window(node)

    def run(x: Tensor, indices: Tensor, shape: Tensor | None = None) -> Tensor:
        full = window.for_rank(len(window.kernel))
        geometry = zip(x.shape[2:], full.strides, full.kernel, full.resolved_pads(x.shape[2:]), strict=True)
        plain = [(n - 1) * s + k - begin - end for n, s, k, (begin, end) in geometry]
        out = list(x.shape[:2]) + plain
        total = math.prod(out)
        # The indices count in the size the pooling windows imply; a larger wanted shape is padded around it.
        flat = torch.zeros(total, dtype=x.dtype, device=x.device).scatter(0, indices.reshape(-1), x.reshape(-1))
        small = flat.reshape(out)
        if shape is None:
            return small
        return functional.pad(
            small,
            [a for n, w in zip(reversed(out), reversed(shape.tolist()), strict=True) for a in (0, w - n)],
        )

    return operator(node, run, host=(2,))
