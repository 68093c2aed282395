"""Sums over random masks and the scores under them, from which a map and its standard error follow.

Sums only: they take memory of a few maps, however many masks pass by, and two of them can be added.
"""

from __future__ import annotations

import numpy as np

__all__ = ["MaskMoments"]


class MaskMoments:
    """Sums of ``f^a M^b`` for a in 0..2 and b in 0..2, over masks M and scores f, in float64.

    Args:
        grid: height and width of a mask.
        targets: how many scores T each mask has.
        keep: expected value of a mask at every pixel.
    """

    def __init__(self, grid: tuple[int, int], targets: int, keep: float) -> None:
        self.grid, self.targets, self.keep = grid, targets, keep
        self.count = 0
        self._scores = np.zeros((2, targets))
        places = grid[0] * grid[1]
        self._first = np.zeros((1 + 2 * targets, places))  # sums of M, f M, f^2 M
        self._second = np.zeros((1 + 2 * targets, places))  # sums of M^2, f M^2, f^2 M^2

    def add(self, masks: np.ndarray, scores: np.ndarray) -> None:
        """Take in masks ``(N, H, W)`` and their scores ``(N, T)``."""
        f = scores.astype(np.float64)
        weights = np.concatenate([np.ones((len(f), 1)), f, f**2], axis=1).T
        flat = masks.reshape(len(masks), -1).astype(np.float64)
        self._first += weights @ flat
        np.square(flat, out=flat)
        self._second += weights @ flat
        self._scores += np.stack([f.sum(axis=0), (f**2).sum(axis=0)])
        self.count += len(f)

    @property
    def mean_score(self) -> np.ndarray:
        """Mean of each score over all masks, ``(T,)``."""
        return np.asarray(self._scores[0] / self.count)

    def maps(self, center: bool) -> np.ndarray:
        """The estimate for each score, ``(T, H, W)`` float64.

        Args:
            center: the covariance of score and mask over ``keep``; else the mean of their product over ``keep``.
        """
        products = self._first[1 : 1 + self.targets]
        if center:
            shared = self.mean_score[:, None] * self._first[:1]
            return self._shaped((products - shared) / (self.keep * max(1, self.count - 1)))
        return self._shaped(products / (self.keep * self.count))

    def standard_error(self, center: bool) -> np.ndarray:
        """Standard error of :meth:`maps` at each pixel, ``(T, H, W)`` float64; infinite for less than 2 masks."""
        if self.count < 2:
            return np.full((self.targets, *self.grid), np.inf)
        n, t = self.count, self.targets
        if not center:
            scatter = self._second[1 + t :] - self._first[1 : 1 + t] ** 2 / n
            return self._error(scatter)
        m = self._first[:1] / n
        f = self.mean_score[:, None]
        # Sums of (f - mean f)^2 M^b for b = 2, 1, 0, then of (f - mean f)^2 (M - mean M)^2.
        two = self._second[1 + t :] - 2 * f * self._second[1 : 1 + t] + f**2 * self._second[:1]
        one = self._first[1 + t :] - 2 * f * self._first[1 : 1 + t] + f**2 * self._first[:1]
        zero = (self._scores[1] - self._scores[0] ** 2 / n)[:, None]
        squares = two - 2 * m * one + m**2 * zero
        covariance = (self._first[1 : 1 + t] - f * self._first[:1]) / n
        return self._error(squares - n * covariance**2)

    def _error(self, scatter: np.ndarray) -> np.ndarray:
        variance = np.maximum(scatter, 0.0) / (self.count - 1) / self.count
        return self._shaped(np.sqrt(variance) / self.keep)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(self.targets, *self.grid)
