"""Network Dissection: which concept a unit detects, by how well its masks cover the concept's over a data set.

Bau, Zhou, Khosla, Oliva & Torralba, "Network Dissection: Quantifying Interpretability of Deep Visual
Representations", CVPR 2017, sections 2.2 and 2.3. Over all pictures that have a label map,

    IoU(unit, concept) = sum of |mask and concept| / sum of |mask or concept|

with the unit's mask of :mod:`onnxvis.behaviour.masks`. A unit is a detector of its best concept where the IoU is above
0.04; the network's number of unique detectors is the number of different concepts so detected. Counted on the model's
input grid, so that every picture weighs the same and what was cropped away counts nowhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.behaviour.masks import Anchors
from onnxvis.errors import UsageError
from onnxvis.kernels.overlap import Overlap

__all__ = ["DETECTOR", "ConceptCount", "Detection", "Dissection", "csv_lines"]

DETECTOR = 0.04
"""IoU above which a unit counts as a detector, as in the paper."""

_AT_ONCE = 1 << 23


class ConceptCount:
    """Counts pixels in masks, in concepts and in both, over any number of pictures; counts of parts add up.

    Args:
        thresholds: ``(U,)``, one a unit.
        names: of the K concepts.
        anchors: enlarges the layer's maps.

    Attributes:
        overlap: whole-number counts over K + 1 labels, the last of which is "no concept".
        pictures: how many were counted.
    """

    def __init__(self, thresholds: ArrayLike, names: Sequence[str], anchors: Anchors) -> None:
        self.overlap = Overlap(thresholds, len(names) + 1)
        self.names = tuple(names)
        self.pictures = 0
        self._anchors = anchors

    def add(self, maps: NDArray[Any], labels: NDArray[np.int64]) -> None:
        """Take in one picture.

        Args:
            maps: ``(U, h, w)``.
            labels: ``(H, W)`` on the model's input grid: 0 to K - 1, K for no concept, -1 counts nowhere.

        Raises:
            UsageError: the shapes do not fit.
        """
        if labels.shape != self._anchors.input_size or len(maps) != self.overlap.units:
            raise UsageError(
                f"maps of {maps.shape} and labels of {labels.shape} do not fit {self.overlap.units} units on an input "
                f"of {self._anchors.input_size}."
            )
        flat = labels.reshape(-1)
        kinds = len(self.names) + 1
        step = max(1, _AT_ONCE // labels.size)
        for start in range(0, len(maps), step):
            units = slice(start, start + step)
            masks = self._anchors.masks(maps[units], self.overlap.thresholds[units])
            # A mask holds few pixels, so it is quicker to look at each than at all.
            unit, pixel = np.divmod(np.flatnonzero(masks), labels.size)
            label = flat[pixel]
            counted = label >= 0
            places = unit[counted] * kinds + label[counted]
            found = np.bincount(places, minlength=len(masks) * kinds).reshape(len(masks), kinds)
            self.overlap.both[units] += found
            self.overlap.masked[units] += found.sum(axis=1)
        self.overlap.labeled += np.bincount(flat[flat >= 0], minlength=kinds)
        self.pictures += 1

    def merge(self, other: ConceptCount) -> None:
        """Add what was counted on other pictures.

        Raises:
            UsageError: it was counted with other thresholds or concepts.
        """
        if other.names != self.names:
            raise UsageError("Only counts of the same concepts add up.")
        self.overlap.merge(other.overlap)
        self.pictures += other.pictures

    def result(self, layer: str, limit: float = DETECTOR) -> Dissection:
        """What was counted, without the label "no concept"."""
        count = len(self.names)
        return Dissection(
            layer, self.names, self.overlap.thresholds, self.overlap.both[:, :count], self.overlap.either[:, :count],
            limit,
        )  # fmt: skip


@dataclass(frozen=True)
class Detection:
    """A unit with a concept: intersection and union in pixels of the input grid, over the data set."""

    layer: str
    unit: int
    concept: str
    iou: float
    both: int
    either: int
    threshold: float


@dataclass(frozen=True, eq=False)
class Dissection:
    """How well each unit's masks cover each concept.

    Attributes:
        layer: its name.
        names: of the K concepts.
        thresholds: ``(U,)``, in units of activation.
        both: ``(U, K)`` pixels in mask and concept.
        either: ``(U, K)`` pixels in mask or concept.
        limit: IoU above which a unit is a detector.
    """

    layer: str
    names: tuple[str, ...]
    thresholds: NDArray[np.float32]
    both: NDArray[np.int64]
    either: NDArray[np.int64]
    limit: float = DETECTOR

    @functools.cached_property
    def iou(self) -> NDArray[np.float64]:
        """``(U, K)``; 0 where neither was ever seen."""
        empty = np.zeros(self.either.shape)
        return np.asarray(np.divide(self.both, self.either, out=empty, where=self.either > 0))

    @property
    def best(self) -> NDArray[np.int64]:
        """``(U,)``: the concept that each unit covers best, the first of equals."""
        return np.asarray(self.iou.argmax(axis=1))

    def detection(self, unit: int, concept: int) -> Detection:
        """One pair."""
        return Detection(
            self.layer, int(unit), self.names[concept], float(self.iou[unit, concept]), int(self.both[unit, concept]),
            int(self.either[unit, concept]), float(self.thresholds[unit]),
        )  # fmt: skip

    def ranked(self) -> list[Detection]:
        """Every unit with its best concept, the largest IoU first."""
        found = [self.detection(unit, concept) for unit, concept in enumerate(self.best)]
        return sorted(found, key=lambda d: (-d.iou, d.unit))

    def of_concept(self, concept: int, most: int = 5) -> list[Detection]:
        """The units that cover a concept best, those without any overlap left out."""
        order = np.argsort(-self.iou[:, concept], kind="stable")[:most]
        return [self.detection(unit, concept) for unit in order if self.both[unit, concept]]

    def detectors(self) -> list[Detection]:
        """Units whose best IoU is above the limit, the best first."""
        return [d for d in self.ranked() if d.iou > self.limit]

    def unique_detectors(self) -> int:
        """The number of different concepts that some unit detects."""
        return len({d.concept for d in self.detectors()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the summary, and every unit with its best concept."""
        return {
            "layer": self.layer,
            "units": len(self.thresholds),
            "concepts": list(self.names),
            "iou_limit": self.limit,
            "detectors": len(self.detectors()),
            "unique_detectors": self.unique_detectors(),
            "ranked": [
                {**vars(d), "threshold": d.threshold if math.isfinite(d.threshold) else None} for d in self.ranked()
            ],
        }


def csv_lines(results: Iterable[Dissection]) -> str:
    """All pairs that overlap at all, ranked within their layer, as CSV with a header."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "unit", "concept", "iou", "intersection", "union", "threshold", "best_of_unit"])
    for result in results:
        iou, best = result.iou, result.best
        pairs = sorted(zip(*np.nonzero(result.both), strict=True), key=lambda p: (-iou[p], p))
        for unit, concept in pairs:
            d = result.detection(unit, concept)
            row = [d.layer, d.unit, d.concept, f"{d.iou:.6f}", d.both, d.either, f"{d.threshold:.6g}"]
            writer.writerow([*row, int(best[unit] == concept)])
    return text.getvalue()
