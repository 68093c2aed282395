"""Windows of an occlusion map, the batches of occluded pictures, and the map made of their scores.

Plain numpy slices: a window is filled and restored in place, so a batch costs the bytes of its
windows and not those of its pictures. A compiled gather was measured and is slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["OcclusionBatches", "Window", "mean_drop", "windows"]


@dataclass(frozen=True)
class Window:
    """A rectangle of the input grid, half-open: rows ``y0:y1``, columns ``x0:x1``."""

    y0: int
    y1: int
    x0: int
    x1: int


def windows(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> list[Window]:
    """All windows, row by row: every ``stride`` pixels, the last ones cut at the border.

    Along an axis of ``n`` pixels there are ``ceil((n - window) / stride) + 1`` of them, so that the last
    rows and columns are covered too.

    Args:
        size: height and width of the grid.
        window: height and width of a window; larger than the grid means the whole grid.
        stride: step between windows, at most the window (else pixels between them would have no value).
    """
    starts = [range(0, (max(-(-(n - w) // s), 0)) * s + 1, s) for n, w, s in zip(size, window, stride, strict=True)]
    height, width = size
    return [Window(y, min(y + window[0], height), x, min(x + window[1], width)) for y in starts[0] for x in starts[1]]


class OcclusionBatches:
    """Batches of one picture with a window of each copy replaced by the baseline.

    Args:
        image: one picture ``(C, H, W)``.
        baseline: what stands in the windows, ``(C, H, W)`` or anything that broadcasts to it; or a function from a
            window to its values ``(C, h, w)`` or broadcastable to them.
        batch_size: pictures at once.
        channels_last: whether the batches have the layout ``(N, H, W, C)``.

    The array that is yielded is the same buffer every time: use it before asking for the next.
    """

    def __init__(
        self,
        image: np.ndarray,
        baseline: np.ndarray | Callable[[Window], np.ndarray],
        batch_size: int,
        channels_last: bool = False,
    ) -> None:
        self._image = image
        if isinstance(baseline, np.ndarray):
            values = np.broadcast_to(baseline.astype(image.dtype), image.shape)
            self._fill: Callable[[Window], np.ndarray] = lambda w: values[:, w.y0 : w.y1, w.x0 : w.x1]
        else:
            self._fill = baseline
        copies = np.repeat(image[None], batch_size, axis=0)
        self._buffer = np.ascontiguousarray(np.moveaxis(copies, 1, -1)) if channels_last else copies
        self._view = np.moveaxis(self._buffer, -1, 1) if channels_last else self._buffer

    def __call__(self, places: Sequence[Window]) -> Iterator[np.ndarray]:
        """Yield batches for all windows in order; the last may be smaller."""
        size = len(self._buffer)
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            for row, w in enumerate(chosen):
                area = np.s_[:, w.y0 : w.y1, w.x0 : w.x1]
                self._view[row][area] = self._fill(w)
            yield self._buffer[: len(chosen)]
            for row, w in enumerate(chosen):
                area = np.s_[:, w.y0 : w.y1, w.x0 : w.x1]
                self._view[row][area] = self._image[area]


def mean_drop(size: tuple[int, int], places: Sequence[Window], drops: np.ndarray) -> np.ndarray:
    """Per pixel the mean drop over the windows that cover it.

    Each window adds its drop at four corners of a difference array; two cumulative sums turn that into
    the sum over all covering windows, in time independent of the windows' size.

    Args:
        size: height and width of the grid.
        places: the windows.
        drops: one value each, ``(P,)`` or ``(P, T)`` for several targets.

    Returns:
        ``(H, W)`` or ``(T, H, W)`` float64; NaN where no window reaches.
    """
    values = np.asarray(drops, dtype=np.float64)
    single = values.ndim == 1
    values = values[:, None] if single else values
    height, width = size
    sums = np.zeros((height + 1, width + 1, values.shape[1] + 1))
    ones = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    y0, y1, x0, x1 = (np.array([getattr(p, name) for p in places], int) for name in ("y0", "y1", "x0", "x1"))
    for rows, columns, sign in ((y0, x0, 1), (y1, x0, -1), (y0, x1, -1), (y1, x1, 1)):
        np.add.at(sums, (rows, columns), sign * ones)
    sums = sums.cumsum(axis=0).cumsum(axis=1)[:height, :width]
    counts = np.rint(sums[..., -1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, sums[..., :-1] / counts, np.nan)
    return np.asarray(means[..., 0] if single else np.moveaxis(means, -1, 0))
