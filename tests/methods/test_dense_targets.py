"""Targets of dense outputs: positions, regions, detections, and detectors with suppression inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxvis
from onnxvis.labels import Labels
from onnxvis.target import OutputForm, resolve

CLASSES, GRID = 3, 8
BOXES = GRID * GRID


def detector(suppress: bool, raw: bool = False) -> onnx.ModelProto:
    """A detector of 64 boxes; ``suppress`` ends in NonMaxSuppression, ``raw`` in one (1, 4 + K, A) tensor."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w1": weight(16, 3, 3, 3),
        "wb": weight(4, 16, 1, 1),
        "ws": weight(CLASSES, 16, 1, 1),
        "shape_b": np.array([-1, 4, BOXES], np.int64),
        "shape_s": np.array([-1, CLASSES, BOXES], np.int64),
        "most": np.array([10], np.int64),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.1], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "c1", strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "r1"),
        helper.make_node("Conv", ["r1", "wb"], ["b"], "cb"),
        helper.make_node("Conv", ["r1", "ws"], ["s"], "cs"),
        helper.make_node("Reshape", ["b", "shape_b"], ["b2"], "rb"),
        helper.make_node("Reshape", ["s", "shape_s"], ["s2"], "rs"),
        helper.make_node("Sigmoid", ["s2"], ["scores"], "sg"),
    ]
    if raw:
        nodes.append(helper.make_node("Concat", ["b2", "scores"], ["out"], "join", axis=1))
        output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 4 + CLASSES, BOXES])
    elif suppress:
        nodes.append(helper.make_node("Transpose", ["b2"], ["boxes"], "tb", perm=[0, 2, 1]))
        inputs = ["boxes", "scores", "most", "iou", "least"]
        nodes.append(helper.make_node("NonMaxSuppression", inputs, ["chosen"], "nms"))
        output = helper.make_tensor_value_info("chosen", TensorProto.INT64, ["k", 3])
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [output],
        [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def x() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)


def test_suppression_is_cut_before_and_said(x: np.ndarray[Any, Any]) -> None:
    model = onnxvis.load(detector(suppress=True))
    assert model.logits.tensor == "s2"
    assert model.logits.kind == "detection"
    assert "NonMaxSuppression" in model.logits.reason
    found = onnxvis.explain(model, x, "grad-cam", "1")
    scores = model.engine.forward(x, ("s2",))["s2"][0, 1]
    assert isinstance(found, onnxvis.Explanation)
    assert found.score == pytest.approx(float(scores.max()), rel=1e-6)
    assert found.target == f"class 1 @ best ({scores.argmax()})"
    assert found.parity is not None
    assert found.parity.passed


def test_the_gradient_of_one_box_stays_in_its_field(x: np.ndarray[Any, Any]) -> None:
    model = onnxvis.load(detector(suppress=True))
    row, col = 3, 5
    found = onnxvis.explain(model, x, "saliency", f"2 @ {row * GRID + col}")
    assert isinstance(found, onnxvis.Explanation)
    touched = np.argwhere(np.abs(found.attribution).max(axis=0) > 0)
    top, left = row * 4 - 1, col * 4 - 1
    assert (touched.min(axis=0) >= (top, left)).all()
    assert (touched.max(axis=0) <= (top + 2, left + 2)).all()


def test_labels_skip_the_box_coordinates(x: np.ndarray[Any, Any]) -> None:
    model = onnxvis.load(detector(suppress=False, raw=True), labels=["cup", "spoon", "plate"])
    out = model.engine.forward(x, ("out",))["out"][0]
    found = onnxvis.explain(model, x, "saliency", "spoon")
    assert isinstance(found, onnxvis.Explanation)
    assert found.score == pytest.approx(float(out[4 + 1].max()), rel=1e-5)
    assert {c.label for c in model.predict(x).top} == {"cup", "spoon", "plate"}  # type: ignore[union-attr]


def test_a_region_is_the_mean_of_its_positions() -> None:
    logits = np.random.default_rng(2).standard_normal((4, 6, 7)).astype(np.float32)
    labels = Labels((), "none")
    (score,) = resolve("2 @ 1,2,4,6", logits, labels)
    assert score.value(logits[None])[0] == pytest.approx(float(logits[2, 1:4, 2:6].mean()), rel=1e-6)
    (contrast,) = resolve("2 @ 1,2 - 3 @ 1,2", logits, labels)
    assert contrast.value(logits[None])[0] == pytest.approx(float(logits[2, 1, 2] - logits[3, 1, 2]), rel=1e-5)
    (whole,) = resolve("1 @ all", logits, labels)
    assert whole.value(logits[None])[0] == pytest.approx(float(logits[1].mean()), rel=1e-5)
    last = np.moveaxis(logits, 0, -1)
    (moved,) = resolve("2 @ 1,2,4,6", last, labels, form=OutputForm(class_axis=2))
    assert moved.value(last[None])[0] == pytest.approx(float(logits[2, 1:4, 2:6].mean()), rel=1e-6)


@pytest.mark.parametrize("spec", ["1 @ 9,9", "1 @ 1", "1 @ 1,2,3", "1 @ 3,3,3,5", "9 @ 0,0"])
def test_impossible_places_are_refused(spec: str) -> None:
    logits = np.zeros((4, 6, 7), np.float32)
    with pytest.raises(onnxvis.TargetError):
        resolve(spec, logits, Labels((), "none"))
