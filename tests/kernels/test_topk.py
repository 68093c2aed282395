"""The running top k against sorting everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.errors import UsageError
from onnxvis.kernels import topk
from onnxvis.kernels.topk import TopK


def slow(values, numbers, k, one_per_image):
    """Rows of (value, image, place) for each unit, sorted by the documented order."""
    n, units, size = values.shape
    rows = []
    for unit in range(units):
        found = []
        for i in range(n):
            own = [(-values[i, unit, p], numbers[i], p) for p in range(size) if values[i, unit, p] > -np.inf]
            found += sorted(own)[:1] if one_per_image else own
        rows.append(sorted(found)[:k])
    return rows


def assert_is(found, rows):
    for unit, row in enumerate(rows):
        rest = found.k - len(row)
        np.testing.assert_array_equal(found.values[unit], [-v for v, _, _ in row] + [-np.inf] * rest)
        np.testing.assert_array_equal(found.images[unit], [i for _, i, _ in row] + [-1] * rest)
        np.testing.assert_array_equal(found.places[unit], [p for _, _, p in row] + [-1] * rest)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 9), units=st.integers(1, 4), size=st.integers(1, 7), k=st.integers(1, 12),
    levels=st.integers(1, 9), one_per_image=st.booleans(), compiled=st.booleans(), seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)  # fmt: skip
def test_equals_sorting_everything_whatever_the_batches(n, units, size, k, levels, one_per_image, compiled, seed, data):
    rng = np.random.default_rng(seed)
    values = rng.integers(-levels, levels, (n, units, size)).astype(np.float32)  # few levels: many ties
    values[rng.random(values.shape) < 0.15] = np.nan
    values[rng.random(values.shape) < 0.05] = -np.inf
    values[(values == 0) & (rng.random(values.shape) < 0.5)] = -0.0
    numbers = rng.permutation(100)[:n]
    expected = slow(values, numbers, k, one_per_image)
    ends = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "COMPILED_FROM", 0 if compiled else 1 << 60)
        found = TopK(units, k, one_per_image=one_per_image)
        parts = []
        for start, stop in zip([0, *ends], [*ends, n], strict=True):
            found.add(values[start:stop], numbers[start:stop])
            part = TopK(units, k, one_per_image=one_per_image)
            part.add(values[start:stop], numbers[start:stop])
            parts.append(part)
    assert_is(found, expected)
    merged = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
    for part in parts:
        merged.merge(part)
    assert_is(merged, expected)


def test_maps_and_plain_values():
    found = TopK(2, 2)
    found.add(np.array([[[[1, 5], [2, 0]], [[0, 0], [0, 7]]]]), [4])
    found.add(np.array([[6.0, 1.0]]), [9])
    np.testing.assert_array_equal(found.values, [[6, 5], [7, 1]])
    np.testing.assert_array_equal(found.images, [[9, 4], [4, 9]])
    np.testing.assert_array_equal(found.places, [[0, 1], [3, 0]])


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 4), width=st.integers(1, 5), columns=st.integers(5, 9), one_per_image=st.booleans(),
    compiled=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_places_of_maps_of_several_widths(height, width, columns, one_per_image, compiled, seed):
    values = np.random.default_rng(seed).integers(-3, 3, (3, 2, height, width)).astype(np.float32)
    found = TopK(2, 6, one_per_image=one_per_image)
    found.add(values, [5, 2, 7], grid=(width, columns), compiled=compiled)
    wide = np.full((3, 2, height, columns), -np.inf, np.float32)
    wide[..., :width] = values
    expected = TopK(2, 6, one_per_image=one_per_image)
    expected.add(wide, [5, 2, 7], compiled=False)
    for name in ("values", "images", "places"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_refuses():
    with pytest.raises(UsageError, match="at least one unit"):
        TopK(0, 3)
    found = TopK(3, 2)
    with pytest.raises(UsageError, match="one number for each image"):
        found.add(np.zeros((2, 3, 4)), [1])
    with pytest.raises(UsageError, match=r"\(N, 3"):
        found.add(np.zeros((2, 4)), [1, 2])
    with pytest.raises(UsageError, match="negative"):
        found.add(np.zeros((1, 3)), [-1])
    for other in (TopK(2, 2), TopK(3, 1), TopK(3, 2, one_per_image=False)):
        with pytest.raises(UsageError, match="one kind"):
            found.merge(other)
