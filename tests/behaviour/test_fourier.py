"""The waves and colors in which class visualization climbs, against their definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.behaviour.fourier import COLOR_COVARIANCE, FourierBasis, color_directions, hartley, wave_frequencies
from onnxvis.behaviour.visual_parametrization import Waves
from onnxvis.errors import UsageError

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def by_definition(values: np.ndarray) -> np.ndarray:
    """``sum x(i, j) cas(2 pi (u i / h + v j / w)) / sqrt(h w)``, one sum after the other."""
    h, w = values.shape
    found = np.zeros((h, w))
    for u in range(h):
        for v in range(w):
            angle = 2 * np.pi * (u * np.arange(h)[:, None] / h + v * np.arange(w)[None] / w)
            found[u, v] = (values * (np.cos(angle) + np.sin(angle))).sum() / np.sqrt(h * w)
    return found


@given(SIZES)
@settings(max_examples=25, deadline=None)
def test_the_transform_is_hartleys(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).standard_normal(size)
    np.testing.assert_allclose(hartley(values), by_definition(values), atol=1e-12)


@given(SIZES)
@settings(max_examples=25, deadline=None)
def test_the_waves_are_orthonormal_and_their_own_inverse(size: tuple[int, int]) -> None:
    count = size[0] * size[1]
    waves = hartley(np.eye(count).reshape(count, *size)).reshape(count, count)
    np.testing.assert_allclose(waves @ waves.T, np.eye(count), atol=1e-12)
    values = np.random.default_rng(1).standard_normal((2, 3, *size))
    np.testing.assert_allclose(hartley(hartley(values)), values, atol=1e-12)


@given(SIZES, st.sampled_from([1, 2, 3, 4]), st.floats(0, 2), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_basis_has_its_inverse_and_its_adjoint(
    size: tuple[int, int], channels: int, decay: float, colors: bool
) -> None:
    basis = FourierBasis(*size, channels, decay, colors)
    rng = np.random.default_rng(2)
    z, g = rng.standard_normal((2, 2, channels, *size))
    np.testing.assert_allclose(basis.from_picture(basis.to_picture(z)), z, rtol=1e-8, atol=1e-8)
    left, right = (basis.to_picture(z) * g).sum(), (z * basis.from_gradient(g)).sum()
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


def test_the_gradient_through_the_sigmoid_equals_finite_differences() -> None:
    basis = FourierBasis(6, 5, 3, 1.3)
    rng = np.random.default_rng(3)
    z, weights, direction = rng.standard_normal((3, 1, 3, 6, 5))

    def picture(at: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-basis.to_picture(at)))

    p = picture(z)
    gradient = basis.from_gradient(weights * p * (1 - p))
    step = 1e-6
    difference = ((picture(z + step * direction) - picture(z - step * direction)) * weights).sum() / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-7)
    waves = Waves(basis, 0.1, np.full(3, 0.5, np.float32))
    single = z.astype(np.float32)
    found = waves.gradient(waves.picture(single), weights.astype(np.float32))
    assert found.dtype == waves.picture(single).dtype == np.float32
    np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-5)


def test_amplitudes_fall_with_the_frequency_and_keep_the_variance() -> None:
    basis = FourierBasis(32, 48, 1, decay=1.3)
    frequency = wave_frequencies(32, 48)
    assert frequency.max() == pytest.approx(0.5**0.5)
    np.testing.assert_allclose(basis.amplitude[4, 0] / basis.amplitude[8, 0], 2**1.3)
    np.testing.assert_allclose(basis.amplitude[0, 3] / basis.amplitude[0, 12], 4**1.3)
    assert np.mean(basis.amplitude**2) == pytest.approx(1)
    pictures = basis.to_picture(np.random.default_rng(4).standard_normal((400, 1, 32, 48)))
    assert pictures.var() == pytest.approx(1, rel=0.1)


def test_noise_comes_out_with_the_colors_of_photographs() -> None:
    mixing = color_directions(3)
    covariance = mixing @ mixing.T
    np.testing.assert_allclose(covariance / covariance[0, 0], COLOR_COVARIANCE / COLOR_COVARIANCE[0, 0], rtol=1e-9)
    assert np.linalg.norm(mixing, 2) == pytest.approx(1)
    np.testing.assert_array_equal(color_directions(5), np.eye(5))


def test_single_precision_stays_single() -> None:
    basis = FourierBasis(8, 8)
    z = np.ones((1, 3, 8, 8), np.float32)
    assert basis.to_picture(z).dtype == basis.from_gradient(z).dtype == basis.from_picture(z).dtype == np.float32


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one pixel"):
        FourierBasis(0, 4)
    with pytest.raises(UsageError, match="decay"):
        FourierBasis(4, 4, 3, -1.0)
    with pytest.raises(UsageError, match="not for"):
        FourierBasis(4, 4).to_picture(np.zeros((1, 3, 4, 5)))
