"""Pictures as sums of waves with decorrelated colors: the coordinates in which class visualization climbs.

Gradient ascent on pixels finds high frequencies, because one step moves all pixels alike. In a basis of waves whose
amplitudes fall with frequency as those of photographs do, and of color directions that are uncorrelated in
photographs, the same step makes large shapes first (Olah et al., "Feature Visualization", Distill 2017,
"Preconditioning and parameterization"). The map is linear, so its adjoint is exact::

    z  ->  z * amplitude(f)  ->  waves (Hartley transform)  ->  colors  ->  picture before the sigmoid

The waves are those of Fourier's transform in real form: the Hartley transform ``Re(F) - Im(F)`` is orthonormal,
symmetric and its own inverse, so coefficients are as many real numbers as there are pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import UsageError

__all__ = ["COLOR_COVARIANCE", "FourierBasis", "color_directions", "hartley", "wave_frequencies"]

COLOR_COVARIANCE: NDArray[np.float64] = np.array(
    [
        [0.0567, 0.0469, 0.0371],
        [0.0469, 0.0523, 0.0464],
        [0.0371, 0.0464, 0.0547],
    ]
)
"""Covariance of red, green and blue (0..1) within a photo, averaged over 100 photos of single things."""
COLOR_COVARIANCE.setflags(write=False)

Real = NDArray[np.floating[Any]]


def hartley(values: Real) -> Real:
    """The orthonormal two-dimensional Hartley transform over the last two axes; it is its own inverse.

    ``H(u, v) = sum x(i, j) cas(2 pi (u i / h + v j / w)) / sqrt(h w)`` with ``cas = cos + sin`` (Hartley 1942).

    Args:
        values: ``(..., h, w)`` float32 or float64.

    Returns:
        The same shape and type.
    """
    from scipy import fft

    found = fft.fft2(values, norm="ortho")
    return np.asarray(found.real - found.imag)


def wave_frequencies(height: int, width: int) -> NDArray[np.float64]:
    """Cycles per pixel of each wave, ``(height, width)``: 0 at the constant, at most ``sqrt(1/2)``."""
    return np.asarray(np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]))


def color_directions(channels: int) -> NDArray[np.float64]:
    """``(C, C)``: columns are the color directions of photographs, each as long as its share of the variation.

    The symmetric square root of :data:`COLOR_COVARIANCE`, its largest gain brought to 1: unit noise in comes out
    with the colors of photographs. The identity for anything but three channels.
    """
    if channels != 3:
        return np.eye(channels)
    variances, axes = np.linalg.eigh(COLOR_COVARIANCE)
    gains = np.sqrt(variances / variances.max())
    return np.asarray((axes * gains) @ axes.T)


@dataclass(frozen=True)
class FourierBasis:
    """The linear map from coefficients to a picture, both ``(N, C, height, width)``.

    Attributes:
        height: rows of the picture.
        width: columns.
        channels: 3 in the order red, green, blue, or any other number, which then are not mixed.
        decay: exponent of the amplitudes: ``1 / f ** decay``; photographs have about 1, and 0 is white.
        colors: decorrelate the colors.

    Raises:
        UsageError: a size below 1, or a decay that is negative.
    """

    height: int
    width: int
    channels: int = 3
    decay: float = 1.0
    colors: bool = True

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels) < 1:
            raise UsageError(f"a picture has at least one pixel, not {self.height} x {self.width} x {self.channels}.")
        if not self.decay >= 0:
            raise UsageError(f"the decay of the amplitudes is at least 0, not {self.decay!r}.")

    @cached_property
    def amplitude(self) -> NDArray[np.float64]:
        """``(height, width)``, above 0, its mean square 1: noise of variance 1 makes pixels of variance 1."""
        # The constant wave has no frequency; it gets that of the slowest one.
        lowest = 1.0 / max(self.height, self.width)
        found = 1.0 / np.maximum(wave_frequencies(self.height, self.width), lowest) ** self.decay
        return np.asarray(found / np.sqrt(np.mean(found**2)))

    @cached_property
    def mixing(self) -> NDArray[np.float64]:
        """``(C, C)``: what the colors are multiplied with."""
        return color_directions(self.channels) if self.colors else np.eye(self.channels)

    def to_picture(self, coefficients: Real) -> Real:
        """``A z``: coefficients to values before the sigmoid."""
        z = self._checked(coefficients)
        waves = hartley(z * self.amplitude.astype(z.dtype))
        return _mixed(self.mixing.astype(z.dtype), waves)

    def from_gradient(self, gradient: Real) -> Real:
        """``A^T g``: the gradient with respect to the picture to that with respect to the coefficients."""
        g = self._checked(gradient)
        return hartley(_mixed(self.mixing.T.astype(g.dtype), g)) * self.amplitude.astype(g.dtype)

    def from_picture(self, values: Real) -> Real:
        """``A^-1 v``: the coefficients of a picture."""
        v = self._checked(values)
        return hartley(_mixed(np.linalg.inv(self.mixing).astype(v.dtype), v)) / self.amplitude.astype(v.dtype)

    def _checked(self, values: Real) -> Real:
        array = np.asarray(values)
        if array.shape[-3:] != (self.channels, self.height, self.width):
            raise UsageError(
                f"the basis is for (..., {self.channels}, {self.height}, {self.width}), not for {array.shape}."
            )
        return array


def _mixed(matrix: Real, values: Real) -> Real:
    return np.asarray(np.einsum("ij,...jhw->...ihw", matrix, values, optimize=True))
