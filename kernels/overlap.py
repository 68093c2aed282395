"""How far the thresholded maps of units cover the labels of pictures: the counts behind an IoU.

Bau, Zhou, Khosla, Oliva & Torralba, "Network Dissection", CVPR 2017, section 2.3: the activation map of a unit is
bilinearly enlarged to the label map and cut at the unit's threshold, and over a whole data set

    IoU(unit, concept) = sum of |mask and label|  /  sum of |mask or label|

Only whole-number counts are kept, so that passes over parts of a data set add up exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.errors import UsageError
from onnxvis.kernels.upsample import axis_positions, upsample_bilinear

__all__ = ["COMPILED_FROM", "UNLABELED", "Overlap"]

COMPILED_FROM = 1 << 24
"""Pixels of all masks in one call from which the numba kernel is used."""
UNLABELED = -1
"""Label of pixels that count nowhere."""
_AT_ONCE = 1 << 22


class Overlap:
    """Counts of pixels in masks, in labels, and in both.

    Labels exclude each other within one label map; concepts that overlap (an object and its color) need one
    ``Overlap`` for each kind.

    Args:
        thresholds: ``(U,)``, one for each unit, in units of its activation: the mask is where the enlarged
            activation is *above* it.
        concepts: number of labels K.

    Attributes:
        both: ``(U, K)`` int64, pixels in the mask of a unit and labeled so.
        masked: ``(U,)`` int64, labeled pixels in the mask of a unit.
        labeled: ``(K,)`` int64, pixels labeled so.

    Raises:
        UsageError: no unit, no concept, or a threshold that is NaN.
    """

    def __init__(self, thresholds: ArrayLike, concepts: int) -> None:
        self.thresholds: NDArray[np.float32] = np.ascontiguousarray(thresholds, dtype=np.float32)
        if self.thresholds.ndim != 1 or not self.thresholds.size or np.isnan(self.thresholds).any() or concepts < 1:
            raise UsageError(
                f"Overlap needs one threshold for each unit, none of them NaN, and at least one concept; got shape "
                f"{self.thresholds.shape} and {concepts} concepts."
            )
        units = self.thresholds.size
        self.both: NDArray[np.int64] = np.zeros((units, concepts), np.int64)
        self.masked: NDArray[np.int64] = np.zeros(units, np.int64)
        self.labeled: NDArray[np.int64] = np.zeros(concepts, np.int64)

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.both.shape[0])

    @property
    def concepts(self) -> int:
        """Number of labels."""
        return int(self.both.shape[1])

    @property
    def either(self) -> NDArray[np.int64]:
        """``(U, K)`` pixels in the mask of a unit or labeled so."""
        return self.masked[:, None] + self.labeled[None] - self.both

    def iou(self) -> NDArray[np.float64]:
        """``(U, K)`` intersection over union; NaN where both are empty."""
        either = self.either
        return np.asarray(np.divide(self.both, either, out=np.full(either.shape, np.nan), where=either > 0))

    def add(self, activations: ArrayLike, labels: ArrayLike) -> None:
        """Take in some images.

        Args:
            activations: ``(N, U, h, w)``, computed in float32; NaN is in no mask.
            labels: ``(N, H, W)`` whole numbers, 0 to K - 1, or :data:`UNLABELED`.

        Raises:
            UsageError: the shapes do not fit, or a label is out of range.
        """
        maps = np.ascontiguousarray(activations, dtype=np.float32)
        truth = np.asarray(labels)
        if maps.ndim != 4 or truth.ndim != 3 or maps.shape[:2] != (len(truth), self.units) or 0 in truth.shape:
            raise UsageError(
                f"Overlap takes activations (N, {self.units}, h, w) and labels (N, H, W); got {maps.shape} and "
                f"{truth.shape}."
            )
        if truth.dtype.kind not in "iu" or truth.min() < UNLABELED or truth.max() >= self.concepts:
            raise UsageError(
                f"Labels must be whole numbers from 0 to {self.concepts - 1}, or {UNLABELED} for pixels that do not "
                f"count; got {truth.dtype} from {truth.min()} to {truth.max()}."
            )
        places = np.ascontiguousarray(truth, dtype=np.int64)
        self.labeled += np.bincount(places[places >= 0], minlength=self.concepts)
        compiled = self.units * places.size >= COMPILED_FROM
        for map, label in zip(maps, places, strict=True):
            (self._add_compiled if compiled else self._add)(map, label)

    def merge(self, other: Overlap) -> None:
        """Add the counts of other images.

        Raises:
            UsageError: it was counted with other thresholds or concepts.
        """
        if other.concepts != self.concepts or not np.array_equal(other.thresholds, self.thresholds):
            raise UsageError("Only overlaps of the same thresholds and concepts add up.")
        self.both += other.both
        self.masked += other.masked
        self.labeled += other.labeled

    def _add(self, maps: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        flat = labels.reshape(-1)
        counted = np.flatnonzero(flat >= 0)
        step = max(1, _AT_ONCE // labels.size)
        for start in range(0, self.units, step):
            large = upsample_bilinear(maps[start : start + step], labels.shape)
            over = large.reshape(len(large), -1)[:, counted] > self.thresholds[start : start + step, None]
            for row, mask in enumerate(over, start):
                found = np.bincount(flat[counted[mask]], minlength=self.concepts)
                self.both[row] += found
                self.masked[row] += found.sum()

    def _add_compiled(self, maps: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        from onnxvis.kernels._jit import for_row_blocks
        from onnxvis.kernels._overlap_compiled import count_over

        ys, xs = (axis_positions(s, t) for s, t in zip(maps.shape[1:], labels.shape, strict=True))
        columns = (*xs, xs.bounds)

        def work(start: int, stop: int) -> None:
            count_over(maps, tuple(ys), columns, self.thresholds, labels, self.both, self.masked, start, stop)

        for_row_blocks(work, self.units)
