"""Pictures snapped to a grid by their place in the plane, so that none covers another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxvis.behaviour.thumbnails import Thumbnails
from onnxvis.errors import UsageError

__all__ = ["EXACT_UP_TO", "draw_grid", "grid_places", "grid_shape"]

EXACT_UP_TO = 2000
"""Points up to which the assignment is the optimal one."""

_LONGEST = 4096
_CELL = 64


def grid_shape(count: int, aspect: float = 1.0) -> tuple[int, int]:
    """``(rows, columns)`` with room for ``count`` and width / height near ``aspect``."""
    columns = max(1, math.ceil(math.sqrt(count * aspect)))
    return math.ceil(count / columns), columns


def grid_places(points: NDArray[np.float64], shape: tuple[int, int]) -> tuple[NDArray[np.int64], str]:
    """One cell for each point, no cell twice.

    Up to :data:`EXACT_UP_TO` points: the assignment with the least sum of squared distances between points and
    cells (the linear assignment problem, solved exactly by scipy), both scaled to the unit square. Beyond: points are
    cut into columns by x and sorted by y within each, which is near to it and takes no time.

    Args:
        points: ``(N, 2)``, x to the right, y downwards.
        shape: ``(rows, columns)``, with at least N cells.

    Returns:
        ``(N,)`` cell numbers, row by row, and a sentence on how they were found.

    Raises:
        UsageError: the grid has too few cells.
    """
    rows, columns = shape
    count = len(points)
    if rows * columns < count or count == 0:
        raise UsageError(f"a grid of {rows} x {columns} cells does not hold {count} pictures.")
    spans = np.ptp(points, axis=0)
    unit = (points - points.min(axis=0)) / np.where(spans > 0, spans, 1)
    if count <= EXACT_UP_TO:
        return _assigned(unit, rows, columns), "cells by optimal linear assignment"
    return _sorted(unit, rows, columns), "cells by cutting into columns and sorting: too many points to assign exactly"


def _assigned(unit: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.int64]:
    from scipy.optimize import linear_sum_assignment

    cells = np.arange(rows * columns)
    centers = np.stack([(cells % columns + 0.5) / columns, (cells // columns + 0.5) / rows], axis=1)
    cost = np.square(unit[:, None] - centers[None]).sum(axis=2)
    _, chosen = linear_sum_assignment(cost)
    return np.asarray(chosen, np.int64)


def _sorted(unit: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.int64]:
    order = np.lexsort((unit[:, 1], unit[:, 0]))
    places = np.empty(len(unit), np.int64)
    for column, part in enumerate(np.array_split(order, columns)):
        down = part[np.lexsort((unit[part, 0], unit[part, 1]))]
        # A column that is not full leaves its gaps spread over its height.
        row = np.floor((np.arange(len(down)) + 0.5) * rows / max(1, len(down))).astype(np.int64)
        places[down] = row * columns + column
    return places


def draw_grid(thumbnails: Thumbnails, places: NDArray[np.int64], shape: tuple[int, int]) -> Image.Image:
    """The grid as one picture of at most 4096 pixels a side; empty cells stay white.

    Args:
        thumbnails: ``N`` of them.
        places: ``(N,)`` from :func:`grid_places`.
        shape: ``(rows, columns)``.
    """
    rows, columns = shape
    cell = max(1, min(_CELL, thumbnails.side, _LONGEST // max(shape)))
    canvas = Image.new("RGB", (columns * cell, rows * cell), "white")
    for k, place in enumerate(places):
        tile = Image.fromarray(np.asarray(thumbnails.pixels[k]))
        if cell != thumbnails.side:
            tile = tile.resize((cell, cell), Image.Resampling.BOX)
        canvas.paste(tile, (int(place) % columns * cell, int(place) // columns * cell))
    return canvas
