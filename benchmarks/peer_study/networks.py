"""The networks: an exported file for onnxvis, the module it came from for the others, and one set of inputs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import onnxvis
from onnxvis.converters.torchvision_shim import ensure_torchvision
from onnxvis.demo import lite0, lite0_module

__all__ = ["NAMES", "Network", "network"]

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

# The module whose output enters the global average pool: what onnxvis chooses by structure. The activation
# of EfficientNet-Lite0 is one module used throughout, which hooks cannot tell apart: there, what it is given.
_LAYERS = {
    "resnet18": lambda net: net.layer4[-1],
    "squeezenet1_1": lambda net: net.classifier[2],
    "mobilenet_v2": lambda net: net.features[-1],
    "efficientnet-lite0": lambda net: net._bn1,
}
NAMES = tuple(_LAYERS)
SIDE = 224


@dataclass(frozen=True, eq=False)
class Network:
    """One network, both ways.

    Attributes:
        name: for the tables.
        weights: "random" or "trained".
        model: the deployed file in onnxvis.
        module: the torch module, parameters frozen: the cheapest setting in which every peer works.
        layer: the module whose output Grad-CAM weighs.
        same_layer: whether that is the very tensor onnxvis chooses.
        x: ``(8, 3, 224, 224)`` float32, normal noise.
    """

    name: str
    weights: str
    model: onnxvis.Model
    module: nn.Module
    layer: nn.Module
    same_layer: bool
    x: np.ndarray

    def classes(self, count: int) -> list[int]:
        """The strongest class of each of the first images."""
        with torch.no_grad():
            return [int(c) for c in self.module(torch.from_numpy(self.x[:count])).argmax(dim=1)]

    def images(self, count: int) -> list[np.ndarray]:
        """The first images, each ``(1, 3, 224, 224)``."""
        return [self.x[i : i + 1] for i in range(count)]

    def tensor(self, count: int) -> torch.Tensor:
        """The same for torch, fresh, with gradient."""
        return torch.from_numpy(self.x[:count].copy()).requires_grad_()


def network(name: str) -> Network:
    """Build one; random weights come from the recipe of the tests and are the same in every run."""
    from support import zoo

    ensure_torchvision()  # before any peer imports it

    trained = name == "efficientnet-lite0"
    path = lite0("legacy") if trained else zoo.export(name, "legacy", 17, SIDE, dynamic_batch=True)
    module = lite0_module() if trained else zoo.torch_module(name)
    x = zoo.image(SIDE, 8)
    weights = "trained" if trained else "random"
    return Network(name, weights, onnxvis.load(path, provider="cpu"), module, _LAYERS[name](module), not trained, x)
