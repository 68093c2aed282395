"""The tensor against the training pipelines it stands for, re-derived with Pillow and numpy alone."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxvis.errors import PictureError, PreprocessingError
from onnxvis.picture import open_picture
from onnxvis.preprocessing import PRESETS, Geometry, Prepared, Preprocessing, preset

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
sizes = st.tuples(st.integers(20, 260), st.integers(20, 260))


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Noise over soft color waves: both fine and coarse detail."""
    y, x = np.mgrid[:height, :width]
    wave = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 15)], 2) * 90 + 128
    noise = np.random.default_rng(seed).normal(0, 20, wave.shape)
    return np.clip(wave + noise, 0, 255).astype(np.uint8)


def torchvision_way(pixels: np.ndarray, side: int, crop: int, method: int) -> np.ndarray:
    """Resize(side), CenterCrop(crop), ToTensor, Normalize, as torchvision.transforms documents them."""
    height, width = pixels.shape[:2]
    tall = width <= height
    new = (side, int(side * height / width)) if tall else (int(side * width / height), side)
    image = Image.fromarray(pixels).resize(new, method)
    left, top = (int(round((new[i] - crop) / 2.0)) for i in (0, 1))  # noqa: RUF046
    image = image.crop((left, top, left + crop, top + crop))
    return ((np.asarray(image) / 255.0 - MEAN) / STD).transpose(2, 0, 1)[None]


@settings(deadline=None, max_examples=60)
@given(sizes, st.sampled_from(["imagenet", "imagenet-bicubic"]), st.integers(0, 3))
def test_imagenet_is_torchvisions(size, name, seed):
    pixels = photo(*size, seed)
    method = Image.Resampling.BILINEAR if name == "imagenet" else Image.Resampling.BICUBIC
    for crop, side in ((224, 256), (97, 110)):
        got = preset(name).prepare(open_picture(pixels), ("N", 3, crop, crop), np.float32)
        np.testing.assert_allclose(got.tensor, torchvision_way(pixels, side, crop, method), atol=2e-6)
        assert got.layout == "NCHW"


@settings(deadline=None, max_examples=40)
@given(sizes)
def test_hugging_face_crops_round_down(size):
    config = {
        "do_resize": True,
        "size": {"shortest_edge": 60},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 57, "width": 51},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN.tolist(),
        "image_std": STD.tolist(),
    }
    from onnxvis.preprocessing import resolve

    spec = resolve(config, None, {})
    pixels = photo(*size)
    height, width = pixels.shape[:2]
    short = min(height, width)
    new = (int(60 * width / short), int(60 * height / short))
    whole = np.asarray(Image.fromarray(pixels).resize(new, Image.Resampling.BICUBIC)).astype(np.float64)
    top, left = (new[1] - 57) // 2, (new[0] - 51) // 2
    expected = ((whole[top : top + 57, left : left + 51] * (1 / 255)) - MEAN) / STD
    got = spec.prepare(open_picture(pixels), (1, 3, 57, 51), np.float32)
    np.testing.assert_allclose(got.tensor[0], expected.transpose(2, 0, 1), atol=2e-6)


