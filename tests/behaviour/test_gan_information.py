"""Counts, thresholds and the information quality ratio against slow ones written from the paper."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.behaviour.gan.dissecting import conditional_means
from onnxvis.behaviour.gan.information import (
    JointCounts,
    QuantileEdges,
    combinations,
    information_quality,
    intersection_over_union,
)
from onnxvis.errors import UsageError
from onnxvis.kernels.upsample import upsample_bilinear


def slow_quality(mask, concept):
    """I(mask; concept) / H(mask, concept) from the joint distribution, term by term."""
    total, shared, joint = mask.size, 0.0, 0.0
    for a in (False, True):
        for b in (False, True):
            p = np.count_nonzero((mask == a) & (concept == b)) / total
            if p > 0:
                pa, pb = np.count_nonzero(mask == a) / total, np.count_nonzero(concept == b) / total
                shared += p * np.log(p / (pa * pb))
                joint -= p * np.log(p)
    return shared / joint if joint > 0 else 0.0


def example(seed=0, samples=3, units=4, concepts=3):
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.standard_normal((samples, units, 4, 5)), 0).astype(np.float32)
    masks = rng.random((samples, concepts, 8, 10)) < np.linspace(0.2, 0.6, concepts)[None, :, None, None]
    masks[:, 0] |= np.stack([upsample_bilinear(m[0], (8, 10)) > 0.8 for m in maps])
    edges = np.quantile(maps, [0.1, 0.4, 0.5, 0.7, 0.9, 0.97], axis=(0, 2, 3)).T.astype(np.float32)
    return maps, masks, edges


def test_counts_ratios_and_agreement_are_those_of_every_pixel():
    maps, masks, edges = example()
    counts = JointCounts(edges, masks.shape[1])
    counts.add(maps, masks)
    large = np.stack([upsample_bilinear(m, (8, 10)) for m in maps])
    quality, iou = counts.information_quality(), counts.iou()
    for u in range(maps.shape[1]):
        for t, edge in enumerate(edges[u]):
            over = large[:, u] > edge
            assert counts.above[u, t] == over.sum()
            for k in range(masks.shape[1]):
                marked = masks[:, k]
                assert counts.both[u, t, k] == (over & marked).sum()
                assert quality[u, t, k] == pytest.approx(slow_quality(over, marked), abs=1e-12)
                assert iou[u, t, k] == (over & marked).sum() / (over | marked).sum()
    assert counts.pixels == masks[:, 0].size
    assert counts.marked.tolist() == masks.sum(axis=(0, 2, 3)).tolist()


def test_the_threshold_is_the_one_of_the_largest_ratio():
    maps, masks, edges = example()
    counts = JointCounts(edges, masks.shape[1])
    counts.add(maps, masks)
    levels, quality = counts.best_levels()
    large = np.stack([upsample_bilinear(m, (8, 10)) for m in maps])
    for u in range(maps.shape[1]):
        for k in range(masks.shape[1]):
            ratios = []
            for edge in edges[u]:
                over = large[:, u] > edge
                more = (over & masks[:, k]).sum() * over.size > over.sum() * masks[:, k].sum()
                ratios.append(slow_quality(over, masks[:, k]) if more else 0.0)
            assert quality[u, k] == pytest.approx(max(ratios), abs=1e-12)
            assert edges[u, levels[u, k]] == edges[u, int(np.argmax(ratios))]
    assert levels[0, 0] in (4, 3)
    assert quality[0, 0] > 5 * np.delete(quality[:, 0], 0).max()


def test_of_equal_thresholds_the_level_is_that_of_the_last():
    counts = JointCounts(np.array([[0.0, 0.0, 0.0, 2.0]], np.float32), 1)
    maps = np.zeros((1, 1, 2, 2), np.float32)
    maps[0, 0, 0] = 1
    counts.add(maps, maps > 0)
    assert counts.best_levels()[0].tolist() == [[2]]


def test_two_halves_add_up_to_the_whole():
    maps, masks, edges = example(samples=6)
    whole, first, second = (JointCounts(edges, 3) for _ in range(3))
    whole.add(maps, masks)
    first.add(maps[:2], masks[:2])
    second.add(maps[2:], masks[2:])
    first.merge(second)
    for name in ("both", "above", "marked", "pixels"):
        assert np.array_equal(getattr(first, name), getattr(whole, name))
    with pytest.raises(UsageError, match="same thresholds"):
        first.merge(JointCounts(edges + 1, 3))


def test_nan_is_above_no_threshold():
    maps, masks, edges = example(samples=1)
    maps[0, 0, 1, 1] = np.nan
    counts = JointCounts(edges, 3)
    counts.add(maps, masks)
    large = upsample_bilinear(maps[0], (8, 10))
    with np.errstate(invalid="ignore"):
        assert counts.above[0].tolist() == [(large[0] > e).sum() for e in edges[0]]


def test_the_compiled_counts_are_the_same(monkeypatch):
    maps, masks, edges = example(samples=2, units=7)
    maps[0, 0, 1, 1] = np.nan
    maps[1, 3, 2, 2] = np.inf
    edges[2] = np.array([0, 0, 0, 0, 1, 1], np.float32)
    counts = []
    for limit in (1, 1 << 40):
        monkeypatch.setattr("onnxvis.behaviour.gan.information.COMPILED_FROM", limit)
        monkeypatch.setattr("onnxvis.behaviour.gan.information._AT_ONCE", 3 * masks[0, 0].size)
        counts.append(JointCounts(edges, 3))
        counts[-1].add(maps, masks)
    for name in ("both", "above", "marked", "pixels"):
        assert np.array_equal(getattr(counts[0], name), getattr(counts[1], name))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 9))
def test_combinations_name_each_pixel(concepts, pixels, seed):
    marks = np.random.default_rng(seed).random((concepts, pixels)) < 0.3
    number, members = combinations(marks)
    assert np.array_equal(members[number].T, marks)
    assert len(members) == len(np.unique(marks.T, axis=0))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.data())
def test_the_ratio_is_between_0_and_1_and_1_only_for_equal_masks(pixels, data):
    both = data.draw(st.integers(0, pixels))
    above = data.draw(st.integers(both, pixels))
    marked = data.draw(st.integers(both, pixels - above + both))
    found = float(information_quality(np.array(both), np.array(above), np.array(marked), pixels))
    assert -1e-12 <= found <= 1 + 1e-12
    if both == above == marked and 0 < both < pixels:
        assert found == pytest.approx(1.0)
    union = above + marked - both
    iou = float(intersection_over_union(np.array(both), np.array(above), np.array(marked)))
    assert iou == (both / union if union else 0.0)


def test_edges_are_quantiles_and_memory_is_bounded():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((40, 3, 8, 8)).astype(np.float32)
    quantiles = QuantileEdges(3, 40)
    for start in range(0, 40, 7):
        quantiles.add(values[start : start + 7])
    expected = np.quantile(np.moveaxis(values, 1, 0).reshape(3, -1), (0.3, 0.9), axis=1).T
    np.testing.assert_allclose(quantiles.edges((0.3, 0.9)), expected, atol=1e-6)
    bounded = QuantileEdges(3, 1 << 15)
    bounded.add(values)
    assert bounded._found[0].shape == (3, 40 * 2)


def test_conditional_means_weigh_places_by_their_marked_part():
    rng = np.random.default_rng(1)
    maps = rng.standard_normal((2, 3, 4, 2))
    masks = rng.random((2, 2, 8, 6)) < 0.5
    weighted, weights = conditional_means(maps, masks)
    cells = masks.reshape(2, 2, 4, 2, 2, 3).mean(axis=(3, 5))
    np.testing.assert_allclose(weights, cells.sum(axis=(0, 2, 3)))
    np.testing.assert_allclose(weighted, np.einsum("nuhw,nkhw->uk", maps, cells))
