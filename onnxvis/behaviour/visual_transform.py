"""Random views of a picture, differentiable: shifted, turned and zoomed, one linear map each.

A picture that must excite a unit from every view cannot use single pixels for it (Mordvintsev et al., "Inceptionism",
2015; Olah et al. 2017, "Transformation robustness"). A view is a sparse matrix with the four bilinear weights of each
pixel; its transpose takes the gradient back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["View", "crop_view", "random_view"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """One linear map from pictures ``(C, H, W)`` to what is seen of them ``(C, h, w)``.

    Attributes:
        matrix: ``(h w, H W)`` sparse, its rows sum to 1.
        size: (H, W).
        grid: (h, w).
    """

    matrix: Any
    size: tuple[int, int]
    grid: tuple[int, int]

    def see(self, picture: Array) -> Array:
        """``(C, H, W)`` to ``(C, h, w)``."""
        flat = self.matrix @ picture.reshape(len(picture), -1).T
        return np.ascontiguousarray(flat.T).reshape(-1, *self.grid)

    def back(self, gradient: Array) -> Array:
        """The adjoint of :meth:`see`: ``(C, h, w)`` to ``(C, H, W)``."""
        flat = self.matrix.T @ gradient.reshape(len(gradient), -1).T
        return np.ascontiguousarray(flat.T).reshape(-1, *self.size)


def crop_view(size: tuple[int, int], window: tuple[int, int, int, int]) -> View:
    """What the model sees of a picture, unchanged."""
    top, left, bottom, right = window
    rows, columns = np.meshgrid(np.arange(top, bottom), np.arange(left, right), indexing="ij")
    return _view(rows.astype(np.float64), columns.astype(np.float64), size)


def random_view(
    rng: np.random.Generator,
    size: tuple[int, int],
    window: tuple[int, int, int, int],
    jitter: float,
    rotate: float,
    zoom: tuple[float, float],
) -> View:
    """The window, moved by up to ``jitter`` pixels, turned by up to ``rotate`` degrees, zoomed by ``zoom``.

    Positions beyond the picture see its edge.

    Args:
        rng: where the chance comes from; always four numbers are drawn.
        size: (H, W) of the picture.
        window: (top, left, bottom, right) of what the model sees.
        jitter: pixels, in each direction.
        rotate: degrees.
        zoom: smallest and largest factor; above 1 the picture looks enlarged.
    """
    top, left, bottom, right = window
    dy, dx = rng.uniform(-jitter, jitter, 2)
    angle = np.deg2rad(rng.uniform(-rotate, rotate))
    factor = np.exp(rng.uniform(np.log(zoom[0]), np.log(zoom[1])))
    if rotate == 0 and zoom == (1.0, 1.0):
        dy, dx = round(dy), round(dx)  # whole pixels: nothing is blurred
    cy, cx = (top + bottom - 1) / 2, (left + right - 1) / 2
    rows, columns = np.meshgrid(np.arange(top, bottom) - cy, np.arange(left, right) - cx, indexing="ij")
    cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
    return _view(cy + dy + cos * rows - sin * columns, cx + dx + sin * rows + cos * columns, size)


def _view(rows: NDArray[np.float64], columns: NDArray[np.float64], size: tuple[int, int]) -> View:
    """Bilinear weights at fractional positions."""
    from scipy.sparse import csr_array

    height, width = size
    y, x = np.clip(rows.ravel(), 0, height - 1), np.clip(columns.ravel(), 0, width - 1)
    y0, x0 = np.minimum(y.astype(np.int32), max(height - 2, 0)), np.minimum(x.astype(np.int32), max(width - 2, 0))
    y1, x1 = np.minimum(y0 + 1, height - 1), np.minimum(x0 + 1, width - 1)
    fy, fx = (y - y0).astype(np.float32), (x - x0).astype(np.float32)
    places = np.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], axis=1)
    weights = np.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], axis=1)
    starts = np.arange(len(y) + 1, dtype=np.int32) * 4
    matrix = csr_array((weights.ravel(), places.ravel(), starts), shape=(len(y), height * width))
    return View(matrix, size, (rows.shape[0], rows.shape[1]))
