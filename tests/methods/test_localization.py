"""From a map to a box: the regions against scikit-image, the boxes against boxes drawn by hand."""

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from skimage.measure import label
from support.fetch import packaged_file

import onnxvis
from onnxvis.demo import lite0, photo
from onnxvis.localization import find_boxes, label_regions, localize
from onnxvis.preprocessing import Geometry
from onnxvis.render import draw_boxes

# Drawn by hand around the animals of the picture of 224 x 224 pixels, (x0, y0, x1, y1).
DOG, CAT = (79, 14, 165, 150), (44, 118, 205, 222)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)))
@settings(max_examples=200, deadline=None)
def test_regions_are_those_of_scikit_image(mask):
    found, count = label_regions(mask)
    expected, number = label(mask, connectivity=2, return_num=True)
    assert count == number
    np.testing.assert_array_equal(found, expected)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_box_is_tight_around_the_largest_region(data):
    values = data.draw(arrays(np.float32, (9, 11), elements=st.floats(-1, 1, width=32)))
    boxes = find_boxes(values, Geometry.identity((11, 9)), 0.5)
    if values.max() <= 0:
        assert boxes == ()
        return
    mask = values.astype(np.float64) > 0.5 * values.max()
    regions = label(mask, connectivity=2)
    sizes = np.bincount(regions.ravel())[1:]
    rows, columns = np.nonzero(regions == 1 + sizes.argmax())
    assert boxes[0].box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert boxes[0].share == pytest.approx(sizes.max() / values.size)


def test_padding_does_not_count_and_the_box_lands_on_the_picture():
    """A picture of 40 x 20 shown at half size in the middle of a grid of 20 x 20."""
    geometry = Geometry((40, 20), (20, 20), (0.5, 0.5), (0.0, 5.0))
    values = np.zeros((20, 20))
    values[:4] = 9.0  # in the padding: bright, large, and not seen
    values[7:9, 3:6] = 1.0
    (found,) = find_boxes(values, geometry)
    assert found.box == (3, 7, 6, 9)
    assert found.picture_box == (6, 4, 12, 8)
    assert found.peak == 1.0


def test_several_regions_come_largest_first():
    values = np.zeros((8, 8))
    values[0:2, 0:2], values[4:8, 4:7] = 1.0, 0.6
    first, second = find_boxes(values, Geometry.identity((8, 8)), 0.2, count=5)
    assert (first.box, second.box) == ((4, 4, 7, 8), (0, 0, 2, 2))
    assert (first.peak, second.peak) == (0.6, 1.0)


@pytest.mark.parametrize("bad", [{"threshold": 0.0}, {"threshold": 1.0}, {"count": 0}])
def test_bad_arguments(bad):
    with pytest.raises(onnxvis.UsageError):
        find_boxes(np.ones((2, 2)), Geometry.identity((2, 2)), **bad)


@functools.cache
def model():
    return onnxvis.load(lite0())


def overlap(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    inner = max(width, 0) * max(height, 0)
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inner / (sum(area) - inner)


@pytest.mark.parametrize("method", ["cam", "grad-cam"])
def test_dog_and_cat_in_one_picture(method):
    picture = packaged_file("grad-cam", "1.5.4", "examples/both.png")
    dog, cat = onnxvis.explain(model(), picture, method, ("boxer", "tiger cat"), box=True)
    for explanation, own, other in ((dog, DOG, CAT), (cat, CAT, DOG)):
        box = tuple(explanation.parameters["box"]["picture"])
        assert overlap(box, own) > 0.4
        assert overlap(box, own) > overlap(box, other) + 0.2
        values = np.nan_to_num(explanation.on_picture())
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert own[0] <= column < own[2]
        assert own[1] <= row < own[3]
    contrast = onnxvis.explain(model(), picture, method, "boxer - tiger cat")
    on = np.nan_to_num(contrast.on_picture())
    assert on[14:110, 79:165].mean() > 0 > on[150:210, 44:205].mean()


def test_box_in_the_manifest_and_on_the_figure(tmp_path):
    plain = onnxvis.explain(model(), photo("chelsea.png"), "cam", 281)
    boxed = onnxvis.explain(model(), photo("chelsea.png"), "cam", 281, box=True, threshold=0.3)
    np.testing.assert_array_equal(plain.attribution, boxed.attribution)
    (found,) = localize(boxed, 0.3)
    stored = json.loads((boxed.save(tmp_path) / "manifest.json").read_text())["parameters"]["box"]
    assert stored == found.to_dict()
    x0, y0, x1, y1 = (round(edge) for edge in found.picture_box)
    before, after = (np.asarray(e.overlay()).astype(int) for e in (plain, boxed))
    changed = np.abs(before - after).max(axis=2) > 0
    line = max(1, round(min(after.shape[:2]) / 200))
    assert changed[y0:y1, x0 : x0 + line].mean() > 0.95
    assert not changed[y0 + 3 * line : y1 - 3 * line, x0 + 3 * line : x1 - 3 * line].any()
    assert boxed.figure().tobytes() != plain.figure().tobytes()


def test_no_positive_value_no_box():
    dark = np.full((6, 6), -1.0)
    assert find_boxes(dark, Geometry.identity((6, 6))) == ()
    assert find_boxes(np.full((6, 6), np.nan), Geometry.identity((6, 6))) == ()


def test_drawn_boxes_stay_inside_and_leave_the_picture_alone():
    image = Image.new("RGB", (50, 40), (200, 30, 30))
    drawn = np.asarray(draw_boxes(image, [(10, 10, 30, 25)]))
    assert (np.asarray(image) == (200, 30, 30)).all()
    assert (drawn[10, 10:30] == 255).all()
    assert (drawn[25 - 1, 10:30] == 255).all()
    assert (drawn[12:23, 12:28] == (200, 30, 30)).all()
    assert (drawn[9, 10:30] < 40).all()
    draw_boxes(image, [(-5, -5, 500, 500), (3, 3, 3, 3)])
