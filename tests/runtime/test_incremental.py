"""Incremental occlusion of real architectures: logits against full recomputation, and when the answer is "plain"."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import zoo
from support.incremental import all_logits, graphs_of, relative, whole_logits

import onnxvis
from onnxvis.demo import lite0, photo
from onnxvis.graph.index import GraphIndex
from onnxvis.kernels.occlusion import windows
from onnxvis.runtime.incremental import Incremental, Refusal, Weights, build
from onnxvis.runtime.incremental.geometry import Reach, trace

EXACT = 1e-5
MANY_CUTS = Weights(per_value=20.0, per_call=1e3)
FAST = (("resnet18", "legacy", 17, 128), ("squeezenet1_1", "legacy", 17, 96), ("mobilenet_v2", "dynamo", 18, 96))
SLOW = (
    ("vgg11_bn", "dynamo", 18, 96),
    ("resnet50", "dynamo", 18, 96),
    ("googlenet", "dynamo", 18, 96),
    ("densenet121", "legacy", 17, 128),
    ("inception_v3", "dynamo", 18, 128),
)


def check(
    model: onnxvis.Model, x: np.ndarray, window: tuple[int, int], stride: tuple[int, int], share: int
) -> Incremental:
    """Every ``share``-th position against full recomputation, all positions computed."""
    places = windows(x.shape[2:], window, stride)
    fill = np.random.default_rng(3).normal(0, 1, x.shape[1:]).astype(np.float32)
    runner = build(graphs_of(model, x), places, x, MANY_CUTS)
    assert isinstance(runner, Incremental), runner
    found = all_logits(runner, x, fill, places)
    some = np.arange(0, len(places), share)
    expected = whole_logits(model, x, fill, [places[p] for p in some])
    assert relative(found[some], expected) < EXACT
    return runner


@pytest.mark.parametrize(
    ("name", "exporter", "opset", "size"), [*FAST, *(pytest.param(*s, marks=pytest.mark.slow) for s in SLOW)]
)
def test_logits_of_every_architecture(name: str, exporter: zoo.Exporter, opset: int, size: int) -> None:
    batch = size == 96
    model = onnxvis.load(zoo.export(name, exporter, opset, size, dynamic_batch=batch))
    runner = check(model, zoo.image(size), (16, 24), (9, 16), 7)
    assert len(runner.plan.cuts) > 1
    assert runner.plan.operations < 0.95


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (64, 32), (17, 13)])
def test_windows_and_strides(window: int, stride: int) -> None:
    model = onnxvis.load(zoo.export("resnet18", "legacy", 17, 128))
    check(model, zoo.image(128), (window, window), (stride, stride), 1 + (128 // stride) ** 2 // 60)


def test_a_trained_network_and_a_photo() -> None:
    for exporter in ("dynamo", "legacy"):  # the legacy export computes its paddings at run time
        model = onnxvis.load(lite0(exporter))
        runner = check(model, model.prepare(photo()).tensor, (32, 32), (32, 32), 5)
        assert len(runner.plan.cuts) > 3


def test_squeeze_and_excitation_is_answered_plain() -> None:
    model = onnxvis.load(zoo.export("efficientnet_b0", "legacy", 17, 96, dynamic_batch=True))
    x = zoo.image(96)
    found = build(graphs_of(model, x), windows((96, 96), (16, 16), (16, 16)), x, Weights())
    assert isinstance(found, Refusal)
    assert "whole map" in found.reason


def constant_net(extra: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """image (N, 3, 48, 48) -> Conv -> Relu "a" -> ``extra``, from "a" to "b" -> Conv -> Relu -> pool -> Gemm."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.2, (16, 8, 3, 3)).astype(np.float32),
        "w3": rng.normal(0, 1, (16, 5)).astype(np.float32),
        **constants,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["a"], "relu1"),
        *extra,
        helper.make_node("Conv", ["b", "w2"], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["d"], "relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "baked",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 48, 48])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_baked_shape_ends_the_cutting() -> None:
    shuffle = [
        helper.make_node("Reshape", ["a", "s1"], ["r1"], "shuffle1"),
        helper.make_node("Transpose", ["r1"], ["r2"], "shuffle2", perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["r2", "s2"], ["b"], "shuffle3"),
    ]
    sizes = {"s1": np.array([-1, 2, 4, 48, 48]), "s2": np.array([-1, 8, 48, 48])}
    model = onnxvis.load(constant_net(shuffle, sizes))
    runner = check(model, zoo.image(48), (6, 6), (6, 6), 1)
    assert runner.plan.cuts == ("image", "a")


def test_a_weight_for_each_position_ends_the_cutting() -> None:
    ramp = np.linspace(0, 1, 48 * 48).reshape(1, 1, 48, 48).astype(np.float32)
    model = onnxvis.load(constant_net([helper.make_node("Add", ["a", "ramp"], ["b"], "add")], {"ramp": ramp}))
    runner = check(model, zoo.image(48), (6, 6), (6, 6), 1)
    assert runner.plan.cuts == ("image", "a")


def test_a_segment_that_answers_otherwise_on_a_crop_is_not_used() -> None:
    """The mean of the rows is local to no geometry, but here it hides behind a function of the file's own."""
    body = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    proto = constant_net([helper.make_node("Center", ["a"], ["b"], "center", domain="own")], {})
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("own", "Center", ["x"], ["y"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    model = onnxvis.load(proto)
    runner = check(model, zoo.image(48), (6, 6), (6, 6), 1)
    assert runner.plan.cuts == ("image", "a")


def test_skip_connections_are_never_crossed() -> None:
    model = onnxvis.load(zoo.export("resnet18", "legacy", 17, 64))
    x = zoo.image(64)
    runner = build(graphs_of(model, x), windows((64, 64), (8, 8), (8, 8)), x, MANY_CUTS)
    assert isinstance(runner, Incremental)
    inside = [c for c in runner.plan.cuts if c.endswith(("conv1/Conv_output_0", "relu/Relu_output_0")) and "layer" in c]
    assert inside == []


def test_the_reach_of_a_strided_convolution_by_hand() -> None:
    # Kernel 3, stride 2, one position of padding before: unit u reads 2u - 1 ... 2u + 1 of 8 positions.
    reach = Reach(np.array([0, 1, 3, 5]), np.array([1, 3, 5, 7]))
    np.testing.assert_array_equal(
        reach.forward(np.array([[0, 0], [1, 1], [4, 6], [7, 7]])), [[0, 0], [0, 1], [2, 3], [3, 3]]
    )
    np.testing.assert_array_equal(reach.backward(np.array([[0, 0], [1, 2]]), 8), [[0, 1], [1, 5]])


def test_the_geometry_of_a_network_stops_with_a_reason() -> None:
    model = onnxvis.load(zoo.export("resnet18", "legacy", 17, 64))
    geometry = trace(GraphIndex(model.canonical.model, model.shapes), model.image_input.name, "NCHW")
    last = list(geometry.places.values())[-1]
    assert last.lengths == (2, 2)
    assert last.jumps == (32, 32)
    assert "pools over the whole map" in next(iter(geometry.stops.values()))
