"""The way from a picture to the input grid and back, against its own definition and against Pillow."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxvis.errors import PreprocessingError
from onnxvis.picture import open_picture
from onnxvis.preprocessing import Geometry, Preprocessing, plan

POLICIES = {
    "stretch": Preprocessing(),
    "nearest": Preprocessing(interpolation="nearest"),
    "imagenet": Preprocessing(resize="shortest", crop=True, crop_fraction=0.875),
    "floor": Preprocessing(resize="shortest", resize_to=70, crop=True, crop_rounding="floor"),
    "letterbox": Preprocessing(resize="longest", pad_value=114.0, interpolation="bicubic"),
    "top-left": Preprocessing(resize="longest", pad_position="top-left"),
    "crop only": Preprocessing(resize="none", crop=True),
    "warp then crop": Preprocessing(resize="stretch", resize_to=(80, 90), crop=True),
}
policies = st.sampled_from(list(POLICIES.values()))
sides = st.integers(1, 300)
targets = st.tuples(st.integers(1, 80), st.integers(1, 80))
places = st.tuples(st.floats(0, 1), st.floats(0, 1))


def geometry(spec: Preprocessing, width: int, height: int, target: tuple[int, int]) -> Geometry:
    return plan.place(spec, (height, width), target).geometry


@settings(deadline=None)
@given(policies, sides, sides, targets, places)
def test_points_and_boxes_go_round(spec, width, height, target, place):
    u, v = place
    g = geometry(spec, width, height, target)
    point = (u * width - 0.5, v * height - 0.5)
    assert g.point_to_picture(g.point_to_input(point)) == pytest.approx(point, abs=1e-6)
    box = (u * width / 2, v * height / 2, width, height)
    assert g.box_to_picture(g.box_to_input(box)) == pytest.approx(box, abs=1e-6)
    # The center of a pixel's box is the pixel's point, in both grids.
    x0, y0, x1, y1 = g.box_to_input((3, 2, 4, 3))
    assert g.point_to_input((3, 2)) == pytest.approx(((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2), abs=1e-9)
    assert Geometry.from_dict(g.to_dict()) == g


@settings(deadline=None)
@given(policies, sides, sides, targets)
def test_boxes_stay_inside(spec, width, height, target):
    g = geometry(spec, width, height, target)
    x0, y0, x1, y1 = g.visible_box
    assert -1e-6 <= x0 < x1 <= width + 1e-6
    assert -1e-6 <= y0 < y1 <= height + 1e-6
    c0, d0, c1, d1 = g.content_box
    assert 0 <= c0 < c1 <= target[1]
    assert 0 <= d0 < d1 <= target[0]
    assert g.box_to_picture((-50, -50, 900, 900), clip=True) == pytest.approx(g.visible_box)
    assert g.box_to_input((-5000, -5000, 90000, 90000), clip=True) == g.content_box


@settings(max_examples=150, deadline=None)
@given(policies, st.integers(1, 200), st.integers(1, 200), targets, places)
def test_a_bright_blob_comes_back_where_it_was(spec, width, height, target, place):
    u, v = place
    g = geometry(spec, width, height, target)
    # A blob about as large as an input pixel, whole inside the part that the model sees.
    half = [max(0.5, 1.0 / s) for s in g.scale]
    x0, y0, x1, y1 = g.visible_box
    center = (x0 + u * (x1 - x0), y0 + v * (y1 - y0))
    lo = [int(center[i] - half[i]) for i in (0, 1)]
    hi = [int(np.ceil(center[i] + half[i])) for i in (0, 1)]
    inside = lo[0] >= x0 and lo[1] >= y0 and hi[0] <= x1 and hi[1] <= y1
    assume(inside and hi[0] > lo[0] and hi[1] > lo[1] and min(lo) >= 0)
    pixels = np.zeros((height, width), np.uint8)
    pixels[lo[1] : hi[1], lo[0] : hi[0]] = 255
    black = spec.override(pad_value=0.0)
    seen = black.prepare(open_picture(pixels), (1, 1, *target), np.float32)
    assert seen.geometry == g
    back = seen.geometry.map_to_picture(seen.tensor[0, 0], fill=0.0)
    assert back.shape == (height, width)
    back = np.clip(back, 0, None)
    assume(back.sum() > 0)
    rows, columns = np.mgrid[:height, :width]
    found = ((back * columns).sum() / back.sum(), (back * rows).sum() / back.sum())
    truth = ((lo[0] + hi[0] - 1) / 2, (lo[1] + hi[1] - 1) / 2)
    for axis in (0, 1):
        assert abs(found[axis] - truth[axis]) <= max(1.0, 1.0 / g.scale[axis]) + 1e-3


@settings(deadline=None)
@given(policies, sides, sides, targets)
def test_a_ramp_stays_a_ramp(spec, width, height, target):
    g = geometry(spec, width, height, target)
    rows, columns = np.mgrid[: target[0], : target[1]].astype(np.float32)
    back = g.map_to_picture(2 * columns + 3 * rows + 1)
    x, y = g.point_to_input((np.arange(width)[None, :], np.arange(height)[:, None]))
    truth = 2 * x + 3 * y + 1 + np.zeros((height, width))
    # Between the outermost pixel centers; beyond them the map is held, not extrapolated.
    c0, d0, c1, d1 = g.content_box
    rx, ry = (np.sqrt(max(0.0, s * s - 1)) / 2 for s in g.scale)
    inner = (x - rx >= c0) & (x + rx <= c1 - 1) & (y - ry >= d0) & (y + ry <= d1 - 1)
    np.testing.assert_allclose(back[inner], truth[inner], rtol=1e-5, atol=1e-3)


@settings(deadline=None)
@given(policies, sides, sides, targets)
def test_cropped_away_is_nan_and_padding_is_dropped(spec, width, height, target):
    g = geometry(spec, width, height, target)
    values = np.full(target, np.inf, np.float32)
    c0, d0, c1, d1 = g.content_box
    values[d0:d1, c0:c1] = 7.0
    with np.errstate(invalid="raise"):
        back = g.map_to_picture(values)
    x0, y0, x1, y1 = g.visible_box
    left, top = np.arange(width), np.arange(height)
    seen = ((left + 1 > x0 + 1e-3) & (left < x1 - 1e-3))[None] & ((top + 1 > y0 + 1e-3) & (top < y1 - 1e-3))[:, None]
    hidden = ((left + 1 < x0 - 1e-3) | (left > x1 + 1e-3))[None] | ((top + 1 < y0 - 1e-3) | (top > y1 + 1e-3))[:, None]
    np.testing.assert_allclose(back[seen], 7.0, rtol=1e-5)
    assert np.isnan(back[hidden]).all()
    assert (~np.isnan(back)).any()


def test_identity_returns_the_map_exactly():
    values = np.random.default_rng(0).normal(size=(31, 17)).astype(np.float32)
    values[4, 5] = np.nan
    np.testing.assert_array_equal(Geometry.identity((17, 31)).map_to_picture(values), values)


def test_known_numbers():
    # 640 x 480 to imagenet 224: 341 x 256, cropped at left round(58.5) = 58, top 16.
    g = geometry(POLICIES["imagenet"], 640, 480, (224, 224))
    assert g.scale == (341 / 640, 256 / 480)
    assert g.offset == (-58.0, -16.0)
    assert g.content_box == (0, 0, 224, 224)
    assert g.visible_box == pytest.approx((58 * 640 / 341, 30, 282 * 640 / 341, 450))
    # 1280 x 720 letterboxed into 640: 360 rows, 140 above and below.
    g = geometry(POLICIES["letterbox"], 1280, 720, (640, 640))
    assert g.content_box == (0, 140, 640, 500)
    assert g.point_to_input((0, 0)) == (-0.25, 139.75)
    assert g.visible_box == (0, 0, 1280, 720)


def test_bilinear_by_hand():
    g = Geometry((4, 1), (2, 1), (0.5, 1.0), (0.0, 0.0))
    back = g.map_to_picture(np.array([[0.0, 8.0]], np.float32))
    np.testing.assert_allclose(back, [[0, 2, 6, 8]])


def test_a_map_of_another_size_is_refused():
    with pytest.raises(PreprocessingError, match="input grid of 31 x 17"):
        Geometry.identity((17, 31)).map_to_picture(np.zeros((7, 7), np.float32))
    with pytest.raises(PreprocessingError, match="not a stored geometry"):
        Geometry.from_dict({"scale": 3})


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(20_000, 50), (20_000, 1), (1, 1), (1, 300)])
def test_extreme_pictures_in_bounded_time(policy, size):
    width, height = size
    start = time.perf_counter()
    picture = open_picture(np.full((height, width, 3), 90, np.uint8))
    seen = POLICIES[policy].prepare(picture, (1, 3, 224, 224), np.float32)
    back = seen.geometry.map_to_picture(seen.tensor[0, 0])
    assert time.perf_counter() - start < 5
    assert back.shape == (height, width)
    np.testing.assert_allclose(back[~np.isnan(back)], 90, atol=1e-3)
    assert not np.isnan(back).all()
