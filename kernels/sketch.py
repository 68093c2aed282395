"""Histograms of the activations of every unit over a data set, fine enough to answer quantiles, in one pass.

Buckets grow with the value, so that a quantile has a bounded *relative* error, as in DDSketch (Masson, Rim & Lee,
"DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", VLDB 2019). Where DDSketch
takes the logarithm of a value, a bucket here is all float32 numbers that share their exponent and their first m
mantissa bits, which is a shift of the bit pattern: whole-number arithmetic, the same on every machine. With edges a < b
of a bucket and the estimate 2ab / (a + b), the relative error is at most (b - a) / (b + a) <= 1 / (2^(m+1) + 1).

Counts are whole numbers, so sketches of parts of a data set add up exactly, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.errors import UsageError

__all__ = ["COMPILED_FROM", "LARGEST", "SMALLEST", "Sketch", "mantissa_bits"]

COMPILED_FROM = 1 << 20
"""Values in one call from which the numba kernel is used, unless the caller knows of more work to come."""
SMALLEST = 2.0**-20
"""Values nearer to zero than this are counted as zero."""
LARGEST = 2.0**20
"""Values from here on are counted, but not told apart: their quantile is the largest value seen."""
_MANTISSA = 23
_MOST_BITS = 10
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def _numbers(ends: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The extremes ``(U, 2)`` of the kernel as numbers; infinities the wrong way round where there was no number."""
    low, high = (ends ^ ((ends >> np.int32(31)) & _MAGNITUDE)).view(np.float32).T
    none = ends[:, 0] > ends[:, 1]
    return np.where(none, np.float32(np.inf), low), np.where(none, np.float32(-np.inf), high)


def mantissa_bits(accuracy: float) -> int:
    """The fewest mantissa bits that keep the relative error of a quantile at or below ``accuracy``.

    Raises:
        UsageError: it is not between 1/2049 and 1/3.
    """
    for bits in range(_MOST_BITS + 1):
        if 1 / (2 ** (bits + 1) + 1) <= accuracy <= 1 / 3:
            return bits
    raise UsageError(f"The relative error of quantiles must lie between 0.0005 and 0.333, not {accuracy}.")


@dataclass
class _Side:
    """Counts of the values of one sign: ``counts[:, i]`` belongs to the bit pattern ``first + i`` (shifted)."""

    first: int
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, units: int) -> _Side:
        return cls(0, np.zeros((units, 0), np.int64))

    def cover(self, low: int, high: int, step: int) -> None:
        """Make room for the buckets ``low`` to ``high``, in whole steps so that it is seldom done."""
        size = self.counts.shape[1]
        if size and self.first <= low and high < self.first + size:
            return
        low, high = low // step * step, -(-(high + 1) // step) * step
        if size:
            low, high = min(low, self.first), max(high, self.first + size)
        counts = np.zeros((len(self.counts), high - low), np.int64)
        if size:
            counts[:, self.first - low : self.first - low + size] = self.counts
        self.first, self.counts = low, counts

    def trimmed(self) -> _Side:
        """The same without empty buckets at the ends."""
        used = np.flatnonzero(self.counts.any(axis=0))
        if not used.size:
            return _Side.empty(len(self.counts))
        return _Side(self.first + int(used[0]), np.ascontiguousarray(self.counts[:, used[0] : used[-1] + 1]))

    def add(self, other: _Side, step: int) -> None:
        size = other.counts.shape[1]
        if size:
            self.cover(other.first, other.first + size - 1, step)
            start = other.first - self.first
            self.counts[:, start : start + size] += other.counts

    def estimates(self, shift: int) -> NDArray[np.float64]:
        """The value that stands for each bucket, as a magnitude."""
        keys = np.arange(self.first, self.first + self.counts.shape[1] + 1, dtype=np.int32)
        edges = (keys << np.int32(shift)).view(np.float32).astype(np.float64)
        return np.asarray(2 * edges[:-1] * edges[1:] / (edges[:-1] + edges[1:]))


