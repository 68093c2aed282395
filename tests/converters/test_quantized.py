"""Files that onnxruntime's own tools write: int8 in three forms, half precision, optimized graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.onnx_nodes import build, run_onnxruntime, single

from onnxvis.converters import ActivationKind, convert
from onnxvis.converters.fakequant import quantize, round_through

RNG = np.random.default_rng(11)
X = RNG.standard_normal((2, 3, 12, 12)).astype(np.float32)


def _net() -> onnx.ModelProto:
    def weight(*shape: int) -> np.ndarray[Any, Any]:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return (scale * RNG.standard_normal(shape)).astype(np.float32)

    weights = {
        "w1": weight(8, 3, 3, 3),
        "b1": 0.1 * weight(8),
        "w2": weight(8, 8, 3, 3),
        "b2": 0.1 * weight(8),
        "w3": weight(8, 1, 3, 3),
        "wf": weight(5, 8),
        "bf": 0.1 * weight(5),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1] * 4, name="conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1] * 4, name="conv2"),
        helper.make_node("Add", ["c2", "r1"], ["a"], name="add"),
        helper.make_node("Relu", ["a"], ["r2"], name="relu2"),
        helper.make_node("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2], name="pool"),
        helper.make_node("Conv", ["p", "w3"], ["c3"], group=8, pads=[1] * 4, name="conv3"),
        helper.make_node("Clip", ["c3", "low", "high"], ["r3"], name="clip"),
        helper.make_node("GlobalAveragePool", ["r3"], ["g"], name="gap"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "wf", "bf"], ["y"], transB=1, name="head"),
    ]
    model = build(nodes, {"x": X}, ["y"], weights)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5]))
    return model


NET = _net()


def _gradient(model: onnx.ModelProto) -> torch.Tensor:
    x = torch.from_numpy(X).requires_grad_()
    (gradient,) = torch.autograd.grad(convert(model)({"x": x})["y"][:, 1].sum(), x)
    return gradient


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _saved(tmp_path: Path) -> tuple[str, str]:
    source = tmp_path / "float.onnx"
    onnx.save(NET, source)
    return str(source), str(tmp_path / "out.onnx")


class _Reader:
    def __init__(self) -> None:
        self.rows: Iterator[dict[str, Any]] = iter([{"x": X}, {"x": 0.7 * X}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rows, None)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_static_int8(tmp_path: Path, form: str, per_channel: bool) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_static

    source, target = _saved(tmp_path)
    quantize_static(source, target, _Reader(), quant_format=QuantFormat[form], per_channel=per_channel)
    model = onnx.load(target)
    expected = run_onnxruntime(model, {"x": X})[0]
    made = convert(model)({"x": torch.from_numpy(X)})["y"].numpy()
    float_answer = run_onnxruntime(NET, {"x": X})[0]
    # Off by rounding at ties at most, far below what quantization itself changes.
    assert np.abs(made - expected).max() <= 0.25 * np.abs(float_answer - expected).max()
    assert _cosine(_gradient(model), _gradient(NET)) > 0.9


def test_dynamic_int8(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source, target = _saved(tmp_path)
    quantize_dynamic(source, target)
    model = onnx.load(target)
    expected = run_onnxruntime(model, {"x": X})[0]
    made = convert(model)({"x": torch.from_numpy(X)})["y"].numpy()
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert _cosine(_gradient(model), _gradient(NET)) > 0.9


def test_half_precision(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(NET, keep_io_types=True)
    made = convert(model)({"x": torch.from_numpy(X)})["y"].numpy()
    np.testing.assert_allclose(made, run_onnxruntime(NET, {"x": X})[0], rtol=2e-3, atol=2e-3)
    assert _cosine(_gradient(model), _gradient(NET)) > 0.999


def test_graph_that_onnxruntime_optimized(tmp_path: Path) -> None:
    import onnxruntime as ort

    source, target = _saved(tmp_path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = target
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    assert "FusedConv" in {node.op_type for node in model.graph.node}
    graph = convert(model)
    x = torch.from_numpy(X)
    np.testing.assert_allclose(graph({"x": x})["y"].numpy(), run_onnxruntime(NET, {"x": X})[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(_gradient(model), _gradient(NET), rtol=1e-5, atol=1e-6)
    fused = [a for a in graph.activations if a.op_type == "FusedConv"]
    assert fused
    assert all(a.kind is ActivationKind.RELU_LIKE for a in fused)
    # A rectifier inside a fused node obeys the rule like one that stands alone.
    plain = convert(NET)
    gradients = []
    for candidate in (graph, plain):
        image = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(candidate({"x": image}, relu="guided")["y"][:, 1].sum(), image)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_quantized_binary(op_type: str) -> None:
    a = RNG.integers(0, 255, (2, 3, 4)).astype(np.uint8)
    b = RNG.integers(0, 255, (3, 1)).astype(np.uint8)
    scales = {"as": np.float32(0.02), "bs": np.float32(0.03), "ys": np.float32(0.05)}
    zeros = {"az": np.uint8(120), "bz": np.uint8(100), "yz": np.uint8(128)}
    inputs = {"a": a, "as": scales["as"], "az": zeros["az"], "b": b, "bs": scales["bs"], "bz": zeros["bz"]}
    inputs |= {"ys": scales["ys"], "yz": zeros["yz"]}
    constants = tuple(name for name in inputs if name not in ("a", "b"))
    model = single(op_type, inputs, constants=constants, domain="com.microsoft")
    expected = run_onnxruntime(model, {"a": a, "b": b})[0].astype(np.float64)
    made = convert(model)({"a": torch.from_numpy(a), "b": torch.from_numpy(b)})["y"].numpy()
    assert np.abs(made - expected).max() <= 1
    assert np.mean(made != expected) < 0.05


def test_straight_through_gradient() -> None:
    x = torch.tensor([-3.0, -0.26, 0.0, 0.24, 0.9, 40.0], requires_grad=True)
    y = quantize(x, torch.tensor(0.1), torch.tensor(8, dtype=torch.uint8), (0, 15))
    torch.testing.assert_close(y, torch.tensor([0.0, 5.0, 8.0, 10.0, 15.0, 15.0]))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 10.0, 10.0, 10.0, 0.0, 0.0]))
    half = torch.tensor([0.5, 1.5, 2.5])
    torch.testing.assert_close(round_through(half), torch.tensor([0.0, 2.0, 2.0]))


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Gelu", {}),
        ("FastGelu", {}),
        ("QuickGelu", {"alpha": 1.5}),
        ("BiasGelu", {}),
        ("SkipLayerNormalization", {"epsilon": 1e-5}),
        ("FusedMatMul", {"transB": 1, "alpha": 0.3}),
        (
            "FusedGemm",
            {"transB": 1, "alpha": 0.3, "beta": 2.0, "activation": "LeakyRelu", "activation_alpha": 0.2},
        ),
    ],
)
def test_microsoft_float_operators(op_type: str, attributes: dict[str, Any]) -> None:
    x, b = RNG.standard_normal((4, 6)).astype(np.float32), RNG.standard_normal(6).astype(np.float32)
    inputs: dict[str, Any] = {"x": x}
    if op_type in ("BiasGelu", "FastGelu"):
        inputs["b"] = b
    if op_type == "SkipLayerNormalization":
        x = x.reshape(1, 4, 6)
        inputs = {"x": x, "skip": 0.5 * x + 1, "scale": b, "shift": b[::-1].copy(), "bias": 2 * b}
    if op_type in ("FusedMatMul", "FusedGemm"):
        inputs["w"] = RNG.standard_normal((3, 6)).astype(np.float32)
    if op_type == "FusedGemm":
        inputs["c"] = b[:3]
    model = single(op_type, inputs, domain="com.microsoft", **attributes)
    expected = run_onnxruntime(model, inputs)[0]
    made = convert(model)({name: torch.from_numpy(value) for name, value in inputs.items()})["y"]
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=1e-5)
