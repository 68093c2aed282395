"""Guided Grad-CAM against Captum and against its own two factors."""

from __future__ import annotations

import numpy as np
import pytest
from captum.attr import GuidedGradCam
from support.pairs import assert_close, one_hot, pair, vjp

import onnxvis
from onnxvis.methods import method_names

# Network -> the torch module whose output enters the head's pool.
LAYERS = {"resnet18-dynamo": lambda net: net.layer4, "regnet_y_400mf-legacy": lambda net: net.trunk_output}


@pytest.mark.parametrize("name", ["resnet18-dynamo", pytest.param("regnet_y_400mf-legacy", marks=pytest.mark.slow)])
def test_equals_captum(name):
    p = pair(name)
    captum = GuidedGradCam(p.module, LAYERS[name](p.module))
    theirs = captum.attribute(p.tensor.requires_grad_(), target=p.classes(), interpolate_mode="bilinear")
    assert_close(p.explain("guided-grad-cam"), theirs.detach(), 1e-5)


@pytest.mark.parametrize("name", ["lite0-dynamo", "lite0-legacy"])
def test_is_the_product_of_its_factors(name):
    p = pair(name)
    targets = ("top1", "top2 - top1", 285)
    product = onnxvis.explain(p.model, p.images[0], "guided-grad-cam", targets, float64=True)
    places = onnxvis.explain(p.model, p.images[0], "grad-cam", targets, float64=True, relu=True)
    for found, place in zip(product, places, strict=True):
        x = p.tensor[:1]
        cotangent = 0 * one_hot(p.module, x, [0])
        for index, sign in _terms(found.target_spec, p):
            cotangent[0, index] = sign
        guided = vjp(p.module, x, cotangent, "guided").numpy()
        assert_close([found], guided * place.attribution)
        assert place.attribution.min() >= 0
    assert product[0].layer == p.model.head.cam_layer


def _terms(spec, p):
    order = p.module(p.tensor[:1])[0].argsort(descending=True)
    if spec == "top1":
        return [(order[0], 1)]
    return [(285, 1)] if spec == "285" else [(order[1], 1), (order[0], -1)]


def test_every_picture_gets_its_own_answer_in_a_batch():
    p = pair("lite0-dynamo")
    for one, image in zip(p.explain("guided-grad-cam", float64=False), p.images, strict=True):
        alone = onnxvis.explain(p.model, image, "guided-grad-cam")
        scale = np.abs(alone.attribution).max()
        assert np.abs(one.attribution - alone.attribution).max() < 1e-4 * scale


def test_is_registered():
    assert {"guided-grad-cam", "guided-backprop", "deconvnet", "smoothgrad"} <= set(method_names())
