"""Is the converted model the deployed one? Checked on every use, stored in every result.

Two independent questions, both answered by the deployed graph in onnxruntime:

* outputs: the logits of the converted model against onnxruntime's, on this very input;
* gradient: the directional derivative ``<g, d>`` against the central difference
  ``(f(x + h d) - f(x - h d)) / 2h`` of the deployed graph, along the gradient, along the input and along
  white noise. The first alone would miss a part of the gradient that is left out (a part that is
  orthogonal to the rest); the others do not. Disagreement is relative to the derivative or, where that
  is small by chance, to the size it typically has, ``sqrt(sum (g_i d_i)^2)``. ReLU networks have kinks
  and float32 rounds, so steps are tried until one agrees, and the best agreement counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxvis.errors import ParityError

__all__ = [
    "GRADIENT_TOLERANCE",
    "OUTPUT_TOLERANCE",
    "Direction",
    "GradientCheck",
    "Parity",
    "check_gradient",
    "output_error",
    "untied",
]

OUTPUT_TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 0.1
_GOOD = 0.03
_JITTER = 0.02
_PARTS = (1e-3, 3e-3, 3e-4, 1e-4, 1e-2, 3e-5, 3e-2)  # change of the score along the gradient, relative to its magnitude
_MOVES = (3e-4, 1e-4, 1e-3, 3e-5, 3e-3)  # length of a step, relative to the input's


@dataclass(frozen=True)
class Direction:
    """One directional derivative, computed twice.

    Attributes:
        name: along what.
        analytic: ``<g, d>``.
        numeric: the central difference of the deployed graph.
        step: its step, the one that agreed best.
        error: relative disagreement.
    """

    name: str
    analytic: float
    numeric: float
    step: float
    error: float


@dataclass(frozen=True)
class GradientCheck:
    """Directional finite differences of the deployed graph against the gradient.

    Attributes:
        error: largest relative disagreement over the directions.
        directions: the directions tried.
        on: which input it was measured on.
    """

    error: float
    directions: tuple[Direction, ...]
    on: str


@dataclass(frozen=True)
class Parity:
    """How far the converted model and the deployed graph agree.

    Attributes:
        backend: who computed the gradient.
        output_error: ``max|a - b| / max|b|`` over the logits, on this input.
        output_tolerance: the largest error that passes.
        gradient: the finite-difference check, where one was made.
        gradient_tolerance: the largest relative disagreement that passes.
        note: why there is no finite-difference check, where there is none.
    """

    backend: str
    output_error: float
    output_tolerance: float = OUTPUT_TOLERANCE
    gradient: GradientCheck | None = None
    gradient_tolerance: float = GRADIENT_TOLERANCE
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check that was made is within its tolerance."""
        outputs = self.output_error <= self.output_tolerance
        return outputs and (self.gradient is None or self.gradient.error <= self.gradient_tolerance)

    def sentence(self) -> str:
        """One line for people."""
        text = f"{self.backend} vs onnxruntime: outputs {self.output_error:.1e} relative"
        if self.gradient is not None:
            text += f", gradient {self.gradient.error:.1e} by finite differences ({self.gradient.on})"
        elif self.note:
            text += f", gradient not checked ({self.note})"
        return text + ("" if self.passed else " - ABOVE TOLERANCE, UNVERIFIED")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        data: dict[str, Any] = {
            "backend": self.backend,
            "passed": self.passed,
            "output_error": self.output_error,
            "output_tolerance": self.output_tolerance,
        }
        if self.note:
            data["note"] = self.note
        if self.gradient is not None:
            data["gradient"] = {
                "error": self.gradient.error,
                "tolerance": self.gradient_tolerance,
                "measured_on": self.gradient.on,
                "directions": [asdict(direction) for direction in self.gradient.directions],
            }
        return data

    def require(self) -> None:
        """Raise unless passed.

        Raises:
            ParityError: a check is above its tolerance.
        """
        if not self.passed:
            raise ParityError(
                f"the converted model does not agree with the deployed one ({self.sentence()}; tolerances "
                f"{self.output_tolerance:g} and {self.gradient_tolerance:g}), so its gradient is not to be trusted. "
                "Use a perturbation method such as occlusion, or pass --allow-unverified (allow_unverified=True in "
                "Python) to get the map stamped as unverified."
            )


