"""Original CAM: the identity with the file's own logit, and a refusal wherever it cannot hold."""

import functools

import numpy as np
import pytest
from support.zoo import export, image, torch_module

import onnxvis
from onnxvis.demo import lite0, lite0_module, photo
from onnxvis.explaining import request
from onnxvis.methods import linear_head


@functools.cache
def trained(exporter):
    return onnxvis.load(lite0(exporter))


def check_identity(explanation):
    p = explanation.parameters
    total = explanation.layer_map.sum(dtype=np.float64) + p["bias"]
    largest = max(abs(c.logit) for c in explanation.prediction.top)
    assert abs(total - explanation.score) < 1e-4 * largest
    assert p["identity_error"] < 1e-4 * largest
    assert any("sum of the layer map + bias = score" in note for note in explanation.notes)


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_identity_on_a_trained_network(exporter):
    model = trained(exporter)
    weights = lite0_module().state_dict()
    found = onnxvis.explain(model, photo("chelsea.png"), "cam", ("top3", "tabby - Egyptian cat"))
    assert len(found) == 4
    for explanation in found:
        check_identity(explanation)
        assert explanation.parity is None  # no gradient was taken
    bias = next(v for k, v in weights.items() if k.endswith("bias") and v.shape == (1000,))
    assert found[0].parameters["bias"] == pytest.approx(float(bias[found[0].target_index]), rel=1e-5)
    assert found[3].parameters["bias"] == pytest.approx(float(bias[281] - bias[285]), rel=1e-4)
    grad = onnxvis.explain(model, photo("chelsea.png"), "grad-cam", found[0].target_index)
    assert np.abs(grad.layer_map - found[0].layer_map).max() < 1e-5 * np.abs(grad.layer_map).max()


@pytest.mark.parametrize(
    ("name", "exporter", "opset"),
    [
        ("squeezenet1_1", "legacy", 17),
        ("squeezenet1_1", "dynamo", 18),
        ("densenet121", "legacy", 17),
        ("mobilenet_v2", "dynamo", 18),
        ("shufflenet_v2_x1_0", "legacy", 17),
    ],
)
def test_identity_over_architectures(name, exporter, opset):
    model = onnxvis.load(export(name, exporter, opset, 96, dynamic_batch=True))
    for explanation in onnxvis.explain(model, image(96, seed=5), "cam", (3, 700, "3 - 700")):
        check_identity(explanation)


def test_class_maps_are_themselves():
    """SqueezeNet's last map holds one channel for each class: CAM is that channel over the number of places."""
    import torch

    model = onnxvis.load(export("squeezenet1_1", "legacy", 17, 96, dynamic_batch=True))
    found = onnxvis.explain(model, image(96), "cam", 3)
    module = torch_module("squeezenet1_1")
    with torch.no_grad():
        maps = module.classifier[:3](module.features(torch.from_numpy(image(96))))[0, 3].numpy()
    np.testing.assert_allclose(found.layer_map, maps / maps.size, atol=1e-5 * np.abs(maps).max())
    assert found.parameters["bias"] == 0.0


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11_bn", "alexnet", "convnext_tiny"])
def test_refused_where_it_does_not_hold(name):
    model = onnxvis.load(export(name, "dynamo", 18, 96, dynamic_batch=True))
    with pytest.raises(onnxvis.LayerError, match=r"does not apply.*grad-cam"):
        request(model, "cam", {})


def test_refused_at_another_layer():
    with pytest.raises(onnxvis.LayerError, match="only at 'hardtanh_32'"):
        request(trained("dynamo"), "cam", {}, "conv:3")


@pytest.mark.parametrize("wrong", ["weights", "bias"])
def test_a_graph_that_does_not_compute_what_it_seems_to(monkeypatch, wrong):
    """The head's weights are not believed: the file must give the same answers on changed activations."""
    real = linear_head.class_weights

    def changed(index, head):
        weights, bias = real(index, head)
        return (weights * 1.01, bias) if wrong == "weights" else (weights, bias + 0.1)

    monkeypatch.setattr(linear_head, "class_weights", changed)
    model = onnxvis.load(export("mobilenet_v2", "dynamo", 18, 96, dynamic_batch=True))
    with pytest.raises(onnxvis.LayerError, match=r"the file's answers differ.*grad-cam"):
        onnxvis.explain(model, image(96), "cam", 3)


def test_all_probes_see_the_tail_they_are_meant_for():
    """A tail that is not the mean, or is bent, fails on a changed activation even where the weights are right."""
    model = trained("dynamo")
    layer = request(model, "cam", {}).layer
    head = linear_head.confirmed_head(model, layer)
    assert head.error < 1e-5
    rng = np.random.default_rng(0)
    activation = rng.random((1, head.weights.shape[1], 7, 7))
    logits = head.logits(activation.mean(axis=(2, 3)))
    assert head.disagreement(activation, logits) < 1e-12
    peaked = activation.copy()
    peaked[..., 0, 0] += 1
    assert head.disagreement(peaked, logits) > 1e-3
