"""SqueezeNet 1.1 with its trained ImageNet weights, out of the package ``ndf``: torch module and ONNX file.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016. Its inputs are BGR at 227
pixels, minus a mean; conv10 makes one map for each class, and their mean is the logit.
"""

from __future__ import annotations

import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from support.fetch import packaged_file
from support.zoo import cache_folder

__all__ = ["PREPROCESSING", "export", "torch_module"]

PREPROCESSING: dict[str, Any] = {
    "resize": "stretch",
    "size": 227,
    "interpolation": "bilinear",
    "channel_order": "bgr",
    "scale": 1.0,
    "mean": [104.006, 116.669, 122.679],
    "std": [1.0, 1.0, 1.0],
}
_WEIGHTS = "ndf/example_models/weights/squeezenet_weights.pkl"
_SQUEEZES = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}


class _Numbers(pickle.Unpickler):
    """Reads numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not a number")


class _Squeezenet(nn.Module):
    """Rectifiers are called as functions on purpose: hooks on modules do not see them."""

    def __init__(self, weights: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for name, (kernel, bias) in weights.items():
            k = torch.from_numpy(np.asarray(kernel, np.float32).transpose(3, 2, 0, 1).copy())
            stride, padding = (2, 0) if name == "conv1" else (1, k.shape[2] // 2)
            conv = nn.Conv2d(k.shape[1], k.shape[0], k.shape[2], stride, padding)
            conv.weight = nn.Parameter(k)
            conv.bias = nn.Parameter(torch.from_numpy(np.asarray(bias, np.float32).reshape(-1).copy()))
            self.layers[name.replace("/", "_")] = conv

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return functional.relu(self.layers[name](x))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self._conv("conv1", x), 3, 2)
        for number in range(2, 10):
            small = self._conv(f"fire{number}_squeeze1x1", x)
            wide = [self._conv(f"fire{number}_expand{k}x{k}", small) for k in (1, 3)]
            x = torch.cat(wide, dim=1)
            if number in (3, 5):
                x = functional.max_pool2d(x, 3, 2)
        return self._conv("conv10", x).mean(dim=(2, 3))


def torch_module() -> nn.Module:
    """The trained network in eval mode, parameters frozen; input ``(N, 3, 227, 227)``."""
    path = packaged_file("ndf", "0.1.4", _WEIGHTS)
    with path.open("rb") as stream:
        weights = _Numbers(stream, encoding="latin1").load()
    return _Squeezenet(weights).eval().requires_grad_(False)


def export() -> Path:
    """The ONNX file, with a free batch axis."""
    path = cache_folder() / "squeezenet-trained.onnx"
    if not path.exists():
        module = torch_module()
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            partial = Path(scratch) / path.name
            torch.onnx.export(
                module,
                (torch.zeros(2, 3, 227, 227),),
                str(partial),
                dynamo=False,
                opset_version=17,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )
            partial.replace(path)
    return path
