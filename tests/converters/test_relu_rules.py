"""ReLU rules against references written out by hand from Springenberg et al., figure 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from onnx import helper
from support.onnx_nodes import build, single

from onnxvis.converters import ActivationKind, ReluRule, convert

X = np.array([[-2.0, -0.5, 0.5, 2.0, 5.0, 7.0, -1.0, 8.0]], np.float32)
G = torch.tensor([[1.0, -1.0, 1.0, -1.0, 0.5, 2.0, -3.0, -2.0]])


def _reference(rule: str, low: float, high: float) -> torch.Tensor:
    """The gradient in words: element by element."""
    out = []
    for x, g in zip(X[0].tolist(), G[0].tolist(), strict=True):
        linear = low < x < high
        passes = {"backprop": linear, "deconvnet": g > 0, "guided": linear and g > 0}[rule]
        out.append(g if passes else 0.0)
    return torch.tensor([out])


@pytest.mark.parametrize("rule", ["backprop", "deconvnet", "guided"])
@pytest.mark.parametrize("form", ["Relu", "Clip-6", "Clip-11", "Clip-from-0.25", "Max", "LeakyRelu-0", "FusedGemm"])
def test_rule(rule: str, form: str) -> None:
    low, high = 0.0, math.inf
    if form == "Relu":
        model = single("Relu", {"x": X})
    elif form == "Clip-6":
        model, high = single("Clip", {"x": X}, opset=7, min=0.0, max=6.0), 6.0
    elif form == "Clip-11":
        inputs = {"x": X, "low": np.float32(0), "high": np.float32(6)}
        model, high = single("Clip", inputs, constants=("low", "high")), 6.0
    elif form == "Clip-from-0.25":
        model, low = single("Clip", {"x": X, "low": np.float32(0.25)}, constants=("low",)), 0.25
    elif form == "Max":
        model = single("Max", {"zero": np.float32(0), "x": X}, constants=("zero",))
    elif form == "LeakyRelu-0":
        model = single("LeakyRelu", {"x": X}, alpha=0.0)
    else:
        inputs = {"x": X, "eye": np.eye(X.shape[1], dtype=np.float32)}
        model = single("FusedGemm", inputs, constants=("eye",), domain="com.microsoft", activation="Relu")
    graph = convert(model)
    assert graph.activations[0].kind is not ActivationKind.PLAIN
    x = torch.from_numpy(X).requires_grad_()
    y = graph({"x": x}, relu=rule)["y"]
    torch.testing.assert_close(y, x.clamp(low, high))
    (gradient,) = torch.autograd.grad(y, x, G)
    torch.testing.assert_close(gradient, _reference(rule, low, high), rtol=0, atol=0)


@pytest.mark.parametrize("op_type", ["Sigmoid", "Elu", "HardSwish", "LeakyRelu", "Softplus"])
def test_other_activations_keep_their_derivative(op_type: str) -> None:
    graph = convert(single(op_type, {"x": X}))
    assert [(a.kind, a.treatment) for a in graph.activations] == [(ActivationKind.PLAIN, "ordinary derivative")]
    gradients = []
    for rule in (None, ReluRule.GUIDED):
        x = torch.from_numpy(X).requires_grad_()
        gradients.append(torch.autograd.grad(graph({"x": x}, relu=rule)["y"], x, G)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_rectifier_used_by_two_branches() -> None:
    """Gradients of the branches are summed first, then rectified."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "two"], ["a"]),
        helper.make_node("Mul", ["r", "minus"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    constants = {"two": np.float32(2), "minus": np.float32(-3)}
    graph = convert(build(nodes, {"x": X}, ["y"], constants))
    x = torch.from_numpy(X).requires_grad_()
    (gradient,) = torch.autograd.grad(graph({"x": x}, relu="guided")["y"], x, G)
    expected = torch.where((x > 0) & (-G > 0), -G, 0.0)
    torch.testing.assert_close(gradient, expected)


def test_guided_gradient_equals_hooked_torch_module() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3),
        torch.nn.ReLU6(),
        torch.nn.Conv2d(4, 1, 2),
    )
    w = {f"{i}{k}": p.detach().numpy() for i, layer in enumerate(net) for k, p in layer.named_parameters()}
    nodes = [
        helper.make_node("Conv", ["x", "0weight", "0bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "2weight", "2bias"], ["c"]),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"]),
        helper.make_node("Conv", ["d", "4weight", "4bias"], ["y"]),
    ]
    x = torch.randn(1, 2, 6, 6)
    constants = {**w, "zero": np.float32(0), "six": np.float32(6)}
    graph = convert(build(nodes, {"x": x.numpy()}, ["y"], constants))
    for layer in net:
        if isinstance(layer, torch.nn.ReLU | torch.nn.ReLU6):
            layer.register_full_backward_hook(lambda _, inner, outer: (inner[0].clamp(min=0),))
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(first).sum(), first)
    (gradient,) = torch.autograd.grad(graph({"x": second}, relu="guided")["y"].sum(), second)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
