"""Saliency against Captum on the original torch module, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, Saliency
from support.pairs import FAST, SLOW, assert_close, one_hot, pair, tolerance, vjp

import onnxvis
from onnxvis.errors import UsageError


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_equals_captum(name):
    p = pair(name)
    theirs = Saliency(p.module).attribute(p.tensor.requires_grad_(), target=p.classes(), abs=False)
    assert_close(p.explain("saliency"), theirs.detach(), tolerance(name))


def test_times_input_equals_captum():
    p = pair("resnet18-dynamo")
    theirs = InputXGradient(p.module).attribute(p.tensor.requires_grad_(), target=p.classes())
    ours = p.explain("saliency", times_input=True)
    assert_close(ours, theirs.detach())
    assert ours[0].units == "input x d logit / d input"


def test_contrast_is_the_difference_of_its_classes():
    p = pair("lite0-dynamo")
    first, second = p.classes()[0], 285
    x = p.tensor[:1]
    expected = vjp(p.module, x, one_hot(p.module, x, [first]) - one_hot(p.module, x, [second]))
    ours = onnxvis.explain(p.model, p.images[0], "saliency", f"{first} - {second}", float64=True)
    assert_close([ours], expected)


def test_several_targets_of_one_picture():
    p = pair("lite0-dynamo")
    ours = onnxvis.explain(p.model, p.images[0], "saliency", ("top1", 285), float64=True)
    x = p.tensor[:1].repeat(2, 1, 1, 1)
    assert_close(ours, vjp(p.module, x, one_hot(p.module, x, [p.classes()[0], 285])))


def test_callable_target_uses_its_own_derivative():
    p = pair("resnet18-dynamo")
    x = p.tensor[:1].requires_grad_()
    (expected,) = torch.autograd.grad((p.module(x)[:, :5] ** 2).sum(), x)
    ours = onnxvis.explain(
        p.model, p.images[0], "saliency", lambda z: (z[:, :5] ** 2).sum(1), float64=True, allow_unverified=True
    )
    # The cotangent is taken at the deployed model's float32 logits.
    assert_close([ours], expected, 1e-5)


def test_a_picture_gets_the_same_map_in_any_company():
    p = pair("lite0-dynamo")
    alone = onnxvis.explain(p.model, p.images[0], "saliency", float64=True)
    for batch_size in (1, 2):
        among = p.explain("saliency", batch_size=batch_size)[0]
        np.testing.assert_allclose(among.attribution, alone.attribution, rtol=1e-6, atol=1e-12)


def test_refuses_an_option_that_is_no_flag():
    p = pair("resnet18-dynamo")
    with pytest.raises(UsageError, match="times_input is true or false"):
        p.explain("saliency", times_input="sometimes")
