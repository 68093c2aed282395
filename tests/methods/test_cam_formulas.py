"""Every formula of the CAM family against a slow float64 derivation from its paper, on the original module.

Activations and gradients come from torch's own autograd on the module that was exported, never from onnxvis.
"""

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.zoo import export, image, torch_module

import onnxvis
from onnxvis.methods.eigen_cam import first_component

CLASSES = (7, 402)
LAYERS = {None: "layer4", "layer3": "layer3"}


def run(module, x, inner, score):
    """Activation of ``inner`` and the gradient of ``score(logits)`` there, float64, one image."""
    kept = []
    handle = inner.register_forward_hook(lambda _m, _i, out: kept.append(out))
    try:
        point = torch.from_numpy(x.astype(np.float64)).requires_grad_(True)
        logits = module(point)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(score(logits), kept[0])
    return kept[0].detach().numpy()[0], gradient.numpy()[0]


@functools.cache
def resnet():
    model = onnxvis.load(export("resnet18", "legacy", 17, 96, dynamic_batch=True))
    return model, torch_module("resnet18").double()


@functools.cache
def truth(layer, row, index):
    _, module = resnet()
    x = image(96, batch=3)[row : row + 1]
    return run(module, x, getattr(module, LAYERS[layer]), lambda y: y[0, index])


def grad_cam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        out += sum(g[k].ravel()) / g[k].size * a[k]
    return out


def grad_cam_pp(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total, weight = a[k].sum(), 0.0
        for d in g[k].ravel():
            if d != 0:
                alpha = d**2 / (2 * d**2 + total * d**3)
                weight += alpha * max(d, 0.0)
        out += weight * a[k]
    return out


def layer_cam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        for i, j in np.ndindex(*out.shape):
            out[i, j] += max(g[k, i, j], 0.0) * a[k, i, j]
    return out


def hires_cam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        out += g[k] * a[k]
    return out


def xgrad_cam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total = a[k].sum()
        if total != 0:
            out += sum((a[k] / total * g[k]).ravel()) * a[k]
    return out


FORMULAS = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_pp,
    "layer-cam": layer_cam,
    "hires-cam": hires_cam,
    "xgrad-cam": xgrad_cam,
}


@pytest.mark.parametrize("layer", list(LAYERS))
@pytest.mark.parametrize("method", list(FORMULAS))
def test_formula(method, layer):
    model, _ = resnet()
    found = onnxvis.explain(
        model, list(image(96, batch=3)[:, None]), method, CLASSES, layer=layer, float64=True, batch_size=2
    )
    for row in range(3):
        for k, index in enumerate(CLASSES):
            expected = FORMULAS[method](*truth(layer, row, index))
            error = np.abs(found[row][k].layer_map - expected).max() / np.abs(expected).max()
            assert error < 1e-6, (row, index)
            enlarged = torch.nn.functional.interpolate(
                torch.from_numpy(expected)[None, None], (96, 96), mode="bilinear", align_corners=False
            )[0, 0].numpy()
            assert np.abs(found[row][k].attribution - enlarged).max() < 1e-5 * np.abs(expected).max()


def test_float32_is_near_float64():
    model, _ = resnet()
    for method in FORMULAS:
        one = onnxvis.explain(model, image(96), method, CLASSES[0])
        two = onnxvis.explain(model, image(96), method, CLASSES[0], float64=True)
        assert np.abs(one.layer_map - two.layer_map).max() < 1e-4 * np.abs(two.layer_map).max()
        assert one.parity is not None
        assert one.parity.passed


def test_relu_is_off_and_an_option():
    model, _ = resnet()
    raw = onnxvis.explain(model, image(96), "grad-cam", 7)
    cut = onnxvis.explain(model, image(96), "grad-cam", 7, relu=True)
    assert (raw.layer_map < 0).any()
    assert raw.signed
    assert not cut.signed
    np.testing.assert_array_equal(cut.layer_map, np.maximum(raw.layer_map, 0))


def test_contrast_and_callable():
    model, _ = resnet()
    first, second, contrast = onnxvis.explain(model, image(96), "grad-cam", (7, 402, "7 - 402"))
    np.testing.assert_allclose(contrast.layer_map, first.layer_map - second.layer_map, atol=1e-5)
    called = onnxvis.explain(model, image(96), "hires-cam", lambda y: y[:, 7] - y[:, 402])
    hires = onnxvis.explain(model, image(96), "hires-cam", "7 - 402")
    np.testing.assert_allclose(called.layer_map, hires.layer_map, atol=1e-5)


def test_dense_targets():
    model = onnxvis.load(export("deeplabv3_mobilenet_v3_large", "legacy", 17, 64))
    module = torch_module("deeplabv3_mobilenet_v3_large").double()
    x = image(64, seed=3)
    # The layer found by structure is what enters the last convolution: the output of the module before it.
    inner = module.net.classifier[-2]
    for spec, score in (
        ("5 @ 10,20", lambda y: y[0, 5, 10, 20]),
        ("5 @ all", lambda y: y[0, 5].mean()),
    ):
        a, g = run(module, x, inner, score)
        for method in ("hires-cam", "grad-cam"):
            found = onnxvis.explain(model, x, method, spec, float64=True)
            expected = FORMULAS[method](a, g)
            # The exporter multiplied the normalizations into the weights in float32: that is the difference.
            assert np.abs(found.layer_map - expected).max() < 2e-5 * np.abs(expected).max()


