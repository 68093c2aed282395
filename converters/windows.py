"""Geometry shared by convolution and pooling: padding, output sizes, window positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import Node

__all__ = ["Window", "pad_spatial", "read_window", "same_pads", "window_sums"]


@dataclass(frozen=True)
class Window:
    """Attributes of a sliding window; empty tuples stand for the defaults."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    ceil: bool

    def for_rank(self, rank: int, kernel: Sequence[int] | None = None) -> Window:
        """The same window with every default written out for ``rank`` spatial axes."""
        return Window(
            tuple(kernel or self.kernel),
            self.strides or (1,) * rank,
            self.dilations or (1,) * rank,
            self.pads or (0,) * (2 * rank),
            self.auto_pad,
            self.ceil,
        )

    def extents(self) -> tuple[int, ...]:
        """Size of the dilated window along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def resolved_pads(self, spatial: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(begin, end) padding of each axis for an input of these spatial sizes."""
        rank = len(spatial)
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            needed = zip(spatial, self.extents(), self.strides, strict=True)
            return tuple(same_pads(n, e, s, upper=self.auto_pad == "SAME_UPPER") for n, e, s in needed)
        if self.auto_pad == "VALID":
            return ((0, 0),) * rank
        return tuple(zip(self.pads[:rank], self.pads[rank:], strict=True))

    def counts(self, spatial: Sequence[int], pads: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Number of window positions along each axis."""
        out = []
        for n, (begin, end), extent, stride in zip(spatial, pads, self.extents(), self.strides, strict=True):
            span = n + begin + end - extent
            count = (-(-span // stride) if self.ceil else span // stride) + 1
            # A window has to start inside the input or the padding before it.
            if self.ceil and (count - 1) * stride >= n + begin:
                count -= 1
            out.append(count)
        return tuple(out)

    def covering_pads(self, spatial: Sequence[int], pads: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Pads after which the windows fit exactly: the end grows (ceil mode) or is cut off."""
        fitted = []
        counts = self.counts(spatial, pads)
        for n, (begin, _), e, s, count in zip(spatial, pads, self.extents(), self.strides, counts, strict=True):
            fitted.append((begin, (count - 1) * s + e - n - begin))
        return tuple(fitted)


def same_pads(size: int, extent: int, stride: int, *, upper: bool) -> tuple[int, int]:
    """Padding that gives ``ceil(size / stride)`` positions; the odd one goes to the end when ``upper``."""
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def read_window(node: Node) -> Window:
    """The window attributes of a Conv or pooling node."""
    return Window(
        tuple(node.attr("kernel_shape", ())),
        tuple(node.attr("strides", ())),
        tuple(node.attr("dilations", ())),
        tuple(node.attr("pads", ())),
        node.attr("auto_pad", "NOTSET"),
        bool(node.attr("ceil_mode", 0)),
    )


def pad_spatial(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad (or, where negative, crop) the trailing axes of x."""
    if not any(begin or end for begin, end in pads):
        return x
    flat = [amount for pair in reversed(pads) for amount in pair]
    return functional.pad(x, flat, value=value)


def window_sums(x: Tensor, window: Window) -> Tensor:
    """Sums over the windows of an input they fit exactly; any rank, dilated or not."""
    rank = len(window.kernel)
    for axis, (extent, stride, step) in enumerate(zip(window.extents(), window.strides, window.dilations, strict=True)):
        x = x.unfold(x.dim() - rank + axis, extent, stride)[..., ::step].sum(dim=-1)
    return x if x.is_floating_point() else x.to(torch.int64)
