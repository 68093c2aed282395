"""The fast resize is Pillow's in every bit, or leaves the picture to Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxvis.kernels import resize
from onnxvis.preprocessing.resample import resize_pixels

FILTERS = ("box", "bilinear", "bicubic")
side = st.integers(1, 90)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(resize, "_loaded", False)
    monkeypatch.setattr(resize, "_plans", {})
    monkeypatch.setattr(resize, "_met", {})


def by_pillow(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    small = image.resize(size[::-1], Image.Resampling[interpolation.upper()])
    return np.asarray(small).reshape(*size, pixels.shape[2])


@settings(max_examples=60, deadline=None)
@given(st.tuples(side, side), st.tuples(side, side), st.sampled_from((1, 3)), st.sampled_from(FILTERS), st.data())
def test_equals_pillow_in_every_bit(shape, size, channels, interpolation, data):
    resize.load_kernels()
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (*shape, channels), np.uint8)
    if data.draw(st.booleans()):
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)  # where bicubic overshoots
    top, left = (data.draw(st.integers(0, n - 1)) for n in size)
    bottom, right = data.draw(st.integers(top + 1, size[0])), data.draw(st.integers(left + 1, size[1]))
    for _ in range(resize.PLANNED_FROM):
        found = resize.resize_8bit(pixels, size, (top, left, bottom, right), interpolation)
    if not resize._loaded:
        pytest.skip("not used on this processor")
    assert found is not None
    np.testing.assert_array_equal(found, by_pillow(pixels, size, interpolation)[top:bottom, left:right])


def test_transpose_of_any_size():
    for shape in ((1, 1), (8, 8), (7, 65), (130, 64), (200, 333)):
        flat = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(resize._transposed(flat), flat.T)


def test_used_only_once_it_is_loaded_and_the_size_is_common():
    pixels = np.random.default_rng(1).integers(0, 256, (60, 40, 3), np.uint8)
    whole = (0, 0, 20, 30)
    for _ in range(2 * resize.PLANNED_FROM):
        assert resize.resize_8bit(pixels, (20, 30), whole, "bilinear") is None
    resize.load_kernels()
    if not resize._loaded:
        pytest.skip("not used on this processor")
    answers = [resize.resize_8bit(pixels, (20, 30), whole, "bilinear") for _ in range(resize.PLANNED_FROM + 1)]
    assert [answer is None for answer in answers] == [True] * (resize.PLANNED_FROM - 1) + [False] * 2
    for refused in ("lanczos", "hamming", "nearest"):
        assert all(resize.resize_8bit(pixels, (20, 30), whole, refused) is None for _ in range(20))


def test_a_pillow_that_rounds_otherwise_is_asked_itself(monkeypatch):
    resize.load_kernels()
    usual = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda image, *a, **k: usual(image, *a, **k).point(lambda v: v ^ 1))
    pixels = np.random.default_rng(1).integers(0, 256, (60, 40, 3), np.uint8)
    for _ in range(resize.PLANNED_FROM + 2):
        assert resize.resize_8bit(pixels, (20, 30), (0, 0, 20, 30), "bilinear") is None


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_gives_the_same_pixels_with_it_and_without(channels):
    pixels = np.random.default_rng(2).integers(0, 256, (100, 80, channels), np.uint8)
    args = ((64, 51), (2, 3, 60, 50), "bicubic")
    plain = resize_pixels(pixels, *args)
    resize.load_kernels()
    for _ in range(resize.PLANNED_FROM + 1):
        np.testing.assert_array_equal(resize_pixels(pixels, *args), plain)
    assert len(resize._plans) == resize._loaded
