"""Filters are the weights that the file holds, in every form it can hold them; what is said of them is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.formats import FLOAT, convnet, half, model_of, quantized
from support.nets import SmallNet

import onnxvis
from onnxvis.behaviour.filters import Duplicate, convolutions, filters
from onnxvis.cli import main
from onnxvis.errors import LayerError, UsageError


def stored(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def one_convolution(weight: np.ndarray, op: str = "Conv", group: int = 1, size: int = 8) -> onnx.ModelProto:
    inputs = weight.shape[1]
    channels = weight.shape[0] if op == "ConvTranspose" else inputs * group
    spatial = [size] * (weight.ndim - 2)
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["scaled"], "scale"),
        helper.make_node(op, ["scaled", "w"], ["conv"], "conv", group=group),
        helper.make_node("Relu", ["conv"], ["out"], "relu"),
        helper.make_node("GlobalAveragePool", ["out"], ["gap"], "gap"),
        helper.make_node("Flatten", ["gap"], ["logits"], "flatten"),
    ]
    constants = {"w": weight.astype(np.float32), "one": np.ones((), np.float32)}
    return model_of(nodes, {"x": (FLOAT, [1, channels, *spatial])}, ["logits"], constants)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_filters_are_the_initializers() -> None:
    net = convnet()
    model = onnxvis.load(net)
    assert convolutions(model) == ["c1", "c2"]
    np.testing.assert_array_equal(filters(model).weights, stored(net, "w1"))
    for name in ("conv2", "c2"):
        found = filters(model, name)
        np.testing.assert_array_equal(found.weights, stored(net, "w2"))
        np.testing.assert_allclose(found.norms, np.linalg.norm(stored(net, "w2").reshape(8, -1), axis=1), rtol=1e-6)
        assert found.color_order is None
        assert found.kind == "convolution"
    assert filters(model, "r1").layer == "c1"


def test_layers_that_are_no_convolution_are_refused() -> None:
    model = onnxvis.load(convnet())
    with pytest.raises(LayerError, match="There are: c1, c2"):
        filters(model, "r2")  # a sum of two
    with pytest.raises(LayerError, match="c1"):
        filters(model, "fc")
    with pytest.raises(UsageError, match="cluster"):
        filters(model).order("clusters")


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_quantized_weights_are_the_numbers_they_stand_for(form: str) -> None:
    net = convnet()
    model = onnxvis.load(quantized(net, form))  # type: ignore[arg-type]
    found = filters(model)
    if form == "dynamic":
        np.testing.assert_array_equal(filters(model, "c1").weights, found.weights)
    weights = stored(net, "w1")
    # Static: signed, one scale for each unit. Dynamic: from the least to the largest weight in 255 steps, for all.
    largest = np.abs(weights).reshape(8, -1).max(axis=1)
    step = np.full(8, np.ptp(weights) / 255) if form == "dynamic" else largest / 127
    error = np.abs(found.weights - weights).reshape(8, -1).max(axis=1)
    assert (error <= 0.51 * step).all()
    assert (error > 0).all()
    assert found.color_order == (0, 1, 2)


def test_half_precision_weights_are_exact() -> None:
    net = convnet()
    np.testing.assert_array_equal(
        filters(onnxvis.load(half(net))).weights, stored(net, "w1").astype(np.float16).astype(np.float32)
    )


def test_dequantized_constants_with_a_scale_for_each_unit() -> None:
    whole = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    scale, zero = np.array([0.1, 0.2, 0.5, 2.0], np.float32), np.array([0, 1, -3, 7], np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["conv"]),
        helper.make_node("GlobalAveragePool", ["conv"], ["gap"]),
        helper.make_node("Flatten", ["gap"], ["logits"]),
    ]
    model = model_of(nodes, {"x": (FLOAT, [1, 3, 8, 8])}, ["logits"], {"w8": whole, "scale": scale, "zero": zero})
    expected = (whole.astype(np.float32) - zero.astype(np.float32)[:, None, None, None]) * scale[:, None, None, None]
    np.testing.assert_allclose(filters(onnxvis.load(model)).weights, expected, rtol=1e-6)


def test_weights_in_constant_nodes_and_in_external_files(tmp_path: Path) -> None:
    net = convnet()
    expected = stored(net, "w1")
    inline = onnx.ModelProto()
    inline.CopyFrom(net)
    kept = [t for t in inline.graph.initializer if t.name != "w1"]
    del inline.graph.initializer[:]
    inline.graph.initializer.extend(kept)
    inline.graph.node.insert(0, helper.make_node("Constant", [], ["w1"], value=numpy_helper.from_array(expected)))
    np.testing.assert_array_equal(filters(onnxvis.load(inline)).weights, expected)
    onnx.save(net, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    np.testing.assert_array_equal(filters(onnxvis.load(tmp_path / "m.onnx")).weights, expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_has_a_filter_for_each_output_unit(groups: int) -> None:
    weight = random(4, 3, 2, 5)  # inputs, units of a group, kernel
    found = filters(onnxvis.load(one_convolution(weight, "ConvTranspose", group=groups)))
    assert found.weights.shape == (3 * groups, 4 // groups, 2, 5)
    for unit in range(3 * groups):
        for k, i in enumerate(found.inputs_of(unit)):
            np.testing.assert_array_equal(found.weights[unit, k], weight[i, unit % 3])
    assert found.kind == "transposed"


def test_depthwise_and_grouped_units_know_their_inputs() -> None:
    depthwise = filters(onnxvis.load(one_convolution(random(6, 1, 3, 3), group=6)))
    assert (depthwise.kind, [list(depthwise.inputs_of(u)) for u in (0, 5)]) == ("depthwise", [[0], [5]])
    grouped = filters(onnxvis.load(one_convolution(random(6, 2, 3, 3), group=2)))
    assert (grouped.kind, [list(grouped.inputs_of(u)) for u in (2, 3)]) == ("grouped", [[0, 1], [2, 3]])


def test_dead_and_duplicate_filters_are_found() -> None:
    weight = random(8, 3, 3, 3, seed=5)
    weight[2] = 0
    weight[4] = 1e-5 * weight[4]
    weight[6] = -2.5 * weight[1]
    weight[7] = 3 * weight[0] + 0.01 * weight[7]
    found = filters(onnxvis.load(one_convolution(weight)))
    assert found.dead == (2, 4)
    assert [(d.first, d.second, round(d.cosine, 2)) for d in found.duplicates] == [(1, 6, -1.0), (0, 7, 1.0)]
    assert found.duplicates[0] == Duplicate(1, 6, pytest.approx(-1.0, abs=1e-6))  # type: ignore[arg-type]
    order = found.order("cluster")
    assert sorted(order) == list(range(8))
    assert order[-1] == 2
    assert abs(order.index(0) - order.index(7)) == 1
    assert found.order("norm")[-2:] == [4, 2]
    # The same kernel in two groups sees different channels: no duplicate.
    twice = np.repeat(random(1, 1, 3, 3), 4, axis=0)
    assert filters(onnxvis.load(one_convolution(twice, group=4))).duplicates == ()


def test_the_scale_that_follows_decides_who_is_dead() -> None:
    net = SmallNet()
    gamma = np.array([1, 1, 1e-9, 1, 0, 1, 1, -1], np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["conv"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["conv", "gamma", "b1", "zeros", "ones"], ["bn"], epsilon=0.0),
        helper.make_node("Relu", ["bn"], ["out"]),
        helper.make_node("GlobalAveragePool", ["out"], ["gap"]),
        helper.make_node("Flatten", ["gap"], ["logits"]),
    ]
    constants = {"w1": net.w1, "b1": net.b1, "gamma": gamma, "zeros": np.zeros(8, np.float32)}
    constants["ones"] = np.full(8, 4.0, np.float32)  # a standard deviation of 2
    model = model_of(nodes, {"image": (FLOAT, [1, 3, 16, 16])}, ["logits"], constants)
    found = filters(onnxvis.load(model))
    assert found.dead == (2, 4)
    np.testing.assert_allclose(
        found.norms, np.linalg.norm(net.w1.reshape(8, -1), axis=1) * np.abs(gamma) / 2, rtol=1e-5, atol=1e-12
    )
    np.testing.assert_array_equal(found.weights, net.w1)


def test_colors_are_those_of_the_picture() -> None:
    net = one_convolution(random(5, 3, 3, 3, seed=2))
    plain, swapped = (onnxvis.load(net, preprocessing={"channel_order": order}) for order in ("rgb", "bgr"))
    first, second = filters(plain), filters(swapped)
    assert (first.color_order, second.color_order) == ((0, 1, 2), (2, 1, 0))
    weights = first.weights[0]
    colors = np.rint((0.5 + weights / np.abs(weights).max() / 2) * 255).transpose(1, 2, 0)
    for found, expected in ((first, colors), (second, colors[..., ::-1])):
        sheet = np.asarray(found.sheet())
        side = round(56 / 3) * 3
        # The first tile stands at the margin, under the title; find it by its own pixels.
        block = np.repeat(np.repeat(expected, side // 3, 0), side // 3, 1)
        rows = [y for y in range(24, 90) if np.array_equal(sheet[y : y + side, 24 : 24 + side], block)]
        assert len(rows) == 1


def test_beyond_the_first_layer_kernels_are_drawn_not_colors() -> None:
    model = onnxvis.load(convnet(), preprocessing="unit")
    found = filters(model, "c2")
    for sort in ("number", "norm", "cluster"):
        for scale in ("filter", "shared"):
            assert found.sheet(sort, scale, most=3).height > 100
    with pytest.raises(UsageError, match="shared"):
        found.sheet(scale="all")
    with pytest.raises(UsageError, match="at least one filter"):
        found.sheet(most=0)


def test_one_dimensional_kernels_are_rows() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Conv", ["flat", "w"], ["conv"]),
        helper.make_node("ReduceMean", ["conv"], ["logits"], axes=[2], keepdims=0),
    ]
    constants = {"w": random(4, 3, 7), "shape": np.array([1, 3, 64], np.int64)}
    found = filters(onnxvis.load(model_of(nodes, {"x": (FLOAT, [1, 3, 8, 8])}, ["logits"], constants)))
    np.testing.assert_array_equal(found.weights[:, :, 0], constants["w"])
    assert found.color_order is None


def test_what_is_saved_can_be_read_again(tmp_path: Path) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "out"
    onnx.save(convnet(), model)
    assert main(["filters", str(model), "--sort", "cluster", "--out", str(out)]) == 0
    assert main(["filters", str(model), "--layer", "all", "--out", str(out)]) == 0
    weights = stored(convnet(), "w1")
    np.testing.assert_array_equal(np.load(out / "filters" / "c1" / "filters.npy"), weights)
    data = json.loads((out / "filters" / "c1" / "filters.json").read_text())
    np.testing.assert_allclose(data["norms"], np.linalg.norm(weights.reshape(8, -1), axis=1), rtol=1e-6)
    with Image.open(out / "filters" / "c2" / "filters.png") as sheet:
        assert sheet.width > 300
    assert main(["filters", str(model), "--layer", "nothing", "--out", str(out)]) == 2
    assert main(["filters", str(model), "--sort", "nothing", "--out", str(out)]) == 2


def test_a_model_without_convolutions_says_so() -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["logits"])]
    model = model_of(nodes, {"x": (TensorProto.FLOAT, [1, 3, 4, 4])}, ["logits"], {"w": random(48, 5)})
    with pytest.raises(LayerError, match="no convolution"):
        filters(onnxvis.load(model))
