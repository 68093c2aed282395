"""Weakly supervised localization: from a map to a box, without ever having seen one in training.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 3.2: keep the
places whose value is above 20 % of the map's maximum, and take the box around the largest connected region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.preprocessing import Geometry
from onnxvis.preprocessing.geometry import Box

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation

__all__ = ["Localization", "find_boxes", "label_regions", "localize"]

DEFAULT_THRESHOLD = 0.2


@dataclass(frozen=True)
class Localization:
    """One region of a map.

    Attributes:
        box: ``(x0, y0, x1, y1)`` edges in pixels of the model's input grid.
        picture_box: the same in pixels of the original picture.
        share: part of the picture's pixels in the input grid that belong to the region.
        peak: largest value of the map in the region, in the map's units.
        threshold: part of the map's maximum from which a pixel counts.
    """

    box: Box
    picture_box: Box
    share: float
    peak: float
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {
            "input": list(self.box),
            "picture": [round(edge, 2) for edge in self.picture_box],
            "share": self.share,
            "peak": self.peak,
            "threshold": self.threshold,
        }


def localize(
    explanation: Explanation, threshold: float = DEFAULT_THRESHOLD, count: int = 1
) -> tuple[Localization, ...]:
    """Boxes around what speaks most for the target.

    Args:
        explanation: any explanation; only the positive values of its drawn map count.
        threshold: part of the map's maximum from which a pixel belongs to a region, between 0 and 1.
        count: how many regions at most, the largest first.

    Returns:
        The boxes; none where the map has no positive value.

    Raises:
        UsageError: a threshold outside of 0 to 1, or a count below 1.
    """
    return find_boxes(explanation.heat(), explanation.prepared.geometry, threshold, count)


def find_boxes(
    values: np.ndarray, geometry: Geometry, threshold: float = DEFAULT_THRESHOLD, count: int = 1
) -> tuple[Localization, ...]:
    """See :func:`localize`.

    Args:
        values: ``(H, W)`` in the input grid.
        geometry: between input grid and picture; padding around the picture never counts.
        threshold: part of the maximum.
        count: how many regions at most.
    """
    if not 0 < threshold < 1:
        raise UsageError(f"the threshold of a localization is a part of the maximum, 0 to 1, not {threshold!r}.")
    if count < 1:
        raise UsageError(f"the number of regions is at least 1, not {count!r}.")
    x0, y0, x1, y1 = geometry.content_box
    content = np.nan_to_num(values[y0:y1, x0:x1].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(content.max(initial=0.0))
    if peak <= 0:
        return ()
    labels, regions = label_regions(content > threshold * peak)
    sizes = np.bincount(labels.reshape(-1), minlength=regions + 1)[1:]
    found = []
    for region in np.argsort(-sizes, kind="stable")[:count] + 1:
        rows, columns = np.nonzero(labels == region)
        box = (
            float(columns.min() + x0), float(rows.min() + y0),
            float(columns.max() + x0 + 1), float(rows.max() + y0 + 1),
        )  # fmt: skip
        in_picture = geometry.box_to_picture(box, clip=True)
        top = float(content[labels == region].max())
        share = float(sizes[region - 1]) / content.size
        found.append(Localization(box, in_picture, share, top, threshold))
    return tuple(found)


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected regions of a mask; pixels that touch at a side or a corner belong together.

    Runs of each row are united with the runs they touch in the row above (union-find), so the work is that
    of the runs, not of the pixels.

    Args:
        mask: ``(H, W)`` bool.

    Returns:
        ``(H, W)`` int with 0 outside and 1 to ``n`` inside, in the order of the first pixels; and ``n``.
    """
    parents: list[int] = []
    runs: list[tuple[int, int, int]] = []
    above: list[int] = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], row, [False])).astype(np.int8)))
        current = []
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            run = len(runs)
            runs.append((y, int(start), int(stop)))
            parents.append(run)
            for other in above:
                if runs[other][1] <= stop and runs[other][2] >= start:
                    _unite(parents, other, run)
            current.append(run)
        above = current
    labels = np.zeros(mask.shape, np.int64)
    names: dict[int, int] = {}
    for run, (y, start, stop) in enumerate(runs):
        labels[y, start:stop] = names.setdefault(_root(parents, run), len(names) + 1)
    return labels, len(names)


def _root(parents: list[int], run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = parents[run]
    return run


def _unite(parents: list[int], first: int, second: int) -> None:
    a, b = _root(parents, first), _root(parents, second)
    parents[max(a, b)] = min(a, b)
