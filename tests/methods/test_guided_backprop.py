"""Guided backprop against Captum, and against rectifiers replaced in the original torch module."""

from __future__ import annotations

import json

import numpy as np
import pytest
from captum.attr import GuidedBackprop
from support.pairs import FAST, SLOW, Rectifiers, assert_close, one_hot, pair, tolerance, vjp

import onnxvis

# Captum hooks nn.ReLU modules: networks that call ReLU6 or functional rectifiers are not for it.
CAPTUM = ("resnet18", "squeezenet1_1", "vgg11_bn", "mobilenet_v3_small", "regnet_y_400mf", "mnasnet1_0", "shufflenet")


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_follows_the_rule_at_every_rectifier(name):
    p = pair(name)
    ours = p.explain("guided-backprop")
    cotangent = one_hot(p.module, p.tensor, p.classes())
    assert_close(ours, vjp(p.module, p.tensor, cotangent, "guided"), tolerance(name))
    with Rectifiers("guided") as mode:
        p.module(p.tensor)
    said = " ".join(ours[0].notes)
    assert f"acts at {mode.caught} of" in said or (mode.caught == 0 and "this is the ordinary gradient" in said)
    if name.startswith(CAPTUM):
        theirs = GuidedBackprop(p.module).attribute(p.tensor.requires_grad_(), target=p.classes())
        assert_close(ours, theirs.detach(), tolerance(name))


def test_names_what_keeps_its_derivative():
    p = pair("mobilenet_v3_small-dynamo")
    note = p.explain("guided-backprop")[0].notes
    assert "the guided rule acts at 14 of 42 activations: 14 Relu" in " ".join(note)
    assert "9 HardSigmoid, 19 HardSwish, which are no rectifiers" in " ".join(note)


def test_a_network_without_rectifiers_gets_its_ordinary_gradient_and_is_told_so():
    p = pair("efficientnet_b0-legacy")
    guided, plain = p.explain("guided-backprop")[0], p.explain("saliency")[0]
    np.testing.assert_array_equal(guided.attribution, plain.attribution)
    notes = " ".join(guided.notes)
    assert "found no rectifier on the way, so this is the ordinary gradient" in notes
    assert "49 Sigmoid (gate)" in notes


def test_the_record_says_that_the_ordinary_gradient_was_checked(tmp_path):
    p = pair("lite0-dynamo")
    p.model.engine._checked.clear()
    found = onnxvis.explain(p.model, p.images[0], "guided-backprop")
    assert found.parity.passed
    assert "changed backward pass is no derivative" in found.parity.gradient.on
    record = json.loads((found.save(tmp_path) / "manifest.json").read_text())["parity"]
    assert "ordinary gradient" in record["gradient"]["measured_on"]
    plain = onnxvis.explain(p.model, p.images[0], "saliency")
    assert plain.parity.gradient.error == found.parity.gradient.error
    assert "ordinary" not in plain.parity.gradient.on


def test_several_targets_and_contrasts():
    p = pair("lite0-dynamo")
    first = p.classes()[0]
    ours = onnxvis.explain(p.model, p.images[0], "guided-backprop", (285, f"{first} - 285"), float64=True)
    x = p.tensor[:1].repeat(2, 1, 1, 1)
    cotangents = one_hot(p.module, x, [285, first])
    cotangents[1, 285] = -1
    assert_close(ours, vjp(p.module, x, cotangents, "guided"))