def test_ablation_of_a_dense_target():
    """A convolution of one pixel and an enlarging follow: the tail is linear, a drop is gradient times activation."""
    model = onnxvis.load(export("deeplabv3_mobilenet_v3_large", "legacy", 17, 64))
    module = torch_module("deeplabv3_mobilenet_v3_large").double()
    x = image(64, seed=3)
    a, g = run(module, x, module.net.classifier[-2], lambda y: y[0, 5, 10, 20])
    expected = ((a * g).sum(axis=(1, 2))[:, None, None] * a).sum(axis=0)
    found = onnxvis.explain(model, x, "ablation-cam", "5 @ 10,20")
    assert np.abs(found.layer_map - expected).max() < 1e-4 * np.abs(expected).max()


def _power_iteration(matrix):
    vector = np.ones(matrix.shape[1])
    for _ in range(3000):
        vector = matrix.T @ (matrix @ vector)
        vector /= np.linalg.norm(vector)
    return matrix @ vector


@pytest.mark.parametrize("center", [False, True])
def test_eigen_cam(center):
    model, _ = resnet()
    activation, _ = truth(None, 0, CLASSES[0])
    matrix = activation.reshape(len(activation), -1).T
    matrix = matrix - matrix.mean(axis=0) if center else matrix
    expected = _power_iteration(matrix)
    expected *= np.sign(expected @ matrix.sum(axis=1))
    found = onnxvis.explain(model, image(96), "eigen-cam", CLASSES, center=center)
    assert np.abs(found[0].layer_map.ravel() - expected).max() < 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(found[0].attribution, found[1].attribution)
    assert any("class-agnostic" in note for note in found[0].notes)
    assert found[0].parity is None


def test_eigen_cam_of_nothing_is_nothing():
    layer_map, share = first_component(np.zeros((4, 3, 3)), False)
    assert not layer_map.any()
    assert share == 0.0


def small_network(nhwc: bool, path: Path) -> Path:
    """Conv, ReLU, then a linear layer over all values: written for NCHW, or with the map in NHWC."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((5, 3, 3, 3)),
        "b": rng.standard_normal(5),
        "v": rng.standard_normal((4, 5, 6, 8)),
        "two": np.array([0, -1]),
    }
    if nhwc:
        weights["v"] = weights["v"].transpose(0, 2, 3, 1)
    weights["v"] = weights["v"].reshape(4, -1).T
    nodes = [
        helper.make_node("Conv", ["chw" if nhwc else "x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r" if nhwc else "maps"]),
        helper.make_node("Reshape", ["maps", "two"], ["flat"]),
        helper.make_node("MatMul", ["flat", "v"], ["logits"]),
    ]
    if nhwc:
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["chw"], perm=[0, 3, 1, 2]))
        nodes.insert(3, helper.make_node("Transpose", ["r"], ["maps"], perm=[0, 2, 3, 1]))
    shape = ["n", 6, 8, 3] if nhwc else ["n", 3, 6, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v.astype(np.int64 if k == "two" else np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((name, {}) for name in (*FORMULAS, "eigen-cam", "ablation-cam")),
        ("score-cam", {}),
        ("score-cam", {"mask": "layer"}),
    ],
)
def test_layout_does_not_matter(method, options, tmp_path):
    one = onnxvis.load(small_network(False, tmp_path / "nchw.onnx"))
    two = onnxvis.load(small_network(True, tmp_path / "nhwc.onnx"))
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 8)).astype(np.float32)
    a = onnxvis.explain(one, list(x[:, None]), method, (0, 3), layer="maps", **options)
    b = onnxvis.explain(
        two, list(np.ascontiguousarray(x.transpose(0, 2, 3, 1))[:, None]), method, (0, 3), layer="maps", **options
    )
    for row in range(2):
        for k in range(2):
            assert a[row][k].layer_map.shape == (6, 8)
            scale = np.abs(a[row][k].layer_map).max()
            assert scale > 0
            assert np.abs(a[row][k].layer_map - b[row][k].layer_map).max() < 1e-5 * scale


def test_a_layer_without_places_is_refused():
    model, _ = resnet()
    with pytest.raises(onnxvis.LayerError, match=r"needs a layer with places|no rows and columns"):
        onnxvis.explain(model, image(96), "layer-cam", 7, layer="avgpool")


@pytest.mark.parametrize("bad", [{"relu": 2}, {"threshold": 0}, {"threshold": 1.5}, {"box": "x"}])
def test_bad_options(bad):
    model, _ = resnet()
    with pytest.raises(onnxvis.UsageError):
        onnxvis.explain(model, image(96), "grad-cam", 7, **bad)
