"""Grad-CAM, saliency and occlusion of the exported file against Captum on the torch module it came from."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from support import zoo
from support.references import (
    captum_grad_cam,
    captum_occlusion,
    captum_saliency,
    layer_of,
    relative_error,
)

import onnxvis
from onnxvis import demo

NETS = ("resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet", "efficientnet_b0", "mobilenet_v3_small")
SIZE, TARGET = 64, 3
# Exporters fold BatchNorm into the convolutions in float32. Folding the torch module in the same way moves its
# own float64 Grad-CAM by 6.6e-6 (mobilenet_v2), so only a network without BatchNorm can agree to 1e-6.
EXACT, FOLDED = 1e-6, 1e-5
EXPORTERS = ("legacy", "dynamo")


@functools.cache
def zoo_reference(name: str) -> torch.nn.Module:
    return zoo.torch_module(name).double()


def zoo_model(name: str, exporter: str) -> onnxvis.Model:
    return onnxvis.load(zoo.export(name, exporter, 17 if exporter == "legacy" else 18, SIZE))


@functools.cache
def lite0_reference() -> torch.nn.Module:
    return demo.lite0_module().double()


@functools.cache
def lite0(exporter: str) -> onnxvis.Model:
    return onnxvis.load(demo.lite0(exporter))


@functools.cache
def prepared_photo() -> np.ndarray:
    return lite0("dynamo").prepare(demo.photo()).tensor


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETS)
def test_zoo_gradients(name: str, exporter: str) -> None:
    model, net, x = zoo_model(name, exporter), zoo_reference(name), zoo.image(SIZE)
    cam = onnxvis.explain(model, x, "grad-cam", TARGET, float64=True)
    expected = captum_grad_cam(net, layer_of(name, net), x, TARGET)[0]
    tolerance = EXACT if name == "squeezenet1_1" else FOLDED
    assert relative_error(cam.attribution, expected) < tolerance
    saliency = onnxvis.explain(model, x, "saliency", TARGET, float64=True)
    assert relative_error(saliency.attribution, captum_saliency(net, x, TARGET)[0]) < tolerance
    for found in (cam, saliency):
        assert found.parity.passed
        assert found.parity.gradient.error < 0.1
        assert found.score == pytest.approx(float(net(torch.from_numpy(x).double())[0, TARGET]), abs=1e-4)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETS[:5])
def test_zoo_occlusion(name: str, exporter: str) -> None:
    model, net, x = zoo_model(name, exporter), zoo_reference(name), zoo.image(SIZE, seed=1)
    window, stride = (30, 21), (17, 15)
    found = onnxvis.explain(model, x, "occlusion", TARGET, window=window, stride=stride, baseline=0.25)
    expected = captum_occlusion(net, x, TARGET, window, stride, 0.25)[0]
    assert np.abs(found.attribution - expected).max() < 1e-5 * max(1.0, largest_logit(net, x))


def largest_logit(net: torch.nn.Module, x: np.ndarray) -> float:
    return float(net(torch.from_numpy(x).double()).abs().max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_trained_network_gradients(exporter: str) -> None:
    model, net, x = lite0(exporter), lite0_reference(), prepared_photo()
    top = int(net(torch.from_numpy(x).double()).argmax())
    found = onnxvis.explain(model, demo.photo(), "grad-cam", ("top1", 207), float64=True)
    assert [one.target_index for one in found] == [top, 207]
    for cam in found:
        index = cam.target_index
        expected = captum_grad_cam(net, net._avg_pooling, x, index, at_input=True)[0]
        assert relative_error(cam.attribution, expected) < FOLDED
        saliency = onnxvis.explain(model, x, "saliency", index, float64=True)
        assert relative_error(saliency.attribution, captum_saliency(net, x, index)[0]) < FOLDED


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_trained_network_in_single_precision(exporter: str) -> None:
    model, net, x = lite0(exporter), lite0_reference(), prepared_photo()
    cam = onnxvis.explain(model, x, "grad-cam", 285)
    expected = captum_grad_cam(net, net._avg_pooling, x, 285, at_input=True)[0]
    assert relative_error(cam.attribution, expected) < 1e-4
    assert cam.attribution.dtype == np.float32


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_trained_network_occlusion(exporter: str) -> None:
    model, net, x = lite0(exporter), lite0_reference(), prepared_photo()
    window, stride = (96, 70), (60, 52)  # neither divides 224, windows are cut at the border
    found = onnxvis.explain(model, x, "occlusion", "top1", window=window, stride=stride)
    expected = captum_occlusion(net, x, found.target_index, window, stride, 0.0)[0]
    assert np.abs(found.attribution - expected).max() < 1e-5 * largest_logit(net, x)
