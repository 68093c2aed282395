"""Scores in lower precision: what they are held against, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.methods.arguments import one_of
from onnxvis.methods.base import Task
from onnxvis.runtime.bfloat16 import Bfloat16, bfloat16

__all__ = ["PRECISIONS", "PrecisionCheck", "lowered", "rank_correlation"]

PRECISIONS = ("float32", "bf16")


def lowered(method: str, precision: str, task: Task) -> Bfloat16 | None:
    """What runs the network in the precision that was asked for; None for the file's own.

    Raises:
        UsageError: the file does not compute in float32, or this machine has no bfloat16.
        DependencyError: the provider that computes in bfloat16 is not installed.
    """
    one_of(method, "precision", precision, PRECISIONS)
    if precision == "float32":
        return None
    own = task.model.engine.precision
    if own != "float32":
        raise UsageError(f"precision=bf16 is for files in float32; this one computes in {own}. Leave it out.")
    return bfloat16(task.model.engine, task.x[:1])


@dataclass(frozen=True)
class PrecisionCheck:
    """Values of some perturbed pictures in bfloat16 against the same in float32.

    Attributes:
        count: how many were compared.
        largest_error: in units of the value.
        relative_error: the same relative to the largest value in float32.
        rank_correlation: Spearman's, the lowest of all targets; NaN for fewer than three values.
    """

    count: int
    largest_error: float
    relative_error: float
    rank_correlation: float

    @classmethod
    def of(cls, exact: np.ndarray, found: np.ndarray) -> PrecisionCheck:
        """Compare ``(n, T)`` values of ``n`` pictures and ``T`` targets."""
        error = float(np.abs(found - exact).max())
        scale = max(float(np.abs(exact).max()), 1e-12)
        ranks = min(rank_correlation(a, b) for a, b in zip(exact.T, found.T, strict=True))
        return cls(len(exact), error, error / scale, ranks)

    def record(self) -> dict[str, Any]:
        """For a result's parameters."""
        return {
            "positions": self.count,
            "largest_error": self.largest_error,
            "relative_error": self.relative_error,
            "rank_correlation": self.rank_correlation,
        }

    def note(self, what: str) -> str:
        """One sentence about ``what`` was compared."""
        return (
            f"{self.count} {what} were computed in float32 too: largest error of the score {self.largest_error:.1e}, "
            f"{self.relative_error:.1%} of the largest value, rank correlation {self.rank_correlation:.3f}"
        )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: the correlation of the ranks, equal values sharing the mean of theirs; NaN where it has none."""
    if len(a) < 3:
        return float("nan")
    ranks = [_ranks(values) for values in (a, b)]
    ranks = [r - r.mean() for r in ranks]
    size = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float(ranks[0] @ ranks[1]) / size if size > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse.reshape(-1)])
