"""The projection of a unit: which unit, from where in the picture, and what it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.pairs import Rectifiers, assert_close, pair

import onnxvis
from onnxvis.demo import photo
from onnxvis.errors import LayerError, UsageError
from onnxvis.explaining import request
from onnxvis.methods.zfnet_deconvnet import project_unit

METHOD = "zfnet-deconvnet"


def activation_of(p, tensor):
    return p.model.engine.forward(p.x, (tensor,))[tensor]


def layer_output(module, layer, x, rule="deconvnet"):
    kept = []
    hook = layer.register_forward_hook(lambda _m, _i, out: kept.append(out))
    with Rectifiers(rule):
        module(x)
    hook.remove()
    return kept[0]


def test_equals_the_original_module_with_its_rectifiers_replaced():
    """ResNet's third stage, after its last rectifier: the strongest unit of each picture."""
    p = pair("resnet18-dynamo")
    x = p.tensor.requires_grad_()
    out = layer_output(p.module, p.module.layer3, x)
    tensor = _tensor_equal_to(p, out.detach().numpy())
    ours = p.explain(METHOD, layer=tensor)
    signal = torch.zeros_like(out)
    for row, found in enumerate(ours):
        place = np.unravel_index(int(out[row].detach().argmax()), out.shape[1:])
        assert tuple(found.parameters[k] for k in ("unit", "row", "col")) == tuple(int(i) for i in place)
        signal[(row, *place)] = out[(row, *place)].detach()
        assert found.score == pytest.approx(float(signal[(row, *place)]), rel=1e-5)
        assert found.target == f"unit {place[0]} at {place[1]},{place[2]}"
        assert any("plays no part" in note for note in found.notes)
    (expected,) = torch.autograd.grad(out, x, signal)
    assert_close(ours, expected)


def _tensor_equal_to(p, values):
    for layer in p.model.layers:
        if tuple(layer.shape[1:]) == values.shape[1:] and p.model.in_file(layer.tensor):
            found = activation_of(p, layer.tensor)
            if np.abs(found - values).max() < 1e-4 * np.abs(values).max():
                return layer.tensor
    raise AssertionError("the layer was not found")


def test_nothing_outside_the_box_and_something_in_it():
    p = pair("resnet18-dynamo")
    x = p.tensor
    tensor = _tensor_equal_to(p, layer_output(p.module, p.module.layer1, x).numpy())
    for row, col in ((0, 0), (11, 5), (23, 23)):
        found = p.explain(METHOD, layer=tensor, row=row, col=col)[0]
        x0, y0, x1, y1 = found.parameters["box"]["input"]
        outside = np.ones((96, 96), bool)
        outside[y0:y1, x0:x1] = False
        assert outside.any()
        assert np.abs(found.attribution[:, outside]).max() == 0
        assert np.abs(found.attribution[:, y0:y1, x0:x1]).max() > 0


def test_the_box_lies_in_the_original_picture():
    p = pair("lite0-dynamo")
    prepared = p.model.prepare(photo("chelsea.png"))
    layer = next(row.tensor for row in p.model.layers if row.shape[2:] == (56, 56) and p.model.in_file(row.tensor))
    choice = request(p.model, METHOD, {}, layer).layer
    found = project_unit(p.model, prepared, choice, unit=3, row=20, col=30)
    assert (found.unit.channel, found.unit.row, found.unit.col) == (3, 20, 30)
    x0, y0, x1, y1 = found.input_box
    for corner, expected in ((found.picture_box[:2], (x0, y0)), (found.picture_box[2:], (x1, y1))):
        back = prepared.geometry.box_to_input((*corner, *corner))[:2]
        assert back == pytest.approx(expected, abs=1e-6)
    method = onnxvis.explain(p.model, photo("chelsea.png"), METHOD, layer=layer, unit=3, row=20, col=30)
    np.testing.assert_allclose(method.attribution, found.values, rtol=1e-5, atol=1e-7)
    assert method.parameters["box"]["picture"] == pytest.approx(found.picture_box)
    assert method.parity.passed
    assert "ordinary gradient" in method.parity.gradient.on


def test_several_targets_get_the_same_projection():
    p = pair("lite0-dynamo")
    one, two = onnxvis.explain(p.model, p.images[0], METHOD, "top2")
    np.testing.assert_array_equal(one.attribution, two.attribution)
    assert one.target == two.target
    assert one.target_index is None


def test_says_when_units_are_saturated_or_silent():
    p = pair("lite0-dynamo")
    found = onnxvis.explain(p.model, p.images[0], METHOD)
    assert found.score == 6
    assert any("places have this largest activation" in note for note in found.notes)
    values = activation_of(p, found.layer)[0]
    k, i, j = (int(n) for n in np.argwhere(values == 0)[0])
    silent = onnxvis.explain(p.model, p.images[0], METHOD, unit=k, row=i, col=j)
    assert np.abs(silent.attribution).max() == 0
    assert any("nothing to project" in note for note in silent.notes)


def test_refuses_units_that_do_not_exist():
    p = pair("lite0-dynamo")
    with pytest.raises(LayerError, match="has no unit 5000"):
        onnxvis.explain(p.model, p.images[0], METHOD, unit=5000)
    with pytest.raises(LayerError, match="has no row 7"):
        onnxvis.explain(p.model, p.images[0], METHOD, row=7)
    with pytest.raises(UsageError, match="unit is a whole number"):
        onnxvis.explain(p.model, p.images[0], METHOD, unit="cat")
