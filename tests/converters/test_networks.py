"""Whole networks, from both exporters: outputs against onnxruntime, gradients against the torch original."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from support import zoo
from support.onnx_nodes import run_onnxruntime

from onnxvis.converters import convert

SIZE = 64
_NETS = ["resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet", "densenet121", "efficientnet_b0"]
_FAST = [("resnet18", "legacy", 17), ("resnet18", "dynamo", 18), ("squeezenet1_1", "legacy", 13)]
_SLOW = [
    *((name, exporter, opset) for name in _NETS for exporter, opset in (("legacy", 17), ("dynamo", 18))),
    *((name, "dynamo", 22) for name in ("mobilenet_v2", "densenet121")),
    *((name, "legacy", 17) for name in ("mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x1_0")),
    *((name, "dynamo", 20) for name in ("convnext_tiny", "shufflenet_v2_x1_0")),
    ("deeplabv3_mobilenet_v3_large", "dynamo", 18),
]
CASES = [pytest.param(*case, id="-".join(map(str, case))) for case in _FAST] + [
    pytest.param(*case, id="-".join(map(str, case)), marks=pytest.mark.slow) for case in _SLOW if case not in _FAST
]


@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_network(name: str, exporter: zoo.Exporter, opset: int) -> None:
    model = onnx.load(zoo.export(name, exporter, opset, SIZE))
    graph = convert(model)
    picture = zoo.image(SIZE)
    expected = run_onnxruntime(model, {zoo.INPUT: picture})[0]
    logits = graph({zoo.INPUT: torch.from_numpy(picture)})[zoo.OUTPUT].numpy()
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()

    x = torch.from_numpy(picture).double().requires_grad_()
    made = graph.to_dtype(torch.float64)({zoo.INPUT: x})[zoo.OUTPUT]
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((made * weights).sum(), x)
    original = x.detach().clone().requires_grad_()
    (reference,) = torch.autograd.grad((zoo.torch_module(name).double()(original) * weights).sum(), original)
    # The exporter folds BatchNorm into float32 weights; the deeper nets carry that rounding further.
    tolerance = 1e-6 if name in _NETS else 5e-6
    assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_canonical_dialect(name: str) -> None:
    from onnxvis.graph.canonical import canonicalize

    model = onnx.load(zoo.export(name, "dynamo", 18, SIZE))
    picture = zoo.image(SIZE)
    expected = run_onnxruntime(model, {zoo.INPUT: picture})[0]
    made = convert(canonicalize(model).model)({zoo.INPUT: torch.from_numpy(picture)})[zoo.OUTPUT].numpy()
    assert np.abs(made - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_shape_arithmetic_needs_no_device(name: str, exporter: zoo.Exporter, opset: int) -> None:
    """On torch's meta device no number can be read: a shape that left the CPU would fail."""
    model = onnx.load(zoo.export(name, exporter, opset, SIZE))
    graph = convert(model).to("meta")
    made = graph({zoo.INPUT: torch.empty(1, 3, SIZE, SIZE, device="meta")})[zoo.OUTPUT]
    assert made.device.type == "meta"
    assert tuple(made.shape) == tuple(run_onnxruntime(model, {zoo.INPUT: zoo.image(SIZE)})[0].shape)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "exporter", "opset"), CASES[:3])
def test_cuda(name: str, exporter: zoo.Exporter, opset: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    graph = convert(onnx.load(zoo.export(name, exporter, opset, SIZE))).to_dtype(torch.float64)
    answers = []
    for device in ("cpu", "cuda"):
        x = torch.from_numpy(zoo.image(SIZE)).double().to(device).requires_grad_()
        y = graph.to(device)({zoo.INPUT: x})[zoo.OUTPUT]
        answers.append((y.detach().cpu(), torch.autograd.grad(y[:, 1].sum(), x)[0].cpu()))
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_zoo_module_is_rebuilt_identically() -> None:
    first, second = zoo.torch_module("squeezenet1_1"), zoo.torch_module("squeezenet1_1")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not first.training