def test_yolo_is_a_letterbox():
    pixels = photo(300, 200)
    got = preset("yolo").prepare(open_picture(pixels), (1, 3, 96, 96), np.float32)
    small = np.asarray(Image.fromarray(pixels).resize((96, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(got.tensor[0, :, 16:80], small.transpose(2, 0, 1) / 255, atol=1e-7)
    np.testing.assert_allclose(got.tensor[0, :, :16], 114 / 255, atol=1e-7)
    np.testing.assert_allclose(got.tensor[0, :, 80:], 114 / 255, atol=1e-7)
    assert got.geometry.content_box == (0, 16, 96, 80)
    top = preset("yolo").override(pad_position="top-left").prepare(open_picture(pixels), (1, 3, 96, 96), np.float32)
    np.testing.assert_array_equal(top.tensor[0, :, :64], got.tensor[0, :, 16:80])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inception", lambda x: x / 127.5 - 1),
        ("efficientnet-lite", lambda x: (x - 127) / 128),
        ("caffe-bgr", lambda x: x[..., ::-1] - [104.006, 116.669, 122.679]),
        ("unit", lambda x: x / 255),
        ("none", lambda x: x),
        ("mnist", lambda x: np.asarray(Image.fromarray(x.astype(np.uint8)).convert("L"))[..., None] / 255),
        ("imagenet", lambda x: (x / 255 - MEAN) / STD),
        (
            "clip",
            lambda x: (x / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711],
        ),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_arithmetic_of_each_preset(name, expected, layout):
    pixels = photo(40, 40)
    spec = preset(name).override(crop=False, resize="none")
    channels = 1 if name == "mnist" else 3
    shape = (1, channels, 40, 40) if layout == "NCHW" else (1, 40, 40, channels)
    got = spec.prepare(open_picture(pixels), shape, np.float32)
    values = expected(pixels.astype(np.float64))
    np.testing.assert_allclose(got.tensor[0], values.transpose(2, 0, 1) if layout == "NCHW" else values, atol=2e-5)
    assert got.tensor.flags.c_contiguous
    assert got.layout == layout
    back = got.display()
    if name == "mnist":
        np.testing.assert_array_equal(back[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    else:
        np.testing.assert_array_equal(back, pixels)
        np.testing.assert_array_equal(spec.display(got.tensor), pixels)
        np.testing.assert_array_equal(open_picture(pixels).rgb(), pixels)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_each_interpolation_is_pillows(method):
    pixels = photo(90, 50)
    got = Preprocessing(interpolation=method).prepare(open_picture(pixels), (1, 3, 33, 41), np.float32)
    expected = np.asarray(Image.fromarray(pixels).resize((41, 33), Image.Resampling[method.upper()]))
    np.testing.assert_array_equal(got.tensor[0], expected.transpose(2, 0, 1))
    deep = open_picture(pixels.astype(np.float32))
    soft = Preprocessing(interpolation=method).prepare(deep, (1, 3, 33, 41), np.float32)
    np.testing.assert_allclose(soft.tensor, got.tensor, atol=8 if method == "lanczos" else 2)


def test_only_the_visible_part_of_an_enormous_resize_is_made(monkeypatch):
    picture = open_picture(photo(400, 30))
    whole = preset("imagenet-bicubic").prepare(picture, (1, 3, 64, 64), np.float32)
    monkeypatch.setattr("onnxvis.preprocessing.resample.MAX_INTERMEDIATE_PIXELS", 100)
    part = preset("imagenet-bicubic").prepare(picture, (1, 3, 64, 64), np.float32)
    # The filter's fixed-point coefficients may round one 8-bit level apart.
    assert np.abs(part.tensor - whole.tensor).max() <= 1 / 255 / STD.min() + 1e-6
    assert np.abs(part.tensor - whole.tensor).mean() < 1e-3
    assert any("only the visible part" in note for note in part.notes)


def test_gray_and_color_meet():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    got = Preprocessing().prepare(open_picture(gray), (1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(got.tensor[0], np.stack([gray] * 3))
    assert any("all 3 channels" in note for note in got.notes)
    color = photo(8, 8)
    got = Preprocessing().prepare(open_picture(color), (1, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(got.tensor[0, 0], np.asarray(Image.fromarray(color).convert("L")))
    assert any("luma" in note for note in got.notes)
    deep = Preprocessing().prepare(open_picture(color.astype(np.float32)), (1, 1, 8, 8), np.float32)
    np.testing.assert_allclose(deep.tensor, got.tensor, atol=0.51)


def test_thirteen_channels():
    many = np.random.default_rng(1).integers(0, 256, (20, 30, 13), dtype=np.uint8)
    got = Preprocessing(mean=tuple(range(13))).prepare(open_picture(many), (1, 13, 10, 15), np.float32)
    for channel in range(13):
        plane = np.asarray(Image.fromarray(many[..., channel]).resize((15, 10), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(got.tensor[0, channel], plane - float(channel))
    with pytest.raises(PictureError, match="has 13 channels"):
        Preprocessing().prepare(open_picture(many), (1, 3, 10, 15), np.float32)
    with pytest.raises(PictureError, match="transpose it"):
        Preprocessing().prepare(open_picture(np.zeros((3, 20, 24), np.uint8)), (1, 3, 20, 24), np.float32)
    with pytest.raises(PreprocessingError, match="mean has 3 values"):
        preset("imagenet").prepare(open_picture(many), (1, 13, 10, 15), np.float32)
    with pytest.raises(PreprocessingError, match="mean has 3 values"):
        preset("imagenet").prepare(open_picture(many[..., :3]), (1, 1, 10, 15), np.float32)


def test_input_types():
    picture = open_picture(photo(16, 16))
    exact = preset("imagenet").prepare(picture, (1, 3, 16, 16), np.float32).tensor
    for dtype, tolerance in ((np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2), (np.float64, 0)):
        got = preset("imagenet").prepare(picture, (1, 3, 16, 16), dtype).tensor
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(np.float64), exact, atol=tolerance)
    raw = preset("none").prepare(picture, (1, 16, 16, 3), np.uint8).tensor
    np.testing.assert_array_equal(raw[0], picture.pixels)
    signed = Preprocessing(mean=(128.0,)).prepare(picture, (1, 16, 16, 3), np.int8).tensor
    np.testing.assert_array_equal(signed[0], picture.pixels.astype(int) - 128)
    for dtype in (np.uint8, np.int8):
        with pytest.raises(PreprocessingError, match="normalizes itself"):
            preset("imagenet").prepare(picture, (1, 3, 16, 16), dtype)
    with pytest.raises(PreprocessingError, match="no picture"):
        preset("none").prepare(picture, (1, 3, 16, 16), np.bool_)


@pytest.mark.parametrize(
    ("spec", "shape", "size", "word"),
    [
        (preset("imagenet"), (None, 3, "h", "w"), (224, 224), "from the preprocessing's size"),
        (preset("yolo"), ("b", 3, -1, -1), (640, 640), "from the preprocessing's size"),
        (Preprocessing(size=(40, 60)), (1, 3, None, 90), (40, 90), "from the preprocessing's size"),
        (Preprocessing(), (1, 3, None, None), (30, 50), "the picture's own 30 x 50"),
        (Preprocessing(), (1, 3, 48, None), (48, 80), "aspect ratio"),
        (Preprocessing(), (1, 3, None, 25), (15, 25), "aspect ratio"),
        (Preprocessing(resize="none"), (1, 3, None, None), (30, 50), ""),
        (Preprocessing(resize="shortest", resize_to=60), (1, 3, None, None), (60, 100), ""),
        (Preprocessing(resize="longest", resize_to=64), (1, 3, None, None), (64, 64), "from resize_to"),
        (Preprocessing(resize_to=(20, 24)), (1, 3, None, None), (20, 24), ""),
        (
            Preprocessing(resize="shortest", resize_to=30, crop=True, crop_size=24),
            (1, 3, "h", 24),
            (24, 24),
            "",
        ),
    ],
)
def test_dynamic_sizes(spec, shape, size, word):
    got = spec.prepare(open_picture(photo(50, 30)), shape, np.float32)
    assert got.tensor.shape == (1, 3, *size)
    assert got.geometry.input_size == size[::-1]
    assert word in " ".join(got.notes)


def test_own_size_is_capped():
    got = Preprocessing().prepare(open_picture(photo(3000, 30)), (1, 3, None, None), np.float32)
    assert got.tensor.shape == (1, 3, 10, 1024)
    assert any("shrunk to 1024" in note for note in got.notes)


@pytest.mark.parametrize(
    ("spec", "shape", "error", "words"),
    [
        (
            Preprocessing(resize_to=64),
            (1, 3, 32, 32),
            PreprocessingError,
            "resize_to gives an input of 64 x 64",
        ),
        (Preprocessing(crop=True, crop_size=64), (1, 3, 32, 32), PreprocessingError, "crop_size gives"),
        (Preprocessing(resize="longest", resize_to=64), (1, 3, 32, 32), PreprocessingError, "larger than"),
        (Preprocessing(resize="none"), (1, 3, 32, 32), PictureError, "neither crops nor pads"),
        (
            Preprocessing(resize="shortest", resize_to=32),
            (1, 3, 32, 32),
            PictureError,
            "neither crops nor pads",
        ),
        (Preprocessing(), (1, 3), PreprocessingError, "rank 2"),
        (Preprocessing(), (1, None, None, None), PreprocessingError, "set layout"),
        (Preprocessing(channel_order="bgr"), (1, 13, 32, 32), PictureError, "13"),
        (Preprocessing(size=9000, resize="stretch"), (1, 3, None, None), PreprocessingError, "more than"),
    ],
)
def test_contradictions_are_refused(spec, shape, error, words):
    with pytest.raises(error, match=words):
        spec.prepare(open_picture(photo(50, 30)), shape, np.float32)


def test_layouts_are_read_off_and_said():
    picture = open_picture(photo(8, 8))
    got = Preprocessing().prepare(picture, (None, None, None, 3), np.float32)
    assert got.layout == "NHWC"
    assert any("layout NHWC" in note for note in got.notes)
    assert Preprocessing().prepare(picture, (1, 3, 8, 3), np.float32).layout == "NCHW"
    many = open_picture(np.zeros((8, 8, 13), np.uint8))
    for shape in ((1, 13, 8, 8), (1, 13, None, None), (1, 13, 32, 32)):
        assert Preprocessing().prepare(many, shape, np.float32).layout == "NCHW"
    for shape in ((1, 8, 8, 13), (1, None, None, 13)):
        assert Preprocessing().prepare(many, shape, np.float32).layout == "NHWC"
    free = Preprocessing(layout="nhwc", size=8).prepare(picture, (None, None, None, None), np.float32)
    assert free.tensor.shape == (1, 8, 8, 3)


def test_a_flag_that_cannot_act_is_said():
    got = preset("imagenet").override(size=320).prepare(open_picture(photo(9, 9)), (1, 3, 8, 8), np.float32)
    assert "size 320 x 320 not used: the model's input is fixed at 8 x 8" in got.notes
    plain = preset("imagenet").prepare(open_picture(photo(9, 9)), (1, 3, 8, 8), np.float32)
    assert not any("not used" in note for note in plain.notes)


def test_ready_arrays_are_used_as_they_are():
    values = np.random.default_rng(2).normal(size=(3, 9, 11)).astype(np.float32)
    for array in (values, values[None]):
        got = Prepared.from_array(array, ("N", 3, 9, 11))
        np.testing.assert_array_equal(got.tensor, values[None])
        assert got.geometry == Geometry.identity((11, 9))
    low, high = values.min(), values.max()
    np.testing.assert_allclose(got.picture.pixels, (values.transpose(1, 2, 0) - low) * 255 / (high - low), atol=1e-3)
    np.testing.assert_array_equal(got.display(), got.picture.rgb())
    assert any("as black" in note for note in got.notes)
    flat = Prepared.from_array(np.zeros((1, 4, 4, 1)), (None, 4, 4, 1), np.float16)
    assert flat.tensor.dtype == np.float16
    assert (flat.picture.rgb() == 128).all()
    ramp = np.arange(9 * 11 * 5, dtype=np.float32).reshape(1, 5, 9, 11)
    assert Prepared.from_array(ramp, (1, 5, 9, 11)).display().shape == (9, 11, 3)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((3, 4, 4), np.nan), "NaN"),
        (np.full((3, 4, 4), -np.inf), "NaN or infinite"),
        (np.zeros((3, 4, 5)), "does not fit"),
        (np.zeros((2, 3, 4, 4)), "does not fit"),
        (np.zeros((4, 4)), "does not fit"),
        (np.zeros((3, 4, 4), object), "number type"),
    ],
)
def test_ready_arrays_that_are_refused(array, words):
    with pytest.raises(PictureError, match=words):
        Prepared.from_array(array, (1, 3, 4, 4))


def test_display_survives_any_tensor():
    wild = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(preset("unit").display(wild)[..., 0], [[0, 255], [0, 255]])
    with pytest.raises(PreprocessingError, match="cannot be told"):
        preset("unit").display(np.zeros((3, 3, 3)))
    with pytest.raises(PreprocessingError, match="not one picture"):
        preset("unit").display(np.zeros((2, 3, 4, 4)))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (333, 1)])
def test_one_pixel_pictures(name, size):
    shape = (1, 1, 28, 28) if name == "mnist" else (1, 3, 28, 28)
    got = preset(name).prepare(open_picture(np.full((*size, 3), 200, np.uint8)), shape, np.float32)
    x0, y0, x1, y1 = got.geometry.content_box
    np.testing.assert_array_equal(got.display()[y0:y1, x0:x1], 200)
    assert math.isfinite(float(got.tensor.sum()))
