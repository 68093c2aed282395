"""The CAM family against the packages `grad-cam` and `torchcam`, where they are installed, in float64.

Both packages keep only positive values and may rescale, so maps are compared after doing the same to ours.
"""

import functools

import numpy as np
import pytest
import torch
from support.zoo import export, image, torch_module

import onnxvis
from onnxvis.converters.torchvision_shim import ensure_torchvision

SIZE, INDEX = 96, 402


@functools.cache
def resnet():
    return onnxvis.load(export("resnet18", "legacy", 17, SIZE, dynamic_batch=True))


@functools.cache
def module():
    return torch_module("resnet18").double()


def shown(values):
    """What is left after a ReLU and the division by the largest value."""
    positive = np.maximum(values, 0)
    return positive / positive.max()


def assert_same(ours, theirs, tolerance=1e-6):
    assert np.abs(shown(ours) - shown(theirs)).max() < tolerance


@pytest.mark.parametrize("layer", ["layer3", None])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("grad-cam", "GradCAM"),
        ("hires-cam", "HiResCAM"),
        ("layer-cam", "LayerCAM"),
        ("xgrad-cam", "XGradCAM"),
        ("grad-cam++", "GradCAMPlusPlus"),
    ],
)
def test_pytorch_grad_cam(method, name, layer):
    ensure_torchvision()
    package = pytest.importorskip("pytorch_grad_cam", reason="the package grad-cam is not installed")
    inner = getattr(module(), layer or "layer4")
    x = torch.from_numpy(image(SIZE).astype(np.float64)).requires_grad_(True)
    # Its constants in denominators (1e-6 in Grad-CAM++) vanish beside a large score; ours has none.
    factor = 1e4

    class Raw(getattr(package, name)):
        def get_cam_image(self, *args, **kwargs):
            self.raw = super().get_cam_image(*args, **kwargs)
            return self.raw

    with Raw(model=module(), target_layers=[inner]) as cam:
        cam(input_tensor=x, targets=[lambda y: factor * y[INDEX]])
        theirs = cam.raw[0]
    ours = onnxvis.explain(resnet(), image(SIZE), method, lambda y: factor * y[:, INDEX], layer=layer, float64=True)
    assert_same(ours.layer_map, theirs, 1e-5 if method == "grad-cam++" else 1e-6)


@pytest.mark.parametrize(
    ("method", "name"),
    [("grad-cam", "GradCAM"), ("layer-cam", "LayerCAM"), ("xgrad-cam", "XGradCAM"), ("cam", "CAM")],
)
def test_torchcam(method, name):
    methods = pytest.importorskip("torchcam.methods", reason="the package torchcam is not installed")
    x = torch.from_numpy(image(SIZE).astype(np.float64)).requires_grad_(True)
    arguments = {"fc_layer": "fc"} if name == "CAM" else {}
    with getattr(methods, name)(module(), "layer4", **arguments) as cam:
        scores = module()(x)
        (theirs,) = cam(class_idx=INDEX, scores=scores, normalized=False)
    options = {} if method == "cam" else {"float64": True}
    ours = onnxvis.explain(resnet(), image(SIZE), method, INDEX, **options)
    assert_same(ours.layer_map, theirs[0].detach().numpy(), 1e-4 if method == "cam" else 1e-6)


def test_pytorch_grad_cam_ablation():
    """Its Ablation-CAM divides by the score and switches units off to 0 where the layer's smallest value is 0."""
    ensure_torchvision()
    package = pytest.importorskip("pytorch_grad_cam", reason="the package grad-cam is not installed")

    class Raw(package.AblationCAM):
        def get_cam_image(self, *args, **kwargs):
            self.raw = super().get_cam_image(*args, **kwargs)
            return self.raw

    x = torch.from_numpy(image(SIZE).astype(np.float64))
    with Raw(model=torch_module("resnet18").double(), target_layers=[], batch_size=64) as cam:
        cam.target_layers = [cam.model.layer4]
        cam.activations_and_grads.__init__(cam.model, cam.target_layers, None)
        cam(input_tensor=x, targets=[lambda y: y[INDEX]])
        theirs = cam.raw[0]
    ours = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", INDEX, relative=True)
    np.testing.assert_allclose(ours.layer_map, theirs, atol=1e-4 * np.abs(theirs).max())
