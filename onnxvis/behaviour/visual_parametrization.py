"""What gradient ascent moves: coefficients of waves, or pixels. Both stand for pictures ``(N, C, H, W)`` in 0..1."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.fourier import FourierBasis
from onnxvis.behaviour.visual_recipe import Recipe

__all__ = ["Parametrization", "Pixels", "Waves", "parametrization", "tv_gradient"]

Array = NDArray[np.float32]
_SOFT = 1e-3
_LEAST = 0.01


class Parametrization(Protocol):
    """Variables of a picture, and the way of a gradient and a step."""

    def start(self, rng: np.random.Generator, stronger: float = 1.0) -> Array:
        """Variables of one picture, with the recipe's noise or one ``stronger`` times as strong."""
        ...

    def picture(self, variables: Array) -> Array:
        """Variables of some pictures to the pictures."""
        ...

    def gradient(self, picture: Array, gradient: Array) -> Array:
        """D score / d picture to d score / d variables."""
        ...

    def moved(self, variables: Array, step: Array) -> Array:
        """Variables after a step uphill."""
        ...


class Waves:
    """``picture = sigmoid(basis z)``: always inside the valid range, climbed by Adam."""

    def __init__(self, basis: FourierBasis, noise: float, base: Array) -> None:
        self._basis, self._noise = basis, noise
        self._base = np.log(base / (1 - base)).astype(np.float32)[:, None, None]

    def start(self, rng: np.random.Generator, stronger: float = 1.0) -> Array:
        """Random waves."""
        shape = (self._basis.channels, self._basis.height, self._basis.width)
        return np.asarray(rng.standard_normal(shape) * (self._noise * stronger), np.float32)

    def picture(self, variables: Array) -> Array:
        """Sigmoid of the sum of waves, around the base color."""
        values = self._basis.to_picture(variables) + self._base
        return np.asarray(1 / (1 + np.exp(-values)), np.float32)

    def gradient(self, picture: Array, gradient: Array) -> Array:
        """Through the sigmoid's slope ``p (1 - p)`` and the adjoint of the basis."""
        return np.asarray(self._basis.from_gradient(gradient * picture * (1 - picture)), np.float32)

    def moved(self, variables: Array, step: Array) -> Array:
        """No bound: the sigmoid has them."""
        return variables + step


class Pixels:
    """The picture itself, clipped to 0..1."""

    def __init__(self, size: tuple[int, int], noise: float, base: Array) -> None:
        self._size, self._noise, self._base = size, noise, base[:, None, None]

    def start(self, rng: np.random.Generator, stronger: float = 1.0) -> Array:
        """The base color with noise."""
        spread = self._noise if stronger == 1.0 else max(self._noise, _LEAST) * stronger
        noise = rng.standard_normal((len(self._base), *self._size)) * spread
        return np.asarray(np.clip(self._base + noise, 0, 1), np.float32)

    def picture(self, variables: Array) -> Array:
        """As they are."""
        return variables

    def gradient(self, picture: Array, gradient: Array) -> Array:
        """As it is."""
        return gradient

    def moved(self, variables: Array, step: Array) -> Array:
        """Clipped to the valid range."""
        return np.asarray(np.clip(variables + step, 0, 1), np.float32)


def parametrization(recipe: Recipe, size: tuple[int, int], base: Array) -> Parametrization:
    """What the recipe asks for.

    Args:
        recipe: the recipe.
        size: (height, width) of the pictures.
        base: (C,) the color of the start, inside 0..1.
    """
    if recipe.parametrization == "pixel":
        return Pixels(size, recipe.start_noise, base)
    return Waves(FourierBasis(*size, len(base), recipe.decay, recipe.decorrelate), recipe.start_noise, base)


def tv_gradient(picture: Array) -> Array:
    """The gradient of the total variation ``sum sqrt(d^2 + e)`` over the differences of neighbors, ``(N, C, H, W)``.

    Rudin, Osher, Fatemi 1992, smoothed at 0 by ``e`` = 0.001.
    """
    found = np.zeros_like(picture)
    down, right = np.diff(picture, axis=-2), np.diff(picture, axis=-1)
    down = down / np.sqrt(down**2 + np.float32(_SOFT))
    right = right / np.sqrt(right**2 + np.float32(_SOFT))
    found[..., 1:, :] += down
    found[..., :-1, :] -= down
    found[..., 1:] += right
    found[..., :-1] -= right
    return found
