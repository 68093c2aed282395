"""Bilinear up-sampling of attribution maps to the size of a picture.

Two ways, equal up to float32 rounding, chosen by the amount of work alone (never by what the process did
before, so that the same call gives the same bits):

* below :data:`COMPILED_FROM` output pixels: numpy, ``out = A_y @ map @ A_x.T`` with the two small
  interpolation matrices; nothing is compiled.
* from there on (4K pictures, stacks of maps): a separable numba kernel on all CPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.errors import UsageError

__all__ = ["COMPILED_FROM", "Axis", "axis_positions", "upsample_bilinear"]

COMPILED_FROM = 1 << 22
"""Output pixels from which the numba kernel is used: half of a 4K picture, where loading it pays."""


class Axis(NamedTuple):
    """Where each output position reads: two source positions and the part of the second."""

    low: NDArray[np.int32]
    high: NDArray[np.int32]
    part: NDArray[np.float32]

    @property
    def bounds(self) -> NDArray[np.uintp]:
        """Where the two source positions change, with 0 and the number of positions at the ends.

        Unsigned, because a signed loop bound costs the compiled ramp its SIMD form.
        """
        changes = np.flatnonzero((np.diff(self.low) != 0) | (np.diff(self.high) != 0)) + 1
        return np.concatenate(([0], changes, [self.low.size])).astype(np.uintp)


def axis_positions(source: int, target: int) -> Axis:
    """Half-pixel centers, edges clamped: ``target`` positions on ``source`` samples."""
    # In whole numbers of 1 / (2 target), so that a position on a sample is exactly there.
    unit = 2 * target
    position = np.clip((2 * np.arange(target, dtype=np.int64) + 1) * source - target, 0, unit * (source - 1))
    low = (position // unit).astype(np.int32)
    part = ((position % unit) / unit).astype(np.float32)
    # A neighbor of weight zero is not read at all: its NaN must not reach this position.
    high = np.where(part > 0, np.minimum(low + 1, source - 1), low).astype(np.int32)
    return Axis(low, high, part)


def _matrix(axis: Axis, source: int) -> NDArray[np.float32]:
    matrix = np.zeros((axis.low.size, source), np.float32)
    rows = np.arange(axis.low.size)
    matrix[rows, axis.low] = 1 - axis.part
    matrix[rows, axis.high] += axis.part
    return matrix


def _gather(maps: NDArray[np.float32], ys: Axis, xs: Axis) -> NDArray[np.float32]:
    t = ys.part[:, None]
    rows = maps[:, ys.low] * (1 - t) + maps[:, ys.high] * t
    columns = rows[:, :, xs.low] * (1 - xs.part) + rows[:, :, xs.high] * xs.part
    return np.asarray(columns, np.float32)


def _compiled(maps: NDArray[np.float32], ys: Axis, xs: Axis) -> NDArray[np.float32]:
    from onnxvis.kernels._jit import for_row_blocks
    from onnxvis.kernels._upsample_compiled import upsample_rows

    out = np.empty((maps.shape[0], ys.low.size, xs.low.size), np.float32)
    columns = (*xs, xs.bounds)

    def work(start: int, stop: int) -> None:
        upsample_rows(maps, tuple(ys), columns, out, start, stop)

    for_row_blocks(work, out.shape[0] * out.shape[1])
    return out


def upsample_bilinear(map: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear interpolation with half-pixel centers and clamped edges.

    Output position ``i`` reads the source at ``(i + 0.5) * source / target - 0.5``, clamped to the map: what
    ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` computes. A smaller ``size`` is
    sampled the same way, without a smoothing filter.

    Args:
        map: (h, w) or (N, h, w), any real type and memory layout; computed in float32.
        size: (H, W) of the result, in pixels.

    Returns:
        (H, W) or (N, H, W) float32, C-contiguous. A NaN or infinity reaches exactly the positions in which
        it has a weight above zero (there the result is not finite), and no others.

    Raises:
        UsageError: the map is not 2-D or 3-D, is empty, or the size is not positive.
    """
    maps = np.asarray(map, dtype=np.float32)
    single = maps.ndim == 2
    if maps.ndim not in (2, 3) or 0 in maps.shape[-2:]:
        raise UsageError(f"A map to up-sample must be (h, w) or (N, h, w) and not empty; got {maps.shape}.")
    if len(size) != 2 or min(size) < 1:
        raise UsageError(f"The size to up-sample to must be two positive numbers (H, W); got {size!r}.")
    maps = np.ascontiguousarray(maps[None] if single else maps)
    ys, xs = (axis_positions(s, int(t)) for s, t in zip(maps.shape[1:], size, strict=True))
    if maps.shape[0] * ys.low.size * xs.low.size >= COMPILED_FROM:
        out = _compiled(maps, ys, xs)
    elif np.isfinite(maps).all():
        product = _matrix(ys, maps.shape[1]) @ maps @ _matrix(xs, maps.shape[2]).T
        out = np.asarray(product, np.float32)
    else:
        with np.errstate(invalid="ignore"):
            out = _gather(maps, ys, xs)
    return out[0] if single else out
