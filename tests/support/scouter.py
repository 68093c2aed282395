"""A small classifier of digits, labelled digits, and SCOUTER files with untrained heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

import onnxvis
from onnxvis.behaviour.scouter import HeadForm, HeadSettings, Samples, samples_of
from onnxvis.behaviour.scouter.head import XSlotHead
from onnxvis.behaviour.scouter.joining import Parts, join, trunk_of
from onnxvis.model import Model

__all__ = ["CLASSES", "classifier", "digits", "opened", "untrained"]

GRAY = {"scale": 1 / 255, "channel_order": "gray"}
CLASSES = ("zero", "one", "two")


def classifier(layout: str = "NCHW", opset: int = 17, batch: int | str = "N", weights: int = 0) -> onnx.ModelProto:
    """Image 16 x 16 -> random filters -> ReLU ("features") -> mean -> linear: a backbone that needs no training."""
    chance = np.random.default_rng(weights)
    turned = layout == "NHWC"
    nodes = [
        helper.make_node("Conv", ["x" if turned else "image", "w1", "b1"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r" if turned else "features"]),
    ]
    if turned:
        nodes.insert(0, helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", ["r"], ["features"], perm=[0, 2, 3, 1]))
    axes: dict[str, Any] = {"axes": [1, 2] if turned else [2, 3], "keepdims": 0}
    nodes += [
        helper.make_node("ReduceMean", ["features"], ["mean"], **axes),
        helper.make_node("MatMul", ["mean", "w2"], ["scores"]),
    ]
    arrays = {
        "w1": chance.standard_normal((12, 1, 3, 3)).astype(np.float32),
        "b1": (0.1 * chance.standard_normal(12)).astype(np.float32),
        "w2": chance.standard_normal((12, 10)).astype(np.float32),
    }
    shape = [batch, 16, 16, 1] if turned else [batch, 1, 16, 16]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def opened(proto: onnx.ModelProto) -> Model:
    return onnxvis.load(proto, preprocessing=GRAY, provider="cpu")


def digits(count: int = 160, start: int = 0) -> Samples:
    """Digits 0, 1 and 2, enlarged to 16 x 16."""
    data = load_digits()
    rows = np.flatnonzero(data.target < 3)[start : start + count]
    pictures = [np.kron(data.images[i] * 15.9, np.ones((2, 2))).astype(np.uint8) for i in rows]
    return samples_of(pictures, data.target[rows].astype(np.int64), CLASSES, "digits")


def untrained(settings: HeadSettings, seed: int = 1) -> onnx.ModelProto:
    """The classifier with a head of random weights."""
    model = opened(classifier())
    torch.manual_seed(seed)
    form = HeadForm(settings, 12, 8, 8, len(CLASSES))
    head = XSlotHead(form)
    weights = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    trunk = trunk_of(classifier(), "image", "features")
    parts = Parts(trunk, "image", (1, 1, 16, 16), "features", (0, 1, 2, 3), False, form, weights)
    return join(parts, CLASSES, model.preprocessing, {})
