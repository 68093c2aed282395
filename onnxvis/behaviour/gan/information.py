"""How much a thresholded unit tells of a concept: exact counts, and the quantities made of them.

Bau et al., ICLR 2019, equation 2: a unit is cut at the threshold that maximizes the information quality ratio
I(unit > t; concept) / H(unit > t, concept), and equation 1: its agreement is the intersection over union there.
Both need four numbers for each threshold: pixels above it, pixels of the concept, pixels that are both, and all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import UsageError
from onnxvis.kernels.upsample import upsample_bilinear

__all__ = ["COMPILED_FROM", "LEVELS", "JointCounts", "QuantileEdges", "information_quality", "intersection_over_union"]

LEVELS: tuple[float, ...] = (
    *np.arange(0.05, 0.951, 0.05).round(2).tolist(),
    0.96,
    0.97,
    0.98,
    0.985,
    0.99,
    0.995,
    0.998,
)
"""Quantiles of a unit's activations that are tried as its threshold."""
_KEPT = 1 << 16
_BITS = 32
_AT_ONCE = 1 << 22
COMPILED_FROM = 1 << 19
"""Units times pixels of one sample from which the numba kernel is used."""


class QuantileEdges:
    """Quantiles of each unit's activations, from an even selection of places of the samples, in bounded memory.

    Args:
        units: number of units.
        samples: how many samples will come.
    """

    def __init__(self, units: int, samples: int) -> None:
        self._each = max(1, _KEPT // max(samples, 1))
        self._units = units
        self._found: list[NDArray[np.float32]] = []

    def add(self, activations: np.ndarray) -> None:
        """Take in activations ``(N, U, h, w)``."""
        flat = activations.reshape(*activations.shape[:2], -1)
        step = -(-flat.shape[2] // self._each)
        self._found.append(np.moveaxis(flat[:, :, ::step].astype(np.float32), 1, 0).reshape(self._units, -1))

    def edges(self, levels: tuple[float, ...] = LEVELS) -> NDArray[np.float32]:
        """``(U, T)`` candidates for thresholds, rising; equal ones where a unit is often exactly 0.

        Raises:
            UsageError: a unit has no finite activation.
        """
        values = np.concatenate(self._found, axis=1)
        values = np.where(np.isfinite(values), values, np.nan)
        if np.isnan(values).all(axis=1).any():
            raise UsageError("a unit of this layer is never finite; choose another layer.")
        return np.asarray(np.nanquantile(values, levels, axis=1).T, np.float32)


class JointCounts:
    """For each unit, threshold and concept: how many pixels lie above the threshold, and how many of them are marked.

    Counts are whole numbers of pixels, so that two halves of the samples add up to the whole exactly.

    Args:
        edges: ``(U, T)`` thresholds, rising along T.
        concepts: number of concepts K.

    Attributes:
        both: ``(U, T, K)`` pixels above the threshold and marked.
        above: ``(U, T)`` pixels above the threshold: the enlarged activation is greater than it.
        marked: ``(K,)`` pixels marked.
        pixels: all pixels.
    """

    def __init__(self, edges: NDArray[np.float32], concepts: int) -> None:
        self.edges = edges
        units, levels = edges.shape
        self.both: NDArray[np.int64] = np.zeros((units, levels, concepts), np.int64)
        self.above: NDArray[np.int64] = np.zeros((units, levels), np.int64)
        self.marked: NDArray[np.int64] = np.zeros(concepts, np.int64)
        self.pixels = 0

    def add(self, activations: np.ndarray, masks: np.ndarray) -> None:
        """Take in some samples.

        Args:
            activations: ``(N, U, h, w)``; enlarged to the masks bilinearly. NaN is above no threshold.
            masks: ``(N, K, H, W) bool``.
        """
        for maps, marks in zip(activations, masks, strict=True):
            above, both = self.count(maps, marks)
            self.above += above
            self.both += both
            self.marked += marks.reshape(len(marks), -1).sum(axis=1)
            self.pixels += marks[0].size

    def count(self, maps: np.ndarray, marks: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One sample's own counts, which are not added.

        Args:
            maps: ``(U, h, w)``.
            marks: ``(K, H, W) bool``; K may be another number than that of the concepts added up here.

        Returns:
            ``(U, T)`` pixels above each threshold, and ``(U, T, K)`` those that are marked too.
        """
        units, levels = self.edges.shape
        kind, members = combinations(marks.reshape(len(marks), -1))
        above = np.empty((units, levels), np.int64)
        both = np.empty((units, levels, len(marks)), np.int64)
        by = _compiled if units * kind.size >= COMPILED_FROM else _counted
        step = max(1, _AT_ONCE // max(kind.size, (levels + 1) * len(members), 1))
        for start in range(0, units, step):
            some = slice(start, start + step)
            large = upsample_bilinear(maps[some].astype(np.float32), (marks.shape[1], marks.shape[2]))
            count = np.zeros((len(large), levels + 1, len(members)), np.int64)
            by(large.reshape(len(large), -1), self.edges[some], kind, count)
            # A value in bin b is above the thresholds 0 to b - 1.
            over = count[:, :0:-1].cumsum(axis=1)[:, ::-1]
            above[some] = over.sum(axis=2)
            both[some] = over.astype(np.float64) @ members.astype(np.float64)  # whole numbers far below 2^53: exact
        return above, both

    def merge(self, other: JointCounts) -> None:
        """Add the counts of other samples.

        Raises:
            UsageError: they were counted at other thresholds.
        """
        if not np.array_equal(self.edges, other.edges) or self.both.shape != other.both.shape:
            raise UsageError("only counts of the same thresholds and concepts add up.")
        self.both += other.both
        self.above += other.above
        self.marked += other.marked
        self.pixels += other.pixels

    def information_quality(self) -> NDArray[np.float64]:
        """``(U, T, K)``: see :func:`information_quality`."""
        return information_quality(self.both, self.above[..., None], self.marked, self.pixels)

    def best_levels(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """For each unit and concept ``(U, K)`` the level of the largest ratio, and that ratio.

        A unit that a concept switches off tells as much as one that it switches on; only thresholds above which the
        concept is more frequent than elsewhere are taken, and where there is none the ratio is 0. Of equal thresholds
        (a unit that is often exactly 0) the level is that of the last.
        """
        quality = self.information_quality()
        more = self.both * self.pixels > self.above[..., None] * self.marked
        quality = np.where(more, quality, 0.0)
        best = quality.argmax(axis=1)
        found = np.take_along_axis(quality, best[:, None], axis=1)[:, 0]
        last = (self.edges[:, None] <= self.edges[:, :, None]).sum(axis=2) - 1
        return np.take_along_axis(last, best, axis=1), found

    def iou(self) -> NDArray[np.float64]:
        """``(U, T, K)`` intersection over union; 0 where both are empty."""
        return intersection_over_union(self.both, self.above[..., None], self.marked)


def _counted(
    values: NDArray[np.float32], edges: NDArray[np.float32], kind: NDArray[np.intp], count: NDArray[np.int64]
) -> None:
    """Count values ``(U, P)`` by how many thresholds ``(U, T)`` lie below them and by kind ``(P,)``: into ``count``."""
    levels, kinds = count.shape[1:]
    for unit, row in enumerate(np.where(np.isnan(values), -np.inf, values)):
        level = np.searchsorted(edges[unit], row, side="left")
        count[unit] = np.bincount(level * kinds + kind, minlength=levels * kinds).reshape(levels, kinds)


def _compiled(
    values: NDArray[np.float32], edges: NDArray[np.float32], kind: NDArray[np.intp], count: NDArray[np.int64]
) -> None:
    """The same, compiled; whole numbers, so the answers are equal."""
    from onnxvis.behaviour.gan._count_compiled import count_levels
    from onnxvis.kernels._jit import for_row_blocks

    for_row_blocks(lambda start, stop: count_levels(values, edges, kind, count, start, stop), len(values))


def combinations(marks: np.ndarray) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Which concepts hold together at each pixel.

    Args:
        marks: ``(K, P) bool``.

    Returns:
        The number of each pixel's combination ``(P,)``, and what belongs to each combination ``(C, K) bool``.
    """
    number = np.zeros(marks.shape[1], np.int64)
    for start in range(0, len(marks), _BITS):
        block = marks[start : start + _BITS]
        key = (1 << np.arange(len(block), dtype=np.int64)) @ block.astype(np.int64)
        _, number = np.unique((number << _BITS) | key, return_inverse=True)
    first = np.unique(number, return_index=True)[1]
    return number.astype(np.intp), marks[:, first].T.copy()


def information_quality(both: np.ndarray, above: np.ndarray, marked: np.ndarray, pixels: int) -> NDArray[np.float64]:
    """I(a; b) / H(a, b) of two yes-or-no variables from their counts; 0 where nothing is left to know.

    Args:
        both: pixels where both are true.
        above: where the first is; broadcast with ``both``.
        marked: where the second is; likewise.
        pixels: all.
    """
    a, b = np.broadcast_to(above, both.shape), np.broadcast_to(marked, both.shape)
    joint = _entropy([both, a - both, b - both, pixels - a - b + both], pixels)
    own = _entropy([a, pixels - a], pixels) + _entropy([b, pixels - b], pixels)
    shared = np.maximum(own - joint, 0.0)
    return np.asarray(np.divide(shared, joint, out=np.zeros_like(joint), where=joint > 1e-12))


def _entropy(counts: list[np.ndarray], pixels: int) -> np.ndarray:
    total = np.zeros(counts[0].shape)
    for count in counts:
        p = count / max(pixels, 1)
        total -= p * np.log(np.where(p > 0, p, 1.0))
    return total


def intersection_over_union(both: np.ndarray, above: np.ndarray, marked: np.ndarray) -> NDArray[np.float64]:
    """``both / (above + marked - both)``, 0 where that is empty."""
    union = above + marked - both
    return np.asarray(np.divide(both, union, out=np.zeros(both.shape), where=union > 0))
