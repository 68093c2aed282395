"""Convolutional networks with random but well-behaved weights, exported to ONNX once and cached on disk.

Everything is seeded by the network's name, so :func:`torch_module` rebuilds exactly the module that
:func:`export` wrote. Weights keep the signal's variance from layer to layer (no vanishing gradients in
untrained nets); BatchNorm statistics and biases are random (equal zero biases are merged by the legacy
exporter, and identity BatchNorms would test nothing).
"""

from __future__ import annotations

import os
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs
import torch
from torch import Tensor, nn

from onnxvis.converters.torchvision_shim import ensure_torchvision

__all__ = ["INPUT", "MORE_NAMES", "NAMES", "OUTPUT", "Exporter", "cache_folder", "export", "image", "torch_module"]

Exporter = Literal["legacy", "dynamo"]
INPUT, OUTPUT = "input", "logits"
_RECIPE = 1
_BUILD: dict[str, dict[str, Any]] = {
    "alexnet": {},
    "convnext_tiny": {},
    "densenet121": {},
    "efficientnet_b0": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
    "mnasnet1_0": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "regnet_y_400mf": {},
    "resnet18": {},
    "resnet50": {},
    "shufflenet_v2_x1_0": {},
    "squeezenet1_1": {},
    "vgg11_bn": {},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None, "aux_loss": False},
}
NAMES: tuple[str, ...] = tuple(_BUILD)
"""The networks the tests use."""

_MORE: dict[str, dict[str, Any]] = {
    "densenet169": {},
    "efficientnet_b1": {},
    "efficientnet_v2_s": {},
    "mnasnet0_5": {},
    "mobilenet_v3_large": {},
    "regnet_x_400mf": {},
    "resnet34": {},
    "resnext50_32x4d": {},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_0": {},
    "vgg11": {},
    "vgg16_bn": {},
    "wide_resnet50_2": {},
    "fcn_resnet50": {"weights_backbone": None, "aux_loss": False},
    "lraspp_mobilenet_v3_large": {"weights_backbone": None},
    "maxvit_t": {},
    "swin_t": {},
    "vit_b_16": {},
}
MORE_NAMES: tuple[str, ...] = tuple(_MORE)
"""Further networks, for the coverage matrix."""
_NARROW = ("alexnet", "vgg")
"""Families whose hidden linear layers have 256 units here and not 4096: most of the weights, and no better a test."""
_GAINS = {"efficientnet_v2_s": 1.0}
"""He's gain of 2 makes this deep network chaotic: float32 and float64 of the original differ by half its output."""
_SEGMENTATION = ("deeplabv3", "fcn", "lraspp")


class _Dense(nn.Module):
    """A segmentation network that returns its logits map instead of a dictionary."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)["out"]
        return out


def torch_module(name: str) -> nn.Module:
    """The torchvision network in eval mode, float32, parameters frozen; identical at every call."""
    ensure_torchvision()
    import torchvision

    dense = name.startswith(_SEGMENTATION)
    family = torchvision.models.segmentation if dense else torchvision.models
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(zlib.crc32(name.encode()))
        net: nn.Module = getattr(family, name)(weights=None, **(_BUILD | _MORE)[name])
        if name.startswith(_NARROW):
            _narrow(net.classifier)
        for module in net.modules():
            _randomize(module, gain=_GAINS.get(name, 2.0))
    net = _Dense(net) if dense else net
    return net.eval().requires_grad_(False)


def _narrow(classifier: Any, wide: int = 4096, narrow: int = 256) -> None:
    for i, layer in enumerate(classifier):
        if isinstance(layer, nn.Linear):
            sizes = [narrow if n == wide else n for n in (layer.in_features, layer.out_features)]
            classifier[i] = nn.Linear(*sizes)


def _randomize(module: nn.Module, gain: float) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        gain = gain if isinstance(module, nn.Conv2d) else 1.0
        nn.init.normal_(module.weight, std=(gain / module.weight[0].numel()) ** 0.5)
        if module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight, 0.7, 1.3)
        nn.init.normal_(module.bias, std=0.2)
        assert module.running_mean is not None
        assert module.running_var is not None
        nn.init.normal_(module.running_mean, std=0.2)
        nn.init.uniform_(module.running_var, 0.7, 1.3)


def image(size: int, batch: int = 1, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A normalized random picture ``(batch, 3, size, size) float32``."""
    return np.random.default_rng(seed).standard_normal((batch, 3, size, size)).astype(np.float32)


def cache_folder() -> Path:
    """Where exports are kept between test runs; ``ONNXVIS_TEST_CACHE`` overrides it."""
    root = os.environ.get("ONNXVIS_TEST_CACHE") or platformdirs.user_cache_dir("onnxvis")
    folder = Path(root) / "test-zoo" / f"torch-{torch.__version__}-recipe-{_RECIPE}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def export(name: str, exporter: Exporter, opset: int, size: int, *, dynamic_batch: bool = False) -> Path:
    """The ONNX file of one network, written on the first call.

    Args:
        name: one of :data:`NAMES` or :data:`MORE_NAMES`.
        exporter: ``"legacy"`` (TorchScript) or ``"dynamo"`` (today's default).
        opset: of the default domain.
        size: height and width of the picture; the input is ``(1, 3, size, size)``.
        dynamic_batch: leave the batch axis free.
    """
    batch = "n" if dynamic_batch else "1"
    stem = f"{name}-narrow" if name.startswith(_NARROW) else name
    path = cache_folder() / f"{stem}-{exporter}-{opset}-{batch}x{size}.onnx"
    if not path.exists():
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            _write(torch_module(name), exporter, opset, size, Path(partial), dynamic_batch=dynamic_batch)
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    return path


def _write(net: nn.Module, exporter: Exporter, opset: int, size: int, path: Path, *, dynamic_batch: bool) -> None:
    # Batch 2 where the axis is free: the exporter specializes a batch of one.
    example = torch.from_numpy(image(size, batch=2 if dynamic_batch else 1))
    options: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": opset}
    if exporter == "dynamo":
        if dynamic_batch:
            options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
        options |= {"dynamo": True, "external_data": False, "verbose": False}
    else:
        if dynamic_batch:
            options["dynamic_axes"] = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
        options |= {"dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (example,), str(path), **options)
