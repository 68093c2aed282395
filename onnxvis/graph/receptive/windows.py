"""Windows of the operators that move along the image: convolution, pooling, padding, slicing, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from onnxvis.graph.receptive.field import Positions, Window

__all__ = [
    "Kernel",
    "conv_window",
    "merge_window",
    "pad_window",
    "pick_window",
    "resize_window",
    "split_window",
    "transposed_window",
    "whole_window",
]


class Kernel(NamedTuple):
    """A sliding window along one axis; ``pad`` is what stands before the axis."""

    size: int
    stride: int
    dilation: int
    pad: int = 0

    @property
    def reach(self) -> int:
        """From the first tap to the last."""
        return (self.size - 1) * self.dilation

    def padded(self, pads: Sequence[int] | None, axis: int, auto_pad: str, extent: tuple[int, int]) -> Kernel:
        """The same kernel with the padding a forward convolution really gets.

        Args:
            pads: the node's ``pads``, if it has them.
            axis: which of the spatial axes this is.
            auto_pad: the node's ``auto_pad``; it wins over ``pads``.
            extent: positions before and after.
        """
        if auto_pad in ("NOTSET", ""):
            return self._replace(pad=pads[axis] if pads is not None else 0)
        if not auto_pad.startswith("SAME"):
            return self._replace(pad=0)
        total = max((extent[1] - 1) * self.stride + self.reach + 1 - extent[0], 0)
        return self._replace(pad=total // 2 if auto_pad == "SAME_UPPER" else total - total // 2)


def conv_window(n_in: int, n_out: int, kernel: Kernel) -> Window:
    """Convolution and pooling."""
    taps = np.arange(kernel.size, dtype=np.int64) * kernel.dilation - kernel.pad
    reads = _inside(np.arange(n_out, dtype=np.int64)[:, None] * kernel.stride + taps, n_in)
    return Window(Fraction(kernel.stride), Fraction(-kernel.pad), Fraction(kernel.reach - kernel.pad), reads)


def transposed_window(n_in: int, n_out: int, kernel: Kernel) -> Window:
    """Transposed convolution: output ``u`` reads every ``i`` with ``u = i * stride - pad + t * dilation``."""
    taps = np.arange(kernel.size, dtype=np.int64) * kernel.dilation - kernel.pad
    index, rest = np.divmod(np.arange(n_out, dtype=np.int64)[:, None] - taps, kernel.stride)
    return Window(
        Fraction(1, kernel.stride),
        Fraction(kernel.pad - kernel.reach, kernel.stride),
        Fraction(kernel.pad, kernel.stride),
        _inside(np.where(rest == 0, index, -1), n_in),
        exact=kernel.stride == 1,
    )


def _inside(index: Positions, n_in: int) -> Positions:
    """Positions of the axis; what lies outside is marked as padding."""
    return np.where((index >= 0) & (index < n_in), index, -1)


def whole_window(n_in: int) -> Window:
    """Pooling over the whole axis."""
    return Window(Fraction(n_in), Fraction(0), Fraction(n_in - 1), np.arange(n_in, dtype=np.int64)[None])


def pad_window(n_in: int, n_out: int, before: int, mode: str) -> Window:
    """``Pad`` in any mode; outside a constant border nothing is read."""
    index = np.arange(n_out, dtype=np.int64) - before
    if mode == "edge":
        index = np.clip(index, 0, n_in - 1)
    elif mode == "reflect" and n_in > 1:
        index = np.abs((index + n_in - 1) % (2 * n_in - 2) - (n_in - 1))
    elif mode == "wrap":
        index = index % n_in
    shift = Fraction(-before)
    return Window(Fraction(1), shift, shift, _inside(index, n_in)[:, None], exact=mode == "constant")


def pick_window(indices: Positions, step: int | None = None) -> Window:
    """Slice and Gather: output ``u`` reads position ``indices[u]``; ``step`` is the slice's."""
    if step is None:
        steps = set(np.diff(indices).tolist())
        if len(steps) != 1:
            return Window.fit(Fraction(1), indices[:, None])
        step = steps.pop()
    first = Fraction(int(indices[0]) if len(indices) else 0)
    return Window(Fraction(step), first, first, indices[:, None])


def split_window(n_in: int, block: int) -> Window:
    """Space to depth: output ``u`` reads the block that begins at ``u * block``."""
    reads = np.arange(n_in // block * block, dtype=np.int64).reshape(-1, block)
    return Window(Fraction(block), Fraction(0), Fraction(block - 1), reads)


def merge_window(n_out: int, block: int) -> Window:
    """Depth to space: ``block`` neighboring outputs read the same position."""
    return Window.fit(Fraction(1, block), np.arange(n_out, dtype=np.int64)[:, None] // block)


def resize_window(n_in: int, n_out: int, scale: float | None, attrs: dict[str, Any]) -> Window:
    """``Resize``/``Upsample``: nearest, linear and cubic in every coordinate mode, with or without antialias.

    Args:
        n_in: positions before.
        n_out: positions after.
        scale: the factor the file gives, where it gives one; else ``n_out / n_in``.
        attrs: the node's attributes.
    """
    factor = scale if scale else n_out / n_in
    x = _source_positions(n_in, n_out, factor, attrs)
    if x is None:
        everything = np.tile(np.arange(n_in, dtype=np.int64), (n_out, 1))
        return Window.fit(Fraction(n_in, n_out), everything)
    # Float noise must not turn a position on the grid into one beside it.
    x = np.round(x, 6)
    mode = attrs.get("mode", "nearest")
    widen = max(1.0, 1.0 / factor) if attrs.get("antialias", 0) else 1.0
    if mode == "nearest":
        first = last = _nearest(x, attrs.get("nearest_mode", "round_prefer_floor"))
    elif widen > 1.0:
        radius = widen * (2 if mode == "cubic" else 1)
        first, last = np.ceil(x - radius), np.floor(x + radius)
    else:
        # At a position on the grid the neighbors have weight zero.
        extra = np.where(x % 1 > 0, 1, 0) if mode == "cubic" else 0
        first, last = np.floor(x) - extra, np.ceil(x) + extra
    width = np.arange(int((last - first).max()) + 1)
    reads = np.minimum(first[:, None] + width, last[:, None])
    return Window.fit(Fraction(n_in, n_out), np.clip(reads, 0, n_in - 1).astype(np.int64))


def _source_positions(n_in: int, n_out: int, factor: float, attrs: dict[str, Any]) -> np.ndarray[Any, Any] | None:
    """Where each output position lies on the input axis; None for crops computed at run time."""
    u = np.arange(n_out, dtype=np.float64)
    mode = attrs.get("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_crop_and_resize":
        return None
    if mode == "asymmetric":
        return u / factor
    if mode == "align_corners":
        return u * (n_in - 1) / (n_out - 1) if n_out > 1 else u * 0
    if mode == "pytorch_half_pixel" and n_out == 1:
        return u * 0
    if mode == "tf_half_pixel_for_nn":
        return (u + 0.5) / factor
    centered = (u + 0.5) / factor - 0.5
    if mode == "half_pixel_symmetric":
        ideal = factor * n_in
        return centered + (n_in / 2) * (1 - math.floor(ideal) / ideal)
    return centered


def _nearest(x: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
    rounded: np.ndarray[Any, Any]
    if mode == "floor":
        rounded = np.floor(x)
    elif mode == "ceil":
        rounded = np.ceil(x)
    elif mode == "round_prefer_ceil":
        rounded = np.floor(x + 0.5)
    else:
        rounded = np.ceil(x - 0.5)
    return rounded
