"""The preprocessing as a value: equality, storage, validation, presets, flags, and where it is found."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.errors import PreprocessingError
from onnxvis.preprocessing import (
    DESCRIPTIONS,
    METADATA_KEY,
    PRESETS,
    Preprocessing,
    find,
    preset,
    read_spec,
    resolve,
)

side = st.integers(1, 5000)
size = st.none() | side | st.tuples(side, side)
finite = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def specs(draw):
    channels = draw(st.integers(1, 13))
    per_channel = st.lists(finite, min_size=channels, max_size=channels).map(tuple)
    resize = draw(st.sampled_from(["stretch", "shortest", "longest", "none"]))
    crop = resize != "longest" and draw(st.booleans())
    fraction = draw(st.none() | st.floats(0.1, 1)) if crop and resize != "none" else None
    aims = {"shortest": st.none() | side, "none": st.none()}.get(resize, size)
    return Preprocessing(
        resize=resize,
        resize_to=None if fraction else draw(aims),
        crop=crop,
        crop_size=draw(size) if crop else None,
        crop_fraction=fraction,
        size=draw(size),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])),
        pad_value=draw(finite),
        scale=draw(finite.filter(bool)),
        mean=draw(per_channel),
        std=draw(per_channel.filter(all)),
        channel_order=draw(st.sampled_from(["rgb", "bgr", "gray"])),
        layout=draw(st.sampled_from([None, "NCHW", "NHWC"])),
        source=draw(st.text(max_size=20)),
    )


@settings(deadline=None)
@given(specs())
def test_storage_keeps_the_value(tmp_path_factory, spec):
    folder = tmp_path_factory.mktemp("spec")
    again = Preprocessing.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)
    (folder / "a.toml").write_text(spec.to_toml(), encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(spec.to_dict()), encoding="utf-8")
    assert read_spec(folder / "a.toml") == spec == read_spec(folder / "a.json")
    assert read_spec(folder / "a.toml").source == f"file {folder / 'a.toml'}"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"resize": "strech"}, "resize = 'strech' is not one of .* Did you mean 'stretch'"),
        ({"interpolation": "cubic"}, "interpolation .*'bicubic'"),
        ({"channel_order": "brg"}, "channel_order .*'bgr'"),
        ({"layout": "CHWN"}, "layout"),
        ({"interpolaton": "box"}, "no field 'interpolaton'.* Did you mean 'interpolation'"),
        ({"resize_to": 0}, "resize_to = 0 is not a size"),
        ({"resize_to": 2.5}, "resize_to = 2.5 is not a size"),
        ({"size": [224]}, "size = "),
        ({"size": True}, "size = True"),
        ({"crop": "yes"}, "crop = 'yes' must be true or false"),
        ({"crop_size": 8}, "crop_size needs crop"),
        ({"crop_fraction": 0.9}, "crop_fraction needs crop"),
        ({"crop": True, "crop_fraction": 1.5}, "crop_fraction = 1.5"),
        ({"crop": True, "crop_fraction": 0.9, "resize_to": 9}, "leave resize_to out"),
        ({"crop": True, "resize": "longest"}, "longest"),
        ({"resize": "none", "resize_to": 8}, "no meaning"),
        ({"resize": "shortest", "resize_to": [8, 9]}, "one number"),
        ({"scale": 0}, "scale = 0"),
        ({"scale": "1"}, "scale = "),
        ({"scale": float("nan")}, "finite"),
        ({"std": [1, 0]}, "divide by zero"),
        ({"mean": []}, "mean = "),
        ({"mean": ["a"]}, "mean = "),
        ({"mean": [1, 2, 3], "std": [1, 2]}, "mean has 3 values but std has 2"),
        ({"pad_value": None}, "pad_value"),
        ({"preset": "imagnet"}, "Did you mean 'imagenet'"),
        ({"preset": 3}, "no preset 3"),
    ],
)
def test_wrong_fields_are_named(fields, words):
    with pytest.raises(PreprocessingError, match=words):
        Preprocessing.from_dict(fields)


def test_values_compare_without_their_source():
    assert Preprocessing(source="a") == Preprocessing(source="b")
    assert Preprocessing(mean=[1, 2, 3]) == Preprocessing(mean=(1.0, 2.0, 3.0))
    assert Preprocessing(scale=2) != Preprocessing(scale=1)
    assert len({preset("imagenet"), preset("imagenet"), preset("unit")}) == 2


def test_presets_are_described_and_named():
    assert list(PRESETS) == list(DESCRIPTIONS)
    assert {"imagenet", "imagenet-bicubic", "inception", "efficientnet-lite", "caffe-bgr"} < set(PRESETS)
    assert {"unit", "none", "mnist", "yolo", "clip"} < set(PRESETS)
    for name, spec in PRESETS.items():
        assert spec.source == f"preset {name!r}"
        assert "\n" not in DESCRIPTIONS[name]
        assert "\n" not in spec.summary()
    assert preset("yolo").summary() == (
        "longest side to the input size, padded with 114 (center) (bilinear); RGB; / 255"
    )
    assert preset("caffe-bgr").summary() == (
        "shortest side to the input size / 0.875 (bilinear); center crop; BGR; minus [104.006, 116.669, 122.679]"
    )
    assert preset("efficientnet-lite").summary().endswith("RGB; minus 127, divided by 128")
    assert preset("none").summary().endswith("0..255 as it is")


def test_flags_change_and_are_told():
    spec = preset("imagenet").override(mean=[0.5], std=0.25, layout=None)
    assert (spec.mean, spec.std, spec.crop) == ((0.5,), (0.25,), True)
    assert spec.source == "preset 'imagenet', changed by flags: mean, std"
    assert preset("imagenet").override() is preset("imagenet")
    resized = preset("imagenet").override(resize_to=300)
    assert (resized.resize_to, resized.crop_fraction, resized.crop) == (300, None, True)
    assert preset("imagenet").override(resize="longest").crop is False
    assert preset("imagenet").override(crop=False).crop_fraction is None
    for wrong in ({"maen": 3}, {"preset": "clip"}, {"source": "me"}):
        with pytest.raises(PreprocessingError, match="there is no field"):
            preset("imagenet").override(**wrong)


def test_a_file_may_start_from_a_preset(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('preset = "caffe-bgr"\nresize_to = 256\ncrop_fraction = 0.5\n')
    with pytest.raises(PreprocessingError, match=r"x\.toml: crop_fraction derives"):
        read_spec(path)
    path.write_text('preset = "caffe-bgr"\nsize = 227\n')
    spec = read_spec(path)
    assert spec == preset("caffe-bgr").override(size=227)
    assert "starting from preset 'caffe-bgr'" in spec.source


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.toml", b"mean = [", "not valid TOML"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.json", b"[1]", "table of fields"),
        ("a.toml", b"\xff\xfe", "not UTF-8"),
        ("a.json", b'{"scale": 1e999}', "finite"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PreprocessingError, match=words) as caught:
        read_spec(tmp_path / name)
    assert name in str(caught.value)


def test_it_is_looked_for_in_the_stated_order(tmp_path):
    model = tmp_path / "onnx" / "net.v2.onnx"
    model.parent.mkdir()
    metadata: dict[str, str] = {}
    assert find(model, metadata) is None
    assert find(None, metadata) is None
    config = {"do_normalize": False, "do_rescale": True, "size": {"height": 9, "width": 8}, "resample": 0}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    found = find(model, metadata)
    assert found is not None
    assert (found.resize_to, found.interpolation) == ((9, 8), "nearest")
    metadata[METADATA_KEY] = json.dumps({"scale": 2})
    assert find(model, metadata) == Preprocessing(scale=2)
    assert find(None, metadata) == Preprocessing(scale=2)
    (model.parent / "net.v2.preprocessing.json").write_text('{"scale": 3}')
    assert find(model, metadata) == Preprocessing(scale=3)
    (model.parent / "net.v2.preprocessing.toml").write_text("scale = 4")
    found = find(model, metadata)
    assert found == Preprocessing(scale=4)
    assert found is not None
    assert found.source == "file net.v2.preprocessing.toml beside the model"
    (model.parent / "net.v2.preprocessing.toml").write_text("scale = ")
    with pytest.raises(PreprocessingError, match="not valid TOML"):
        find(model, metadata)


def test_metadata_of_ultralytics():
    base = {"author": "Ultralytics", "stride": "32", "imgsz": "[320, 640]", "names": "{0: 'person'}"}
    spec = find(None, {**base, "task": "detect"})
    assert spec == preset("yolo").override(size=(320, 640))
    assert spec is not None
    assert "task detect" in spec.source
    spec = find(None, {**base, "task": "classify", "imgsz": "[224, 224]"})
    assert spec == Preprocessing(resize="shortest", crop=True, crop_fraction=1.0, size=(224, 224), scale=1 / 255)
    for bad in ("__import__('os')", "['a']", "(" * 5000):
        with pytest.raises(PreprocessingError, match="imgsz"):
            find(None, {**base, "imgsz": bad})


def test_image_metadata_of_onnx():
    spec = find(None, {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1"})
    assert spec == Preprocessing(channel_order="bgr", scale=1 / 127.5, mean=(1.0,))
    assert find(None, {"image.bitmappixelformat": "GRAY8"}) == Preprocessing(channel_order="gray")
    for wrong in ({"Image.BitmapPixelFormat": "Rgba8"}, {"Image.NominalPixelRange": "NominalRange_16_235"}):
        with pytest.raises(PreprocessingError, match="not supported"):
            find(None, wrong)


CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
}


def test_hugging_face_files():
    clip = resolve(CLIP, None, {})
    assert clip is not None
    assert (clip.resize, clip.resize_to, clip.crop_size) == ("shortest", 224, (224, 224))
    assert (clip.mean, clip.std, clip.scale) == (preset("clip").mean, preset("clip").std, 1 / 255)
    assert (clip.crop_rounding, clip.interpolation) == ("floor", "bicubic")
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2, "do_normalize": True}
    old |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    vit = resolve(old, None, {})
    assert vit is not None
    assert (vit.resize, vit.resize_to, vit.crop, vit.scale) == ("stretch", (224, 224), False, 1 / 255)
    assert "do_rescale is not given" in vit.source
    convnext = {**CLIP, "size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_center_crop": False}
    small = resolve(convnext, None, {})
    assert small is not None
    assert (small.resize, small.resize_to, small.crop, small.crop_size) == ("shortest", 256, True, 224)
    large = resolve({**convnext, "size": {"shortest_edge": 384}}, None, {})
    assert large is not None
    assert (large.resize, large.resize_to, large.crop) == ("stretch", 384, False)
    flipped = resolve({**CLIP, "do_flip_channel_order": True, "do_rescale": False, "do_normalize": False}, None, {})
    assert flipped is not None
    assert (flipped.channel_order, flipped.scale, flipped.mean) == ("bgr", 1.0, (0.0,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"do_pad": True}, "do_pad = True may change pixels"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"do_color_quantize": True}, "do_color_quantize"),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "longest_edge"),
        ({"size": 224, "image_processor_type": "OtherImageProcessor"}, "does not say which"),
        ({"resample": 9}, "resample = 9"),
        ({"image_mean": None}, "image_mean is missing"),
        ({"image_mean": "x"}, "mean = 'x'"),
        ({"crop_size": "big"}, "crop_size = 'big'"),
    ],
)
def test_hugging_face_keys_are_never_ignored(change, words):
    with pytest.raises(PreprocessingError, match=words):
        resolve({**CLIP, **change}, None, {})


def test_hugging_face_keys_that_are_off_do_not_matter():
    assert resolve({**CLIP, "do_pad": False, "new_thing": None}, None, {}) == resolve(CLIP, None, {})


def test_resolve_takes_what_users_write(tmp_path):
    spec = Preprocessing(scale=5)
    path = tmp_path / "mine.toml"
    path.write_text(spec.to_toml())
    for value in (spec, spec.to_dict(), path, str(path)):
        assert resolve(value, None, {}) == spec
    assert resolve("clip", None, {}) is preset("clip")
    assert resolve(None, tmp_path / "m.onnx", {}) is None
    with pytest.raises(PreprocessingError, match=r"neither a preset nor a file.*'imagenet'"):
        resolve("imagenett", None, {})
    with pytest.raises(PreprocessingError, match="cannot be read"):
        resolve("absent.toml", None, {})
    with pytest.raises(PreprocessingError, match="a int is not"):
        resolve(3, None, {})  # type: ignore[arg-type]
