"""Between a picture of 0..1 and the model's input: the preprocessing itself, and its exact adjoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.nets import SmallNet

import onnxvis
from onnxvis.behaviour.visual_parametrization import tv_gradient
from onnxvis.behaviour.visual_space import picture_space
from onnxvis.behaviour.visual_transform import crop_view, random_view
from onnxvis.errors import PictureError, PreprocessingError

FILES: dict[str, dict[str, Any]] = {
    "rgb": {"shape": [1, 3, 20, 24]},
    "nhwc": {"shape": [1, 20, 24, 3]},
    "gray": {"shape": [1, 1, 20, 24]},
}
SPECS: dict[str, dict[str, Any]] = {
    "unit": {"scale": 1 / 255},
    "imagenet": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "bgr": {"channel_order": "bgr", "mean": [104.0, 117.0, 123.0]},
    "gray": {"channel_order": "gray", "mean": 33.0, "std": 78.0},
    "centered": {"mean": 127.0, "std": 128.0, "resize": "shortest", "crop": True, "crop_fraction": 0.875},
    "resized": {"resize": "shortest", "resize_to": 30, "crop": True, "scale": 1 / 255},
    "letterbox": {"resize": "longest", "scale": 1 / 255, "pad_value": 114},
    "as it is": {"resize": "none"},
}
PAIRS = [(f, s) for f in FILES for s in SPECS if f != "gray" or s not in ("imagenet", "bgr")]


def small(file: str) -> onnx.ModelProto:
    net = SmallNet(channels=1 if file == "gray" else 3)
    turn = [helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])] if file == "nhwc" else None
    return net.model(FILES[file]["shape"], before=turn)


@pytest.mark.parametrize(("file", "spec"), PAIRS)
def test_a_picture_enters_as_the_preprocessing_would_have_it(file: str, spec: str) -> None:
    model = onnxvis.load(small(file), preprocessing=SPECS[spec])
    space = picture_space(model)
    pixels = np.random.default_rng(0).integers(0, 256, (*space.size, space.channels), np.uint8)
    picture = np.moveaxis(pixels, -1, 0)[None].astype(np.float32) / np.float32(255)
    seen = np.stack([crop_view(space.size, space.window).see(one) for one in picture])
    prepared = model.prepare(pixels)
    np.testing.assert_allclose(space.to_input(seen), prepared.tensor, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(space.pixels(picture[0]), pixels)
    assert space.channels == (1 if "gray" in (file, spec) else 3)


@pytest.mark.parametrize(("file", "spec"), PAIRS)
def test_the_gradient_comes_back_by_the_adjoint(file: str, spec: str) -> None:
    space = picture_space(onnxvis.load(small(file), preprocessing=SPECS[spec]))
    rng = np.random.default_rng(1)
    p, d = rng.random((2, 2, space.channels, *space.grid)).astype(np.float32)
    moved = space.to_input(p + d).astype(np.float64) - space.to_input(p)
    g = rng.standard_normal(moved.shape).astype(np.float32)
    np.testing.assert_allclose((moved * g).sum(), (d.astype(np.float64) * space.from_gradient(g)).sum(), rtol=1e-3)


def test_pictures_have_the_size_that_is_not_resized() -> None:
    centered = picture_space(onnxvis.load(small("rgb"), preprocessing=SPECS["imagenet"] | SPECS["centered"]))
    assert (centered.size, centered.window) == ((22, 27), (1, 2, 21, 26))
    assert "middle 20 x 24" in centered.notes[0]
    resized = picture_space(onnxvis.load(small("rgb"), preprocessing=SPECS["resized"]))
    assert (resized.size, resized.window) == ((30, 36), (5, 6, 25, 30))
    plain = picture_space(onnxvis.load(small("rgb"), preprocessing=SPECS["bgr"]))
    assert (plain.size, plain.window, plain.notes) == ((20, 24), (0, 0, 20, 24), ())
    np.testing.assert_allclose(plain.start, np.array([123, 117, 104]) / 255, rtol=1e-6)


def test_without_a_preprocessing_there_is_no_valid_range() -> None:
    with pytest.raises(PreprocessingError, match="does not guess"):
        picture_space(onnxvis.load(small("rgb")))
    small_crop = {"resize": "stretch", "resize_to": [10, 10], "crop": True}
    with pytest.raises((PictureError, PreprocessingError)):
        picture_space(onnxvis.load(small("rgb"), preprocessing=small_crop))


def test_whole_number_inputs_are_pictures_too() -> None:
    cast = helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)
    net = SmallNet().model([1, 3, 20, 24], before=[cast], kind=TensorProto.UINT8)
    space = picture_space(onnxvis.load(net, preprocessing={}))
    x = space.to_input(np.full((1, 3, 20, 24), 0.5, np.float32))
    assert x.dtype == np.float32
    assert float(x.max()) == 127.5


@given(st.integers(0, 2**32 - 1), st.floats(0, 4), st.floats(0, 30), st.floats(0.6, 1), st.floats(1, 1.6))
@settings(max_examples=30, deadline=None)
def test_a_view_shows_what_its_numbers_say(
    seed: int, jitter: float, rotate: float, small_: float, large: float
) -> None:
    """On a picture of its own coordinates, a view shows where each of its pixels comes from."""
    size, window = (40, 48), (6, 7, 34, 41)
    rows, columns = np.meshgrid(np.arange(40.0), np.arange(48.0), indexing="ij")
    view = random_view(np.random.default_rng(seed), size, window, jitter, rotate, (small_, large))
    y, x = view.see(np.stack([rows, columns]).astype(np.float32)).astype(np.float64)
    assert y.shape == (28, 34)
    inside = (y > 0.01) & (y < 38.99) & (x > 0.01) & (x < 46.99)
    # A similarity: equal steps along rows and columns, at right angles, of length 1 / zoom.
    whole = inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:]
    if not whole.any():
        return
    down = np.stack([np.diff(y, axis=0)[:, :-1], np.diff(x, axis=0)[:, :-1]])[:, whole]
    right = np.stack([np.diff(y, axis=1)[:-1], np.diff(x, axis=1)[:-1]])[:, whole]
    length = np.linalg.norm(down, axis=0)
    np.testing.assert_allclose(length, length[0], atol=2e-3)
    np.testing.assert_allclose((down * right).sum(axis=0), 0, atol=5e-3)
    assert 1 / large - 2e-3 <= length[0] <= 1 / small_ + 2e-3
    assert abs(np.rad2deg(np.arctan2(right[0], right[1]))).max() <= rotate + 0.3
    center = np.array([y[13:15, 16:18].mean() - 19.5, x[13:15, 16:18].mean() - 23.5])
    assert np.abs(center).max() <= jitter + 0.6


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_gradient_of_a_view_is_its_transpose(seed: int) -> None:
    rng = np.random.default_rng(seed)
    view = random_view(rng, (20, 24), (3, 3, 17, 21), 5, 20, (0.8, 1.2))
    p, g = rng.standard_normal((3, 20, 24)).astype(np.float32), rng.standard_normal((3, 14, 18)).astype(np.float32)
    np.testing.assert_allclose((view.see(p) * g).sum(), (p * view.back(g)).sum(), rtol=1e-3, atol=1e-3)


def test_an_unmoved_view_is_the_crop() -> None:
    p = np.random.default_rng(0).random((3, 20, 24)).astype(np.float32)
    still = random_view(np.random.default_rng(0), (20, 24), (2, 3, 15, 20), 0, 0, (1.0, 1.0))
    for view in (still, crop_view((20, 24), (2, 3, 15, 20))):
        np.testing.assert_array_equal(view.see(p), p[:, 2:15, 3:20])
    jittered = random_view(np.random.default_rng(3), (20, 24), (4, 4, 16, 20), 3, 0, (1.0, 1.0)).see(p)
    crops = [p[:, 4 + i : 16 + i, 4 + j : 20 + j] for i in range(-3, 4) for j in range(-3, 4)]
    assert sum(np.array_equal(jittered, crop) for crop in crops) == 1


def test_the_total_variation_has_its_gradient() -> None:
    p, d = np.random.default_rng(0).random((2, 1, 2, 5, 6))

    def variation(at: np.ndarray) -> float:
        return float(sum(np.sqrt(np.diff(at, axis=a) ** 2 + 1e-3).sum() for a in (-2, -1)))

    difference = (variation(p + 1e-6 * d) - variation(p - 1e-6 * d)) / 2e-6
    np.testing.assert_allclose((tv_gradient(p) * d).sum(), difference, rtol=1e-6)
