"""Pillow's antialiased resize of 8-bit pictures, bit for bit and several times as fast, for who reads many of them.

Pillow filters 8-bit pictures in whole numbers, one axis after the other, with a rounding in between; the same sums over
whole rows at a time are what SIMD is for. Nothing here is used before :func:`load_kernels`, because loading numba takes
longer than resizing a few pictures; and a pair of sizes is used only when it was met :data:`PLANNED_FROM` times and its
result on noise equals Pillow's in every bit, whose order of the axes is its own affair.
"""

from __future__ import annotations

import platform
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PLANNED_FROM", "load_kernels", "resize_8bit"]

PLANNED_FROM = 8
"""Pictures of one size after which the kernel is tried on it."""

_BITS = 22  # of the weights, as in Pillow
_LARGEST = 1 << 26  # bytes of a picture
_KNOWN = 256  # pairs of sizes that are remembered
_REACH = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0}

Bytes = NDArray[np.uint8]
Key = tuple[tuple[int, ...], tuple[int, int], str]


@dataclass(frozen=True, eq=False)
class _Axis:
    """Output i is the sum of ``weights[i, t]`` times input ``first[i] + t`` for t below ``count[i]``."""

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    weights: NDArray[np.int32]

    def part(self, start: int, stop: int) -> _Axis:
        return _Axis(self.first[start:stop], self.count[start:stop], self.weights[start:stop])


@dataclass(frozen=True, eq=False)
class _Plan:
    rows: _Axis
    columns: _Axis
    columns_first: bool


_lock = threading.Lock()
_plans: dict[Key, _Plan | None] = {}
_met: dict[Key, int] = {}
_loaded = False


def load_kernels() -> None:
    """From now on :func:`resize_8bit` may answer. Costs a second or two; where numba cannot load, its error is raised.

    Does nothing on processors other than x86-64, whose compilers may round Pillow's weights in another way.
    """
    global _loaded  # noqa: PLW0603
    if platform.machine().lower() not in {"x86_64", "amd64"} or sys.byteorder != "little":
        return
    from onnxvis.kernels import _resize_compiled

    assert _resize_compiled
    _loaded = True


def resize_8bit(
    pixels: Bytes, size: tuple[int, int], window: tuple[int, int, int, int], interpolation: str
) -> Bytes | None:
    """What Pillow's ``resize`` gives inside a window, or ``None`` where Pillow is to be asked itself.

    Args:
        pixels: ``(H, W, 1 or 3)``.
        size: (height, width) of the whole result.
        window: (top, left, bottom, right) of the part that is made.
        interpolation: box, bilinear or bicubic; others are Pillow's.
    """
    if not _loaded or interpolation not in _REACH or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        return None
    if max(pixels.size, pixels.shape[2] * size[0] * size[1]) > _LARGEST:
        return None
    plan = _plan((pixels.shape, size, interpolation))
    return None if plan is None else _resized(pixels, plan, window)


def _plan(key: Key) -> _Plan | None:
    with _lock:
        if key in _plans:
            return _plans[key]
        if len(_met) >= _KNOWN:
            _met.clear()
        _met[key] = _met.get(key, 0) + 1
        if _met[key] < PLANNED_FROM or len(_plans) >= _KNOWN:
            return None
        _plans[key] = _tried(key)
        return _plans[key]


def _tried(key: Key) -> _Plan | None:
    """The plan that equals Pillow on noise, or ``None``."""
    from PIL import Image

    shape, (height, width), interpolation = key
    rows, columns = _axis(shape[0], height, interpolation), _axis(shape[1], width, interpolation)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(noise if shape[2] == 3 else noise[..., 0])
    expected = np.asarray(image.resize((width, height), Image.Resampling[interpolation.upper()]))
    expected = expected.reshape(height, width, shape[2])
    for columns_first in (True, False):
        plan = _Plan(rows, columns, columns_first)
        if np.array_equal(_resized(noise, plan, (0, 0, height, width)), expected):
            return plan
    return None


def _axis(length: int, target: int, interpolation: str) -> _Axis:
    """The weights of Pillow's ``precompute_coeffs`` and ``normalize_coeffs_8bpc``, in the same order of operations."""
    scale = length / target
    widened = max(scale, 1.0)
    reach = _REACH[interpolation] * widened
    center = (np.arange(target) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((center + reach + 0.5).astype(np.int64), length) - first
    taps = np.arange(int(count.max()))
    at = ((taps + first[:, None]) - center[:, None] + 0.5) * (1.0 / widened)
    weights = np.where(taps < count[:, None], _filter(at, interpolation), 0.0)
    total = np.zeros(target)
    for column in weights.T:  # one after the other, since the order decides the last bit
        total += column
    weights /= np.where(total == 0, 1.0, total)[:, None]
    whole = np.trunc(weights * (1 << _BITS) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    return _Axis(first, count, np.ascontiguousarray(whole))


def _filter(x: NDArray[np.float64], interpolation: str) -> NDArray[np.float64]:
    if interpolation == "box":
        return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.where(x < 1, 1 - x, 0.0)
    a = -0.5
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


# --- carrying it out ---------------------------------------------------------------------------


def _resized(pixels: Bytes, plan: _Plan, window: tuple[int, int, int, int]) -> Bytes:
    channels = pixels.shape[2]
    top, left, bottom, right = window
    rows, columns = plan.rows.part(top, bottom), plan.columns.part(left, right)
    start, stop = int(rows.first.min()), int((rows.first + rows.count).max())
    rows = _Axis(rows.first - start, rows.count, rows.weights)
    flat = pixels[start:stop].reshape(stop - start, -1)
    if plan.columns_first:
        flat = _along_rows(_along_columns(flat, columns, channels), rows)
    else:
        flat = _along_columns(_along_rows(flat, rows), columns, channels)
    return np.ascontiguousarray(flat).reshape(bottom - top, right - left, channels)


def _along_rows(flat: Bytes, axis: _Axis, group: int = 1) -> Bytes:
    from onnxvis.kernels._resize_compiled import combine_rows

    out = np.empty((group * axis.first.size, flat.shape[1]), np.uint8)
    combine_rows(flat, axis.first, axis.count, axis.weights, group, out)
    return out


def _along_columns(flat: Bytes, axis: _Axis, channels: int) -> Bytes:
    """Over the columns of ``(H, W C)``: turned around, those are rows as well."""
    return _transposed(_along_rows(_transposed(flat), axis, channels))


def _transposed(flat: Bytes) -> Bytes:
    from onnxvis.kernels._resize_compiled import transpose_words

    height, width = flat.shape
    tall, wide = -(-height // 8) * 8, -(-width // 8) * 8
    if (tall, wide) != flat.shape or not flat.flags.c_contiguous:
        padded: Any = np.empty((tall, wide), np.uint8)  # what stands in the margin is cut off again
        padded[:height, :width] = flat
        flat = padded
    out = np.empty((wide, tall), np.uint8)
    transpose_words(flat.view(np.uint64), out.view(np.uint64))
    return out[:width, :height]
