"""Activations are onnxruntime's, wherever they are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from PIL import Image
from support.formats import FLOAT, convnet, model_of, quantized
from support.nets import SmallNet

import onnxvis
from onnxvis.behaviour.activations import activations, placed
from onnxvis.cli import main
from onnxvis.errors import LayerError, UsageError
from onnxvis.preprocessing import Preprocessing


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_onnxruntime(net: onnx.ModelProto, x: np.ndarray, tensor: str) -> np.ndarray:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(net)
    exposed.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([tensor], {session.get_inputs()[0].name: x})[0]
    return found


@pytest.mark.parametrize("layer", ["c1", "r2", "p1", "logits"])
def test_values_are_onnxruntimes(layer: str) -> None:
    net = convnet()
    model = onnxvis.load(net, preprocessing="unit")
    pictures = [photo(16, 16, seed) for seed in range(3)]
    found = activations(model, pictures, layer, batch_size=2)
    for picture, values in zip(pictures, found.values, strict=True):
        x = (picture.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
        expected = by_onnxruntime(net, x, layer)[0]
        np.testing.assert_allclose(values, expected if expected.ndim == 3 else expected[:, None, None], atol=1e-5)
    assert found.signed == (layer in ("c1", "logits"))


def test_an_nhwc_network_gives_units_first() -> None:
    net = SmallNet()
    turn = helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])
    model = net.model([1, 12, 10, 3], before=[turn])
    model.graph.node.append(helper.make_node("Transpose", ["features"], ["last"], perm=[0, 2, 3, 1]))
    model.graph.output.append(helper.make_tensor_value_info("last", FLOAT, None))
    picture = photo(12, 10)
    opened = onnxvis.load(model, preprocessing="unit", output="logits")
    x = picture.transpose(2, 0, 1)[None] / 255.0
    for layer in ("features", "last"):
        found = activations(opened, picture, layer)
        np.testing.assert_allclose(found.values[0], net.features(x)[0], atol=1e-5)


def test_the_layer_left_out_is_the_last_map() -> None:
    found = activations(onnxvis.load(convnet(), preprocessing="unit"), photo(16, 16))
    assert found.layer == "r2"
    assert "global average pool" in found.reason
    with pytest.raises(LayerError):
        activations(onnxvis.load(convnet(), preprocessing="unit"), photo(16, 16), "nothing")
    with pytest.raises(UsageError, match="at least one picture"):
        activations(onnxvis.load(convnet(), preprocessing="unit"), [])


def test_a_quantized_file_is_asked_itself() -> None:
    net = quantized(convnet(), "qdq")
    picture = photo(16, 16)
    x = (picture.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    layer = next(n.output[0] for n in net.graph.node if n.op_type == "DequantizeLinear" and "r1" in n.output[0])
    found = activations(onnxvis.load(net, preprocessing="unit"), picture, layer)
    np.testing.assert_allclose(found.values[0], by_onnxruntime(net, x, layer)[0], atol=1e-5)


def test_strongest_units_come_first_and_share_one_scale() -> None:
    model = onnxvis.load(convnet(), preprocessing="unit")
    found = activations(model, [photo(16, 16, 1), photo(16, 16, 2)], "c1")
    values = np.stack(found.values)
    for rank, strength in (("max", np.abs(values).max(axis=(2, 3))), ("mean", np.abs(values).mean(axis=(2, 3)))):
        np.testing.assert_allclose(found.strength(rank), strength, rtol=1e-6)
        assert found.strongest(5, rank) == np.argsort(-strength.max(axis=0), kind="stable")[:5].tolist()
    scale = found.scale([3])
    assert scale.kind == "diverging"
    assert scale.hi == pytest.approx(float(np.abs(values[:, 3]).max()))
    assert activations(model, photo(16, 16), "r1").scale().lo == 0
    assert found.sheet(top=3).size[0] > found.sheet(top=1).size[0]
    with pytest.raises(UsageError, match="max or mean"):
        found.strongest(3, "sum")
    with pytest.raises(UsageError, match="at least one unit"):
        found.strongest(0)


def strided(kernel: int, stride: int, before: int, after: int, size: int) -> onnx.ModelProto:
    """A mean over windows of a picture: what it answers is the picture's value at the window's center."""
    weight = np.full((1, 3, kernel, kernel), 1 / (3 * kernel**2), np.float32)
    pads = [before, before, after, after]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"], pads=pads, strides=[stride, stride]),
        helper.make_node("GlobalAveragePool", ["map"], ["gap"]),
        helper.make_node("Flatten", ["gap"], ["logits"]),
    ]
    return model_of(nodes, {"x": (FLOAT, [1, 3, size, size])}, ["logits"], {"w": weight})


@pytest.mark.parametrize(
    ("kernel", "stride", "before", "after"), [(1, 1, 0, 0), (3, 2, 0, 0), (5, 3, 0, 0), (4, 4, 0, 0)]
)
def test_a_map_stands_where_its_units_look(kernel: int, stride: int, before: int, after: int) -> None:
    """A mean filter reproduces a linear picture at its centers, so the placed map is the picture between them."""
    size = 32
    ramp = np.add.outer(2 * np.arange(size), 3 * np.arange(size)).astype(np.uint8)
    model = onnxvis.load(strided(kernel, stride, before, after, size), preprocessing={})
    found = activations(model, ramp[..., None].repeat(3, axis=2), "map")
    whole = placed(found.values[0][0], (size, size), found.seen)
    edge = (kernel - 1) // 2 + 1
    last = size - edge - stride
    np.testing.assert_allclose(whole[edge:last, edge:last], ramp[edge:last, edge:last], atol=0.01)


def test_an_overlay_lies_on_the_original_picture() -> None:
    spec = Preprocessing(resize="shortest", resize_to=16, crop=True, scale=1 / 255)
    model = onnxvis.load(convnet(), preprocessing=spec)
    found = activations(model, photo(32, 64), "c1")
    values = found.on_picture(2)
    assert values.shape == (32, 64)
    assert np.isnan(values[:, :15]).all()
    assert np.isnan(values[:, -15:]).all()
    # Half the size: the middle of a 2 x 2 block of the picture is one place of the map.
    inner = values[1:-1, 17:-17].reshape(15, 2, 15, 2).mean(axis=(1, 3))
    m = found.values[0][2].astype(np.float64)
    expected = (m[:-1, :-1] + m[:-1, 1:] + m[1:, :-1] + m[1:, 1:]) / 4
    np.testing.assert_allclose(inner, expected, atol=0.05 * np.abs(m).max())
    assert found.overlay(2).width > 300
    with pytest.raises(LayerError, match="no unit 8"):
        found.overlay(8)
    with pytest.raises(LayerError, match="no places"):
        activations(model, photo(32, 64), "logits").overlay(1)


def test_pictures_of_different_sizes_share_a_sheet() -> None:
    net = SmallNet().model(["N", 3, "H", "W"])
    model = onnxvis.load(net, preprocessing={"resize": "none", "scale": 1 / 255})
    found = activations(model, [photo(24, 24), photo(20, 30), photo(24, 24, 1)], "features")
    assert [v.shape for v in found.values] == [(8, 24, 24), (8, 20, 30), (8, 24, 24)]
    assert found.sheet().height > 200


def test_the_command_writes_the_raw_maps(tmp_path: Path) -> None:
    net, out = convnet(), tmp_path / "out"
    onnx.save(net, tmp_path / "m.onnx")
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(pictures):
        Image.fromarray(photo(16, 16, seed)).save(path)
    command = ["activations", str(tmp_path / "m.onnx"), *map(str, pictures), "--preprocessing", "unit", "-o", str(out)]
    assert main([*command, "--layer", "relu1", "--unit", "3", "--unit", "5"]) == 0
    folder = out / "activations" / "r1"
    x = (photo(16, 16, 1).transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    np.testing.assert_allclose(np.load(folder / "b.npy"), by_onnxruntime(net, x, "r1")[0], atol=1e-5)
    data = json.loads((folder / "activations.json").read_text())
    best = data["pictures"][1]["strongest"][0]
    assert best["max_abs"] == pytest.approx(float(np.load(folder / "b.npy").max()))
    assert {p.name for p in folder.glob("*-unit-*.png")} == {f"{n}-unit-{u}.png" for n in "ab" for u in (3, 5)}
    assert main([*command, "--rank", "best"]) == 2
