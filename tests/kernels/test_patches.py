"""Patches cut from a picture, against a loop over every pixel of every box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.errors import UsageError
from onnxvis.kernels import patches
from onnxvis.kernels.patches import cut_patches

KINDS = st.sampled_from(["uint8", "float32", "float64", "int16", "bool", "complex128"])


@st.composite
def boxes(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    starts = draw(st.lists(st.tuples(st.integers(-12, 20), st.integers(-12, 20)), min_size=1, max_size=6))
    return np.array([(y, y + height, x, x + width) for y, x in starts])


def slow(picture, places, fill):
    height, width = places[0, 1] - places[0, 0], places[0, 3] - places[0, 2]
    found = np.empty((len(places), height, width, *picture.shape[2:]), picture.dtype)
    inside = np.empty((len(places), height, width), bool)
    for n, (y0, _, x0, _) in enumerate(places):
        for y in range(height):
            for x in range(width):
                within = 0 <= y0 + y < picture.shape[0] and 0 <= x0 + x < picture.shape[1]
                inside[n, y, x] = within
                found[n, y, x] = picture[y0 + y, x0 + x] if within else fill
    return found, inside


@settings(max_examples=80, deadline=None)
@given(
    places=boxes(), height=st.integers(1, 11), width=st.integers(1, 11), channels=st.sampled_from([None, 1, 3]),
    kind=KINDS, seed=st.integers(0, 2**32 - 1), compiled=st.booleans(), strided=st.booleans(),
)  # fmt: skip
def test_equals_the_slow_loop(places, height, width, channels, kind, seed, compiled, strided):
    shape = (height, width) if channels is None else (height, width, channels)
    picture = (np.random.default_rng(seed).random(shape) * 255).astype(kind)
    picture = picture[::-1, ::-1] if strided else picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "COMPILED_FROM", 0 if compiled else 1 << 60)
        found, inside = cut_patches(picture, places, 1)
    expected, seen = slow(picture, places, 1)
    assert found.dtype == picture.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(inside, seen)


def test_nan_marks_the_outside_and_the_picture_stays():
    picture = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    before = picture.copy()
    found, inside = cut_patches(picture, [[-1, 2, 3, 5]], np.nan)
    np.testing.assert_array_equal(found[0], [[np.nan, np.nan], [3, np.nan], [7, np.nan]])
    np.testing.assert_array_equal(np.isfinite(found), inside)
    np.testing.assert_array_equal(picture, before)


def test_no_boxes_no_patches():
    found, inside = cut_patches(np.zeros((3, 4, 3), np.uint8), np.zeros((0, 4), int))
    assert found.shape == (0, 0, 0, 3)
    assert inside.shape == (0, 0, 0)


@pytest.mark.parametrize(
    ("picture", "places", "fill", "message"),
    [
        (np.zeros(3), [[0, 1, 0, 1]], 0, "must be"),
        (np.zeros((0, 3)), [[0, 1, 0, 1]], 0, "not empty"),
        (np.zeros((3, 3)), [[0, 1, 0, 1], [0, 2, 0, 1]], 0, "one height and one width"),
        (np.zeros((3, 3)), [[2, 1, 0, 1]], 0, "at least 1 pixel"),
        (np.zeros((3, 3)), [[0.0, 1.0, 0.0, 1.0]], 0, "whole numbers"),
        (np.zeros((3, 3)), [0, 1, 0, 1], 0, "N, 4"),
        (np.zeros((3, 3), np.uint8), [[0, 1, 0, 1]], 300, "cannot hold"),
        (np.zeros((3, 3), np.uint8), [[0, 1, 0, 1]], np.nan, "cannot hold"),
        (np.zeros((3, 3), np.uint8), [[0, 1, 0, 1]], 0.5, "cannot hold"),
    ],
)
def test_refuses(picture, places, fill, message):
    with pytest.raises(UsageError, match=message):
        cut_patches(picture, places, fill)
