"""Captum on the original torch module: what every map of the exported file is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam, Occlusion, Saliency
from torch import nn

__all__ = ["captum_grad_cam", "captum_occlusion", "captum_saliency", "layer_of", "relative_error"]

Array = np.ndarray[Any, Any]

# Where onnxvis looks by itself in each network of the zoo, as a path in the torch module.
_LAYERS = {
    "resnet18": "layer4",
    "mobilenet_v2": "features",
    "squeezenet1_1": "classifier.2",
    "googlenet": "inception5b",
    "efficientnet_b0": "features",
    "mobilenet_v3_small": "features",
    "shufflenet_v2_x1_0": "conv5",
}


def layer_of(name: str, module: nn.Module) -> nn.Module:
    """The module whose output is the layer that is chosen by structure."""
    return module.get_submodule(_LAYERS[name])


def captum_grad_cam(module: nn.Module, layer: nn.Module, x: Array, target: int, *, at_input: bool = False) -> Array:
    """``(N, H, W)`` float64, without the final ReLU, enlarged bilinearly (``align_corners=False``).

    Args:
        module: in float64.
        layer: its output is the activation, or with ``at_input`` what enters it.
        x: ``(N, C, H, W)``.
        target: class index.
        at_input: see ``layer``.
    """
    found = LayerGradCam(module, layer).attribute(
        _tensor(x), target=target, attribute_to_layer_input=at_input, relu_attributions=False
    )
    large = LayerAttribution.interpolate(found, x.shape[-2:], "bilinear")
    return np.asarray(large.detach().numpy())[:, 0]


def captum_saliency(module: nn.Module, x: Array, target: int) -> Array:
    """The signed gradient, ``(N, C, H, W)`` float64."""
    return np.asarray(Saliency(module).attribute(_tensor(x), target=target, abs=False).detach().numpy())


def captum_occlusion(
    module: nn.Module, x: Array, target: int, window: tuple[int, int], stride: tuple[int, int], baseline: float
) -> Array:
    """``(N, H, W)`` float64; the three channels are covered together, so their maps are equal."""
    channels = x.shape[1]
    with torch.no_grad():
        found = Occlusion(module).attribute(
            _tensor(x, grad=False),
            target=target,
            sliding_window_shapes=(channels, *window),
            strides=(channels, *stride),
            baselines=baseline,
        )
    maps = np.asarray(found.numpy())
    np.testing.assert_allclose(maps, maps[:, :1].repeat(channels, axis=1), atol=1e-12)
    return maps[:, 0]


def relative_error(found: Array, expected: Array) -> float:
    """Largest difference in units of the largest expected value."""
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def _tensor(x: Array, grad: bool = True) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64)).requires_grad_(grad)
