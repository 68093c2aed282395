"""Convolution and transposed convolution in one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import Node, Operator, converter, operator
from onnxvis.converters.windows import Window, pad_spatial, read_window

__all__ = ["conv_function", "convolve"]

_CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """Convolution of ``(N, C, *spatial)`` with one to three spatial axes.

    Raises:
        ValueError: another number of spatial axes.
    """
    rank = x.dim() - 2
    if rank not in _CONV:
        raise ValueError(f"convolution over {rank} spatial axes is not supported (1 to 3 are)")
    full = window.for_rank(rank, tuple(weight.shape[2:]))
    pads = full.resolved_pads(tuple(x.shape[2:]))
    if all(begin == end >= 0 for begin, end in pads):
        padding = [begin for begin, _ in pads]
        return _CONV[rank](x, weight, bias, full.strides, padding, full.dilations, groups)
    return _CONV[rank](pad_spatial(x, pads), weight, bias, full.strides, 0, full.dilations, groups)


def conv_function(node: Node) -> Callable[..., Tensor]:
    """The convolution a node's attributes describe, as a function of (x, weight, bias)."""
    window, groups = read_window(node), node.attr("group", 1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolve(x, weight, bias, window, groups)

    return run


@converter("Conv")
def _conv(node: Node) -> Operator:
    return operator(node, conv_function(node))


@converter("ConvTranspose")
def _conv_transpose(node: Node) -> Operator:
    window, groups = read_window(node), node.attr("group", 1)
    extra, wanted = tuple(node.attr("output_padding", ())), tuple(node.attr("output_shape", ()))

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _transpose(x, weight, bias, window, groups=groups, extra=extra, wanted=wanted)

    return operator(node, run)


def _transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    *,
    groups: int,
    extra: Sequence[int],
    wanted: Sequence[int],
) -> Tensor:
    rank = x.dim() - 2
    if rank not in _CONV_TRANSPOSE:
        raise ValueError(f"transposed convolution over {rank} spatial axes is not supported (1 to 3 are)")
    full = window.for_rank(rank, tuple(weight.shape[2:]))
    extra = tuple(extra) or (0,) * rank
    pads = _transposed_pads(tuple(x.shape[2:]), full, extra, tuple(wanted[-rank:]) if wanted else ())
    function = _CONV_TRANSPOSE[rank]
    limits = zip(full.strides, full.dilations, strict=True)
    native = all(begin == end >= 0 for begin, end in pads) and all(
        o < max(limit) for o, limit in zip(extra, limits, strict=True)
    )
    if native:
        padding = [begin for begin, _ in pads]
        return function(x, weight, bias, full.strides, padding, extra, groups, full.dilations)
    out = function(x, weight, None, full.strides, 0, 0, groups, full.dilations)
    out = pad_spatial(out, [(-begin, o - end) for (begin, end), o in zip(pads, extra, strict=True)])
    return out if bias is None else out + bias.reshape(-1, *[1] * rank)


def _transposed_pads(
    spatial: Sequence[int], window: Window, extra: Sequence[int], wanted: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    same = window.auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if not wanted and not same:
        return window.resolved_pads(spatial)
    target = tuple(wanted) or tuple(n * s for n, s in zip(spatial, window.strides, strict=True))
    pads = []
    for n, s, e, o, size in zip(spatial, window.strides, window.extents(), extra, target, strict=True):
        full = s * (n - 1) + o + e
        total = max(full - size, 0)
        begin = total // 2 if window.auto_pad == "SAME_UPPER" else total - total // 2
        # A wanted size beyond the natural one is filled up at the end, as onnxruntime does.
        pads.append((begin, (full - size if wanted else total) - begin))
    return tuple(pads)


@converter("Col2Im")
def _col2im(node: Node) -> Operator:
    window = read_window(node)

    def col2im(x: Tensor, image: Tensor, block: Tensor) -> Tensor:
        sizes, kernel = image.tolist(), block.tolist()
        rank = len(sizes)
        full = window.for_rank(rank, kernel)
        pads = full.resolved_pads(sizes)
        cells = 1
        for k in kernel:
            cells *= k
        n, channels = x.shape[0], x.shape[1] // cells
        # A transposed convolution with one-hot kernels puts every column back in its place.
        basis = torch.eye(cells, dtype=x.dtype, device=x.device).reshape(cells, 1, *kernel)
        counts = full.counts(sizes, pads)
        columns = x.reshape(n * channels, cells, *counts)
        out = _CONV_TRANSPOSE[rank](columns, basis, None, full.strides, 0, 0, 1, full.dilations)
        fitted = [
            (-begin, begin + size - made) for (begin, _), size, made in zip(pads, sizes, out.shape[2:], strict=True)
        ]
        return pad_spatial(out, fitted).reshape(n, channels, *sizes)

    return operator(node, col2im, host=(1, 2))
