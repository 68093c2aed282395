"""Metrics of the map alone and of the map and the object, rank correlation, structural similarity, intervals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hand_models import SIDE, linear_model, with_map

from onnxvis.audit.metrics import agreement, get_metric, measure, metric_names, summarize
from onnxvis.audit.metrics.localization import box_iou
from onnxvis.audit.metrics.shape import entropy, gini
from onnxvis.audit.metrics.similarity import rank_correlation, ranks, ssim
from onnxvis.audit.metrics.summary import wilson
from onnxvis.audit.metrics.where import as_mask
from onnxvis.errors import UsageError
from onnxvis.preprocessing import Geometry

MODEL = linear_model(np.ones((1, SIDE, SIDE)) / SIDE**2)
ONES = np.ones((1, 1, SIDE, SIDE), np.float32)
WHERE = ("pointing-game", "energy-pointing-game", "localization-iou")


def slow_gini(values: np.ndarray) -> float:
    """Mean absolute difference of all pairs over twice the mean: the definition that the ranks shorten."""
    flat = np.abs(values.reshape(-1)).astype(np.float64)
    pairs = sum(abs(a - b) for a in flat for b in flat)
    return float(pairs / (2 * flat.size**2 * flat.mean()))


def slow_ranks(values: np.ndarray) -> list[float]:
    return [float((values < v).sum() + ((values == v).sum() + 1) / 2) for v in values]


def measured(heat: np.ndarray, *metrics: str, box: Any = None) -> dict[str, Any]:
    masks = None if box is None else [np.asarray(box)]
    return measure(MODEL, [with_map(MODEL, ONES, heat)], metrics, masks=masks)[0]


# --- the map alone ---------------------------------------------------------------------------------


def test_gini_and_entropy_against_their_definitions() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 7))
    assert gini(values) == pytest.approx(slow_gini(values), rel=1e-12)
    one = np.zeros(50)
    one[7] = -3
    assert gini(one) == pytest.approx(1 - 1 / 50)
    assert gini(np.full(9, 2.0)) == pytest.approx(0)
    assert entropy(one) == 0
    assert entropy(np.full(9, -2.0)) == pytest.approx(math.log(9))
    parts = np.abs(values) / np.abs(values).sum()
    assert entropy(values) == pytest.approx(-sum(p * math.log(p) for p in parts.reshape(-1)), rel=1e-12)


def test_metrics_of_a_map_ignore_its_scale() -> None:
    heat = np.random.default_rng(1).standard_normal((SIDE, SIDE))
    first, second = (measured(heat * f, "sparseness", "complexity") for f in (1.0, 1024.0))
    assert [m.value for m in first.values()] == pytest.approx([m.value for m in second.values()], rel=1e-5)
    assert first["sparseness"].value == pytest.approx(gini(heat.astype(np.float32)), rel=1e-6)


# --- the object ------------------------------------------------------------------------------------


def test_pointing_energy_and_overlap_by_hand() -> None:
    """Three pixels of 3, one of 1 in the box; a negative pixel counts for nothing."""
    heat = np.zeros((SIDE, SIDE))
    heat[2, 2:5], heat[6, 7], heat[0, 0] = 3, 1, -50
    found = measured(heat, *WHERE, box=[2, 2, 6, 4])
    assert found["pointing-game"].value == 1
    assert found["energy-pointing-game"].value == pytest.approx(0.9)
    assert found["localization-iou"].value == pytest.approx(
        3 / 8
    )  # the box of the map is 3 x 1, that of the object 4 x 2
    missed = measured(heat, *WHERE, box=[6, 5, 8, 8])
    assert missed["pointing-game"].value == 0
    assert missed["energy-pointing-game"].value == pytest.approx(0.1)
    assert missed["localization-iou"].value == 0


def test_a_mask_says_the_same_as_its_box() -> None:
    heat = np.random.default_rng(2).random((SIDE, SIDE))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[1:5, 3:7] = 255
    by_mask = measured(heat, *WHERE, box=mask)
    by_box = measured(heat, *WHERE, box=[3, 1, 7, 5])
    assert [m.value for m in by_mask.values()] == [m.value for m in by_box.values()]
    assert "25%" in by_mask["energy-pointing-game"].note


def test_maps_and_objects_that_cannot_be_judged() -> None:
    flat = measured(np.zeros((SIDE, SIDE)), *WHERE, box=[0, 0, 4, 4])
    assert [m.value for m in flat.values()] == [None] * 3
    unknown = measured(np.eye(SIDE), *WHERE)
    assert all(m.value is None and "where the object is" in m.note for m in unknown.values())
    for wrong in ([4, 0, 2, 4], np.zeros((3, 3)), np.zeros((SIDE, SIDE)), [0, 0, np.nan, 3]):
        with pytest.raises(UsageError):
            measured(np.eye(SIDE), "pointing-game", box=wrong)


def test_masks_of_a_cropped_and_enlarged_picture() -> None:
    """A 20 x 10 picture, its middle 10 x 10 seen at twice the size."""
    geometry = Geometry((20, 10), (20, 20), (2.0, 2.0), (-10.0, 0.0))
    mask = np.zeros((10, 20), bool)
    mask[3:6, 4:9] = True
    seen, boxes = as_mask(mask, geometry)
    assert boxes == ((4, 3, 9, 6),)
    expected = np.zeros((20, 20), bool)
    expected[6:12, 0:8] = True
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(as_mask(np.array([4, 3, 9, 6]), geometry)[0], expected)
    several, boxes = as_mask(np.array([[4, 3, 9, 6], [10, 0, 40, 2]]), geometry)
    assert boxes == ((4, 3, 9, 6), (10, 0, 20, 2)), "cut off at the picture's edge"
    expected[0:4, 10:20] = True
    np.testing.assert_array_equal(several, expected)
    with pytest.raises(UsageError, match="outside of the picture"):
        as_mask(np.array([21, 0, 30, 5]), geometry)
    unseen = np.zeros((10, 20), bool)
    unseen[:, :3] = True
    assert not as_mask(unseen, geometry)[0].any()


def test_padding_is_no_evidence() -> None:
    """Letters of a map in the padding change nothing: not the peak, not the energy, not the sparseness."""
    made = with_map(MODEL, ONES, np.random.default_rng(0).random((SIDE, SIDE)))
    padded = Geometry((SIDE, 4), (SIDE, SIDE), (1.0, 1.0), (0.0, 2.0))
    values = []
    for outside in (0.0, 9.0):
        heat = made.attribution.copy()
        heat[:2], heat[6:] = outside, outside
        prepared = dataclasses.replace(made.prepared, geometry=padded)
        other = dataclasses.replace(made, attribution=heat, prepared=prepared)
        names = ["pointing-game", "energy-pointing-game", "sparseness", "complexity", "deletion"]
        found = measure(MODEL, [other], names, masks=[np.array([0, 0, 4, 4])], score="logit", steps=32)
        values.append([m.value for m in found[0].values()])
    assert values[0] == values[1]
    assert None not in values[0]


@given(st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_overlap_is_symmetric_and_bounded(numbers: list[int]) -> None:
    a, b = ([*v[:2], v[0] + v[2] + 1, v[1] + v[3] + 1] for v in (numbers[:4], numbers[4:]))
    grid = [[x0 <= x < x1 and y0 <= y < y1 for y in range(20) for x in range(20)] for x0, y0, x1, y1 in (a, b)]
    both = sum(p and q for p, q in zip(*grid, strict=True))
    either = sum(p or q for p, q in zip(*grid, strict=True))
    assert box_iou(tuple(a), tuple(b)) == pytest.approx(both / either)


# --- two maps --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=3, max_size=25), st.randoms(use_true_random=False))
def test_rank_correlation_is_pearson_of_the_slow_ranks(numbers: list[int], random: Any) -> None:
    a = np.array(numbers, float)
    b = np.array(random.sample(numbers, len(numbers)), float)
    np.testing.assert_allclose(ranks(a), slow_ranks(a))
    found = rank_correlation(a[None], b[None])
    if np.ptp(a) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(slow_ranks(a), slow_ranks(b))[0, 1], abs=1e-12)


def test_rank_correlation_looks_at_what_both_saw() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)
    b[0, 0] = np.nan
    assert rank_correlation(a, b) == pytest.approx(1)
    assert rank_correlation(a, -b) == pytest.approx(-1)


def test_structural_similarity_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    for first, second in (
        (rng.random((40, 31)), rng.random((40, 31))),
        (rng.standard_normal((25, 60)), 7 * rng.standard_normal((25, 60))),
    ):
        a, b = first / np.abs(first).max(), second / np.abs(second).max()
        expected = metrics.structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=2.0 if a.min() < 0 else 1.0
        )
        assert ssim(first, second) == pytest.approx(expected, rel=1e-9)
    assert ssim(first, 100 * first) == pytest.approx(1)
    assert math.isnan(ssim(first, np.zeros_like(first)))


def test_agreement_is_a_table_of_rank_correlations() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((SIDE, SIDE)) for _ in range(3)] + [np.zeros((SIDE, SIDE))]
    table = agreement([with_map(MODEL, ONES, m) for m in maps])
    for i in range(3):
        for j in range(3):
            assert table[i, j] == pytest.approx(rank_correlation(maps[i], maps[j]), abs=1e-6)
    assert np.isnan(table[3]).all()
    assert table.shape == (4, 4)


# --- means -----------------------------------------------------------------------------------------


def test_wilson_intervals_of_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 20) == pytest.approx((0, 0.1611252), abs=1e-6)
    assert summarize([1, 1, 0, None, 1, float("nan")]).n == 4
    assert summarize([1.0, 0.0]).method == "Wilson"


def test_a_bootstrap_interval_is_seeded_and_covers_the_mean() -> None:
    """Of 200 samples of 30 numbers, the interval holds the true mean in about 95 of 100."""
    rng = np.random.default_rng(0)
    samples = rng.exponential(1.0, (200, 30))
    found = [summarize(sample, seed=k) for k, sample in enumerate(samples)]
    inside = np.mean([f.low <= 1.0 <= f.high for f in found if f.low is not None and f.high is not None])
    assert 0.86 <= inside <= 0.97  # the percentile bootstrap of a skew distribution is a little narrow
    assert found[0] == summarize(samples[0], seed=0) != summarize(samples[0], seed=1)
    assert summarize([]).mean is None
    assert summarize([0.3]) == summarize([None, 0.3])
    assert summarize([0.3]).low is None


# --- the list --------------------------------------------------------------------------------------


def test_every_metric_is_described_and_found() -> None:
    names = metric_names()
    assert len(names) == len(set(names)) == 12
    for name in names:
        metric = get_metric(name.upper().replace("-", "_"))
        assert metric.name == name
        assert metric.summary
        assert metric.paper
        assert metric.better in ("higher", "lower", "")
        assert "measure" not in metric.to_dict()
    with pytest.raises(UsageError, match="deletion"):
        get_metric("deletions")


def test_the_quick_ones_are_the_default_and_masks_are_only_asked_for_where_given() -> None:
    made = with_map(MODEL, ONES, np.eye(SIDE))
    without = measure(MODEL, [made])[0]
    assert not set(without) & {*WHERE, "sensitivity-n", "infidelity", "max-sensitivity"}
    both = measure(MODEL, [made, made], masks=[None, np.array([0, 0, 4, 4])])
    assert [results["pointing-game"].value for results in both] == [None, 1]
