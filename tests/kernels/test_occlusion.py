"""Windows, batches and mean drops against slow double loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.kernels.occlusion import OcclusionBatches, Window, mean_drop, windows


@st.composite
def geometry(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Grid, window and stride; the window may be larger than the grid, the stride is at most the window."""
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    window = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    stride = (draw(st.integers(1, window[0])), draw(st.integers(1, window[1])))
    return size, window, stride


@settings(deadline=None)
@given(geometry())
def test_windows_cover_every_pixel_and_none_is_needless(case: tuple) -> None:
    size, window, stride = case
    places = windows(size, window, stride)
    count = np.zeros(size, int)
    for place in places:
        assert 0 <= place.y0 < place.y1 <= size[0]
        assert 0 <= place.x0 < place.x1 <= size[1]
        count[place.y0 : place.y1, place.x0 : place.x1] += 1
    assert count.min() >= 1
    assert len(set(places)) == len(places)
    for extent, side, step, starts in (
        (size[0], window[0], stride[0], sorted({p.y0 for p in places})),
        (size[1], window[1], stride[1], sorted({p.x0 for p in places})),
    ):
        assert starts == [step * i for i in range(len(starts))]
        assert len(starts) == max(0, -(-(extent - side) // step)) + 1  # Captum's count


@settings(deadline=None)
@given(geometry(), st.integers(1, 3), st.integers(0, 2**31))
def test_mean_drop_is_the_double_loop(case: tuple, targets: int, seed: int) -> None:
    size, window, stride = case
    places = windows(size, window, stride)
    drops = np.random.default_rng(seed).normal(0, 5, (len(places), targets))
    expected = np.empty((targets, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            over = [i for i, p in enumerate(places) if p.y0 <= y < p.y1 and p.x0 <= x < p.x1]
            expected[:, y, x] = drops[over].mean(axis=0)
    np.testing.assert_allclose(mean_drop(size, places, drops), expected, atol=1e-11)
    np.testing.assert_allclose(mean_drop(size, places, drops[:, 0]), expected[0], atol=1e-11)


def test_no_window_no_value() -> None:
    found = mean_drop((4, 5), [Window(0, 2, 0, 5)], np.array([3.0]))
    np.testing.assert_array_equal(found, [[3.0] * 5] * 2 + [[np.nan] * 5] * 2)


@settings(deadline=None)
@given(geometry(), st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
def test_batches_hold_one_window_each_and_are_restored(
    case: tuple, batch_size: int, channels_last: bool, seed: int
) -> None:
    size, window, stride = case
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *size)).astype(np.float32)
    baseline = rng.normal(size=(2, 1, 1))
    places = windows(size, window, stride)
    batches = OcclusionBatches(image, baseline, batch_size, channels_last)
    seen = 0
    for batch in batches(places):
        pictures = np.moveaxis(batch, -1, 1) if channels_last else batch
        assert batch.flags.c_contiguous
        for place, picture in zip(places[seen : seen + len(batch)], pictures, strict=True):
            expected = image.copy()
            for y in range(place.y0, place.y1):
                for x in range(place.x0, place.x1):
                    expected[:, y, x] = baseline[:, 0, 0].astype(np.float32)
            np.testing.assert_array_equal(picture, expected)
        seen += len(batch)
    assert seen == len(places)
    for picture in np.moveaxis(batches._buffer, -1, 1) if channels_last else batches._buffer:
        np.testing.assert_array_equal(picture, image)


def test_the_picture_and_the_baseline_are_not_changed() -> None:
    image = np.arange(3 * 6 * 6, dtype=np.float32).reshape(3, 6, 6)
    before = image.copy()
    baseline = np.zeros((3, 6, 6))
    for _ in OcclusionBatches(image, baseline, 4)(windows((6, 6), (2, 3), (2, 3))):
        pass
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(baseline, 0)