class Sketch:
    """What is needed to answer any quantile of each unit's activations within a stated relative error.

    Args:
        units: number of units U.
        accuracy: largest relative error of a quantile.

    Attributes:
        mantissa: mantissa bits that a bucket keeps.
        zero: ``(U,)`` int64, values nearer to zero than :data:`SMALLEST`.
        over: ``(U,)`` int64, values of :data:`LARGEST` and above, infinity included.
        under: ``(U,)`` int64, the same below zero.
        nan: ``(U,)`` int64, values that are not numbers; they belong to no quantile.
        low: ``(U,)`` float32, the smallest value, exactly; infinity where none was seen.
        high: ``(U,)`` float32, the largest value, exactly; minus infinity where none was seen.

    Raises:
        UsageError: no unit, or an accuracy out of range.
    """

    def __init__(self, units: int, accuracy: float = 0.01) -> None:
        if units < 1:
            raise UsageError(f"A sketch needs at least one unit, not {units}.")
        self.mantissa = mantissa_bits(accuracy)
        self.zero, self.over, self.under, self.nan = (np.zeros(units, np.int64) for _ in range(4))
        self.low: NDArray[np.float32] = np.full(units, np.inf, np.float32)
        self.high: NDArray[np.float32] = np.full(units, -np.inf, np.float32)
        self._positive, self._negative = _Side.empty(units), _Side.empty(units)

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.zero.size)

    @property
    def relative_error(self) -> float:
        """The largest relative error of a quantile whose magnitude lies between SMALLEST and LARGEST."""
        return 1.0 / ((1 << (self.mantissa + 1)) + 1)

    @property
    def count(self) -> NDArray[np.int64]:
        """``(U,)`` values seen, NaN left out."""
        sides = (side.counts.sum(axis=1) for side in (self._negative, self._positive))
        return np.asarray(self.under + self.zero + self.over + sum(sides))

    def add(self, activations: ArrayLike, *, compiled: bool | None = None) -> None:
        """Take in the activations of some images.

        Args:
            activations: ``(N, U, ...)``: images, units, places.
            compiled: whether to use the numba kernel, whose loading takes a second or two; ``None`` uses it for
                calls with many values.

        Raises:
            UsageError: the shape does not fit.
        """
        given = np.asarray(activations, dtype=np.float32)
        if given.ndim < 2 or given.shape[1] != self.units:
            raise UsageError(f"Activations must be (N, {self.units}, ...); got {given.shape}.")
        if not given.size:
            return
        values = np.ascontiguousarray(given.reshape(*given.shape[:2], -1))
        if compiled is None:
            compiled = values.size >= COMPILED_FROM
        (self._add_compiled if compiled else self._add)(values)

    def merge(self, other: Sketch) -> None:
        """Add what another one counted on other images.

        Raises:
            UsageError: it has other units or other buckets.
        """
        if (other.units, other.mantissa) != (self.units, self.mantissa):
            raise UsageError("Only sketches of the same units and the same accuracy add up.")
        for name in ("zero", "over", "under", "nan"):
            getattr(self, name)[:] += getattr(other, name)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self._positive.add(other._positive, self._step)
        self._negative.add(other._negative, self._step)

    def quantile(self, q: float) -> NDArray[np.float32]:
        """The lower q-quantile of each unit: the value of rank floor(q (n - 1)) of n, counted from 0.

        Returns:
            ``(U,)`` float32, within :attr:`relative_error`; below SMALLEST it is 0, beyond LARGEST the largest (or
            smallest) value seen, for q = 0 and 1 exact; NaN where a unit has no value.

        Raises:
            UsageError: q is not in 0..1.
        """
        if not 0 <= q <= 1:
            raise UsageError(f"A quantile is asked with a number from 0 to 1, not {q}.")
        shift = _MANTISSA - self.mantissa
        below, above = -self._negative.estimates(shift)[::-1], self._positive.estimates(shift)
        values = np.concatenate([[-np.inf], below, [0.0], above, [np.inf]])
        parts = (self.under[:, None], self._negative.counts[:, ::-1], self.zero[:, None], self._positive.counts)
        until = np.cumsum(np.concatenate([*parts, self.over[:, None]], axis=1), axis=1)
        total = until[:, -1]
        rank = np.floor(q * (total - 1)).astype(np.int64)
        found = values[(until <= rank[:, None]).sum(axis=1).clip(max=len(values) - 1)].astype(np.float32)
        found = np.clip(found, self.low, self.high)
        found = self.low if q == 0 else self.high if q == 1 else found
        return np.where(total > 0, found, np.float32(np.nan)).astype(np.float32)

    # --- plain arrays ----------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, in one form for equal contents."""
        sides = {"positive": self._positive.trimmed(), "negative": self._negative.trimmed()}
        plain = {n: getattr(self, n) for n in ("zero", "over", "under", "nan", "low", "high")}
        plain["mantissa"] = np.array(self.mantissa)
        for name, side in sides.items():
            plain |= {f"{name}_first": np.array(side.first), name: side.counts}
        return plain

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> Sketch:
        """The inverse of :meth:`state`."""
        sketch = cls(arrays["zero"].size, 1 / (2 ** (int(arrays["mantissa"]) + 1) + 1))
        for name in ("zero", "over", "under", "nan"):
            setattr(sketch, name, arrays[name].astype(np.int64))
        sketch.low, sketch.high = arrays["low"].astype(np.float32), arrays["high"].astype(np.float32)
        for name in ("positive", "negative"):
            side = _Side(int(arrays[f"{name}_first"]), arrays[name].astype(np.int64))
            setattr(sketch, f"_{name}", side)
        return sketch

    # --- counting --------------------------------------------------------------------------------

    @property
    def _step(self) -> int:
        return 1 << self.mantissa  # buckets of one exponent

    def _add(self, values: NDArray[np.float32]) -> None:
        bits = values.view(np.int32)
        size = bits & _MAGNITUDE
        negative, nan = bits < 0, size > _INFINITY
        zero, outside = size < _bits(SMALLEST), (size >= _bits(LARGEST)) & ~nan
        for name, mask in {"nan": nan, "zero": zero, "over": outside & ~negative, "under": outside & negative}.items():
            getattr(self, name)[:] += mask.sum(axis=(0, 2))
        ends = [np.where(nan, np.float32(far), values) for far in (np.inf, -np.inf)]
        self._meet(ends[0].min(axis=(0, 2)), ends[1].max(axis=(0, 2)))
        units = np.broadcast_to(np.arange(self.units)[None, :, None], bits.shape)
        for side, mask in ((self._positive, ~negative), (self._negative, negative)):
            inside = mask & ~(zero | outside | nan)
            keys = size[inside] >> np.int32(_MANTISSA - self.mantissa)
            if keys.size:
                side.cover(int(keys.min()), int(keys.max()), self._step)
                width = side.counts.shape[1]
                places = units[inside] * width + (keys - side.first)
                side.counts += np.bincount(places, minlength=side.counts.size).reshape(side.counts.shape)

    def _meet(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Extend the extremes; a negative zero becomes a plain one, so that the order does not matter."""
        self.low = np.minimum(self.low, low) + np.float32(0)
        self.high = np.maximum(self.high, high) + np.float32(0)

    def _add_compiled(self, values: NDArray[np.float32]) -> None:
        from onnxvis.kernels._jit import for_row_blocks
        from onnxvis.kernels._sketch_compiled import count, extents

        bits, shift = values.view(np.int32), _MANTISSA - self.mantissa
        limits = (np.int32(_bits(SMALLEST)), np.int32(_bits(LARGEST)))
        keys = np.empty((self.units, 4), np.int32)
        ends = np.empty((self.units, 2), np.int32)
        for_row_blocks(lambda start, stop: extents(bits, limits, keys, ends, start, stop), self.units)
        self._meet(*_numbers(ends))
        for side, column in ((self._positive, 0), (self._negative, 2)):
            low, high = int(keys[:, column].min()), int(keys[:, column + 1].max())
            if low <= high:
                side.cover(low >> shift, high >> shift, self._step)
        firsts = (self._positive.first, self._negative.first)
        sides = (self._positive.counts, self._negative.counts)
        ends_of = (self.zero, self.over, self.under, self.nan)
        for_row_blocks(lambda start, stop: count(bits, limits, shift, firsts, sides, ends_of, start, stop), self.units)
