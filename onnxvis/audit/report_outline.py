"""The outline of an object as a path to draw: around boxes, or along the border of a mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

__all__ = ["outline_of_boxes", "outline_of_mask"]

_SIDE = 160


def outline_of_boxes(boxes: Iterable[tuple[float, float, float, float]]) -> str:
    """Rectangles in SVG notation, in the units of the boxes."""
    return "".join(f"M{x0:.7g} {y0:.7g}H{x1:.7g}V{y1:.7g}H{x0:.7g}Z" for x0, y0, x1, y1 in boxes)


def outline_of_mask(mask: np.ndarray) -> str:
    """The border between true and false of ``(H, W)`` bool in SVG notation, in pixels; of a large mask made coarser.

    A pixel of the coarser mask is true where at least half of what it stands for is.
    """
    factor = max(1, -(-max(mask.shape) // _SIDE))
    height, width = mask.shape
    rows, columns = (np.arange(0, n, factor) for n in mask.shape)
    counts = np.add.reduceat(np.add.reduceat(mask.astype(np.int64), rows, axis=0), columns, axis=1)
    sizes = np.outer(np.minimum(factor, height - rows), np.minimum(factor, width - columns))
    seen = np.pad(2 * counts >= sizes, 1)
    if not seen.any():  # objects thinner than half a coarse pixel
        seen = np.pad(counts > 0, 1)
    edges_y, edges_x = np.append(rows, height), np.append(columns, width)
    parts = []
    across = seen[1:, 1:-1] != seen[:-1, 1:-1]
    for row, first, last in _runs(across):
        parts.append(f"M{edges_x[first]} {edges_y[row]}H{edges_x[last]}")
    down = (seen[1:-1, 1:] != seen[1:-1, :-1]).T
    for column, first, last in _runs(down):
        parts.append(f"M{edges_x[column]} {edges_y[first]}V{edges_y[last]}")
    return "".join(parts)


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Row, beginning and end of every run of true values in a row."""
    padded = np.pad(flags.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    begins, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    for (row, first), (_, last) in zip(begins.tolist(), ends.tolist(), strict=True):
        yield row, first, last
