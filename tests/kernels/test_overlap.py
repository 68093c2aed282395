"""Pixels in masks and labels against a loop over every pixel, with the enlargement from its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.errors import UsageError
from onnxvis.kernels import overlap
from onnxvis.kernels.overlap import UNLABELED, Overlap


def enlarged(map, size):
    out = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            place = [
                min(max((i + 0.5) * s / t - 0.5, 0), s - 1) for i, s, t in zip((y, x), map.shape, size, strict=True)
            ]
            for j in range(map.shape[0]):
                for i in range(map.shape[1]):
                    out[y, x] += map[j, i] * max(0, 1 - abs(place[0] - j)) * max(0, 1 - abs(place[1] - i))
    return out


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3), units=st.integers(1, 4), small=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)), concepts=st.integers(1, 4), compiled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_equals_counting_pixel_by_pixel(n, units, small, size, concepts, compiled, seed):
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((n, units, *small)).astype(np.float32)
    labels = rng.integers(UNLABELED, concepts, (n, *size))
    thresholds = rng.standard_normal(units).astype(np.float32)
    both, masked, labeled = np.zeros((units, concepts)), np.zeros(units), np.zeros(concepts)
    near = 0
    for map, label in zip(maps, labels, strict=True):
        for value in label[label >= 0]:
            labeled[value] += 1
        for unit in range(units):
            large = enlarged(map[unit].astype(float), size)
            near += int((np.abs(large - thresholds[unit]) < 1e-5).sum())
            for y in range(size[0]):
                for x in range(size[1]):
                    if label[y, x] >= 0 and large[y, x] > thresholds[unit]:
                        masked[unit] += 1
                        both[unit, label[y, x]] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "COMPILED_FROM", 0 if compiled else 1 << 60)
        found = Overlap(thresholds, concepts)
        found.add(maps, labels)
        parts = [Overlap(thresholds, concepts) for _ in range(n)]
        for part, map, label in zip(parts, maps, labels, strict=True):
            part.add(map[None], label[None].astype(np.int16))
    for part in parts[1:]:
        parts[0].merge(part)
    for counted in (found, parts[0]):
        # A value within rounding of the threshold may fall to either side.
        assert np.abs(counted.both - both).sum() <= near
        assert np.abs(counted.masked - masked).sum() <= near
        np.testing.assert_array_equal(counted.labeled, labeled)
        np.testing.assert_array_equal(counted.either, counted.masked[:, None] + labeled - counted.both)


def test_iou_of_a_known_mask():
    maps = np.array([[[[1.0, 0.0], [0.0, 0.0]], [[np.nan, -1.0], [-1.0, -1.0]]]])
    labels = np.array([[[0, 0], [1, UNLABELED]]])
    found = Overlap([0.5, 0.0], 3)
    found.add(maps, labels)
    np.testing.assert_array_equal(found.iou(), [[0.5, 0.0, 0.0], [0.0, 0.0, np.nan]])


def test_the_mask_is_strictly_above_the_threshold():
    found = Overlap([0.0], 1)
    found.add(np.zeros((1, 1, 2, 2)), np.zeros((1, 4, 4), int))
    assert found.masked[0] == 0


@pytest.mark.parametrize(
    ("maps", "labels", "message"),
    [
        (np.zeros((1, 3, 2, 2)), np.zeros((1, 4, 4), int), r"activations \(N, 2"),
        (np.zeros((1, 2, 2, 2)), np.zeros((2, 4, 4), int), "activations"),
        (np.zeros((1, 2, 2, 2)), np.zeros((1, 4, 4)), "whole numbers"),
        (np.zeros((1, 2, 2, 2)), np.full((1, 4, 4), 3), "from 0 to 2"),
        (np.zeros((1, 2, 2, 2)), np.full((1, 4, 4), -2), "do not count"),
    ],
)
def test_refuses(maps, labels, message):
    with pytest.raises(UsageError, match=message):
        Overlap([0.0, 1.0], 3).add(maps, labels)


def test_refuses_what_does_not_add_up():
    for thresholds, concepts in (([], 3), ([np.nan], 3), ([[0.0]], 3), ([0.0], 0)):
        with pytest.raises(UsageError, match="one threshold"):
            Overlap(thresholds, concepts)
    with pytest.raises(UsageError, match="add up"):
        Overlap([0.0], 2).merge(Overlap([0.5], 2))
