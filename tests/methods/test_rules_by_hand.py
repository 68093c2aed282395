"""The rules re-derived from the paper with matrices, and the rectifiers that hooks on modules miss.

Every linear part of a tiny network becomes a matrix, found by sending basis vectors through loops; the way back
multiplies with its transpose and applies figure 1 of Springenberg et al. at each rectifier.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop
from onnx import helper
from support.formats import FLOAT, model_of
from support.pairs import assert_close, vjp
from torch import nn
from torch.nn import functional

import onnxvis

RULES = {"saliency": "backprop", "guided-backprop": "guided", "deconvnet": "deconvnet"}
SIDE, UNITS, CLASSES = 8, 4, 5


def correlate(x, kernel):
    """A convolution layer in loops: 3 x 3, padding 1."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(kernel), *x.shape[1:]))
    for k, i, j in np.ndindex(out.shape):
        out[k, i, j] = (padded[:, i : i + 3, j : j + 3] * kernel[k]).sum()
    return out


def matrix_of(linear, shape):
    columns = []
    for place in np.ndindex(shape):
        basis = np.zeros(shape)
        basis[place] = 1
        columns.append(linear(basis).reshape(-1))
    return np.stack(columns, axis=1)


def back(rule, x, signal, high=np.inf):
    """Figure 1 of Springenberg et al.; a saturated rectifier is as little active as one below zero."""
    active = (x > 0) & (x < high)
    if rule == "backprop":
        return np.where(active, signal, 0)
    if rule == "deconvnet":
        return np.where(signal > 0, signal, 0)
    return np.where(active & (signal > 0), signal, 0)


class Hand:
    """conv - ReLU6 - max pool - (conv + skip) - ReLU - mean over places - linear, weights and way back in numpy."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.w1 = rng.standard_normal((UNITS, 3, 3, 3)).astype(np.float32)
        self.w2 = (0.3 * rng.standard_normal((UNITS, UNITS, 3, 3))).astype(np.float32)
        self.w3 = rng.standard_normal((CLASSES, UNITS)).astype(np.float32)
        self.x = rng.standard_normal((3, SIDE, SIDE)).astype(np.float32)
        half = (UNITS, SIDE // 2, SIDE // 2)
        self.conv1 = matrix_of(lambda a: correlate(a, self.w1.astype(float)), (3, SIDE, SIDE))
        self.conv2 = matrix_of(lambda a: correlate(a, self.w2.astype(float)), half)
        self.before1 = (self.conv1 @ self.x.reshape(-1).astype(float)).reshape(UNITS, SIDE, SIDE)
        first = np.clip(self.before1, 0, 6)
        self.switches, pooled = np.zeros((np.prod(half), first.size)), np.zeros(half)
        for place in np.ndindex(half):
            k, i, j = place
            window = [(k, 2 * i + a, 2 * j + b) for a, b in itertools.product((0, 1), (0, 1))]
            best = max(window, key=lambda p: first[p])
            pooled[place] = first[best]
            self.switches[np.ravel_multi_index(place, half), np.ravel_multi_index(best, first.shape)] = 1
        self.before2 = (self.conv2 @ pooled.reshape(-1)).reshape(half) + pooled
        self.after2 = np.maximum(self.before2, 0)
        self.logits = self.w3.astype(float) @ self.after2.mean(axis=(1, 2))
        assert (self.before1 > 6).any()
        assert (self.before1 < 0).any()

    def from_layer(self, signal, rule):
        """The way back from the second rectifier's output to the picture."""
        signal = back(rule, self.before2, signal).reshape(-1)
        signal = self.conv2.T @ signal + signal
        signal = (self.switches.T @ signal).reshape(self.before1.shape)
        return (self.conv1.T @ back(rule, self.before1, signal, 6).reshape(-1)).reshape(self.x.shape)

    def from_class(self, index, rule):
        places = self.after2[0].size
        signal = np.broadcast_to(self.w3[index].astype(float)[:, None, None] / places, self.after2.shape)
        return self.from_layer(signal, rule)

    def onnx(self):
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            helper.make_node("Clip", ["c1", "low", "high"], ["r1"]),
            helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["p1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["c2", "p1"], ["s2"]),
            helper.make_node("Relu", ["s2"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Gemm", ["f", "w3"], ["logits"], transB=1),
        ]
        bounds = {"low": np.float32(0), "high": np.float32(6)}
        constants = {"w1": self.w1, "w2": self.w2, "w3": self.w3} | {k: np.array(v) for k, v in bounds.items()}
        return model_of(nodes, {"x": (FLOAT, ["n", 3, SIDE, SIDE])}, ["logits"], constants)


@pytest.fixture(scope="module")
def hand():
    return Hand()


@pytest.fixture(scope="module")
def model(hand):
    return onnxvis.load(hand.onnx())


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("index", range(CLASSES))
def test_a_class(hand, model, method, index):
    ours = onnxvis.explain(model, hand.x[None], method, index, float64=True)
    assert ours.score == pytest.approx(hand.logits[index], rel=1e-5)
    assert_close([ours], [hand.from_class(index, RULES[method])])


@pytest.mark.parametrize("unit", range(UNITS))
def test_a_unit_of_a_layer(hand, model, unit):
    ours = onnxvis.explain(model, hand.x[None], "zfnet-deconvnet", 0, layer="r2", unit=unit, float64=True)
    row, col = np.unravel_index(hand.after2[unit].argmax(), hand.after2[unit].shape)
    assert (ours.parameters["row"], ours.parameters["col"]) == (row, col)
    signal = np.zeros_like(hand.after2)
    signal[unit, row, col] = hand.after2[unit, row, col]
    assert_close([ours], [hand.from_layer(signal, "deconvnet")])


class Awkward(nn.Module):
    """One rectifier module used twice, one called as a function, one with an upper bound."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1) for i in range(4)])
        self.shared, self.bounded, self.head = nn.ReLU(inplace=True), nn.ReLU6(), nn.Linear(6, 4)

    def forward(self, x):
        x = self.shared(self.convs[0](x))
        x = self.shared(self.convs[1](x))
        x = functional.relu(self.convs[2](x))
        x = self.bounded(20 * self.convs[3](x))
        return self.head(x.mean(dim=(2, 3)))


def test_rectifiers_that_captum_misses(tmp_path):
    torch.manual_seed(3)
    net = Awkward().eval().requires_grad_(False)
    x = torch.randn(2, 3, 12, 12)
    path = tmp_path / "awkward.onnx"
    torch.onnx.export(
        net, (x,), str(path), dynamo=False, opset_version=17, dynamic_axes={"x": {0: "n"}}, input_names=["x"]
    )
    ours = onnxvis.explain(onnxvis.load(path), [one[None].numpy() for one in x], "guided-backprop", 1, float64=True)
    net, x = net.double(), x.double()
    cotangent = torch.zeros(2, 4, dtype=torch.float64)
    cotangent[:, 1] = 1
    assert_close(ours, vjp(net, x, cotangent, "guided"))
    assert "acts at 4 of 4 activations: 1 Clip, 3 Relu" in ours[0].notes[0]
    captum = GuidedBackprop(net).attribute(x.requires_grad_(), target=1).detach().numpy()
    assert np.abs(captum[0] - ours[0].attribution).max() > 0.1 * np.abs(captum[0]).max()