def output_error(converted: np.ndarray, deployed: np.ndarray) -> float:
    """``max|a - b| / max|b|``; infinite when a value is not finite or the shapes differ."""
    if converted.shape != deployed.shape and converted.size != deployed.size:
        return float("inf")
    a, b = converted.reshape(-1).astype(np.float64), deployed.reshape(-1).astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    scale = max(float(np.abs(b).max(initial=0.0)), 1e-12)
    return float(np.abs(a - b).max(initial=0.0)) / scale


def untied(values: np.ndarray, seed: int = 7) -> np.ndarray:
    """The values plus white noise of a fiftieth of their size, in their own type.

    Enough to break exact ties of flat pictures, little enough to stay where the picture is.
    """
    size = float(np.sqrt(np.mean(values.astype(np.float64) ** 2))) or 1.0
    noise = np.random.default_rng(seed).standard_normal(values.shape) * (_JITTER * size)
    return np.asarray((values.astype(np.float64) + noise).astype(values.dtype))


def check_gradient(
    score: Callable[[np.ndarray], np.ndarray],
    point: np.ndarray,
    gradient: np.ndarray,
    magnitude: float,
    on: str,
    seed: int = 20260,
) -> GradientCheck | None:
    """Compare a gradient with central differences of the deployed graph.

    Args:
        score: a batch of points ``(M, ...)`` to their scores ``(M,)``, by the deployed graph.
        point: where, ``(...)``.
        gradient: d score / d point, of the same shape.
        magnitude: size of the numbers that the score is made of (the largest logit): what it is rounded to.
        on: words for the record: which input this is.
        seed: of the random direction.

    Returns:
        The check, or ``None`` when the gradient is exactly zero or not finite (then there is nothing to try).
    """
    g = gradient.astype(np.float64)
    x = point.astype(np.float64)
    norm, size = float(np.linalg.norm(g)), float(np.linalg.norm(x))
    if norm == 0.0 or not np.isfinite(norm):
        return None
    along = [part * max(magnitude, 1e-30) / norm for part in _PARTS]
    moves = [part * (size or 1.0) for part in _MOVES]
    noise = np.random.default_rng(seed).standard_normal(g.shape)
    rows = [_direction("the gradient", g / norm, along, score, point, g)]
    if size > 0:
        rows.append(_direction("the input", x / size, moves, score, point, g))
    rows.append(_direction("white noise", noise / np.linalg.norm(noise), moves, score, point, g))
    return GradientCheck(max(row.error for row in rows), tuple(rows), on)


def _direction(
    name: str,
    direction: np.ndarray,
    steps: list[float],
    score: Callable[[np.ndarray], np.ndarray],
    point: np.ndarray,
    gradient: np.ndarray,
) -> Direction:
    """The best agreement along one direction, trying one step after the other until one is good."""
    terms = gradient * direction
    analytic = float(terms.sum())
    typical = float(np.sqrt((terms**2).sum()))
    best: Direction | None = None
    for step in steps:
        pair = np.stack([point + sign * step * direction for sign in (1.0, -1.0)]).astype(point.dtype)
        plus, minus = (float(v) for v in score(pair))
        numeric = (plus - minus) / (2 * step)
        error = abs(numeric - analytic) / max(abs(numeric), abs(analytic), typical, 1e-300)
        if best is None or not error >= best.error:
            best = Direction(name, analytic, numeric, step, error)
        if error <= _GOOD:
            break
    assert best is not None
    return best
