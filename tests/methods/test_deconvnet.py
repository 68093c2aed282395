"""The deconvnet rule against Captum, and against rectifiers replaced in the original torch module."""

from __future__ import annotations

import pytest
from captum.attr import Deconvolution
from support.pairs import FAST, SLOW, assert_close, one_hot, pair, tolerance, vjp

CAPTUM = ("resnet18", "squeezenet1_1", "vgg11_bn", "mobilenet_v3_small", "regnet_y_400mf", "mnasnet1_0", "shufflenet")


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_follows_the_rule_at_every_rectifier(name):
    p = pair(name)
    ours = p.explain("deconvnet")
    cotangent = one_hot(p.module, p.tensor, p.classes())
    assert_close(ours, vjp(p.module, p.tensor, cotangent, "deconvnet"), tolerance(name))
    if name.startswith(CAPTUM):
        theirs = Deconvolution(p.module).attribute(p.tensor.requires_grad_(), target=p.classes())
        assert_close(ours, theirs.detach(), tolerance(name))
