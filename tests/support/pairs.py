"""Exported files beside the torch modules they came from, and slow float64 references to check against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import onnxvis
from support import squeezenet, zoo

__all__ = ["FAST", "SLOW", "Pair", "Rectifiers", "assert_close", "one_hot", "pair", "tolerance", "vjp"]

FAST = ("lite0-dynamo", "lite0-legacy", "resnet18-dynamo")
SLOW = tuple(
    pytest.param(name, marks=pytest.mark.slow)
    for name in (
        "squeezenet-trained",
        "squeezenet1_1-legacy",
        "vgg11_bn-dynamo",
        "googlenet-legacy",
        "densenet121-dynamo",
        "mobilenet_v2-legacy",
        "mnasnet1_0-legacy",
        "shufflenet_v2_x1_0-dynamo",
        "mobilenet_v3_small-dynamo",
        "efficientnet_b0-legacy",
        "regnet_y_400mf-legacy",
    )
)
# Inputs on which no unit lies within the exporter's rounding of a kink (see the photos in :func:`pair`).
_SEEDS = {"mobilenet_v2": 5}


@dataclass(frozen=True, eq=False)
class Pair:
    """A deployed model, the float64 torch module it was exported from, and two inputs ``(2, 3, H, W)`` float32."""

    model: onnxvis.Model
    module: nn.Module
    x: np.ndarray[Any, np.dtype[np.float32]]
    trained: bool

    @property
    def images(self) -> list[np.ndarray[Any, Any]]:
        return [one[None] for one in self.x]

    @property
    def tensor(self) -> Tensor:
        return torch.from_numpy(self.x).double()

    def explain(self, method: str, target: Any = "top1", **options: Any) -> Any:
        """Explain both inputs, in float64 unless told otherwise."""
        options = {"float64": True, "allow_unverified": not self.trained, **options}
        return onnxvis.explain(self.model, self.images, method, target, **options)

    def classes(self) -> list[int]:
        """The class that each input's largest logit has."""
        return [int(i) for i in self.module(self.tensor).argmax(dim=1)]


@functools.lru_cache(maxsize=2)
def pair(name: str) -> Pair:
    """The pair called ``lite0-EXPORTER``, ``squeezenet-trained`` or ``ZOO_NAME-EXPORTER``."""
    from onnxvis.demo import lite0, lite0_module, photo

    net, _, exporter = name.rpartition("-")
    # On these two no unit of EfficientNet-Lite0 lies so near to a kink that the exporter's rounding of the
    # weights switches it; a single switched unit among millions moves a gradient by 1e-3 to 5e-2.
    photos = [photo("chelsea.png"), photo("rocket.jpg")]
    if name == "squeezenet-trained":
        model = onnxvis.load(squeezenet.export(), preprocessing=squeezenet.PREPROCESSING)
        module = squeezenet.torch_module()
    elif net == "lite0":
        model, module = onnxvis.load(lite0(exporter)), lite0_module()
    else:
        path = zoo.export(net, exporter, 18 if exporter == "dynamo" else 17, 96, dynamic_batch=True)  # type: ignore[arg-type]
        return Pair(
            onnxvis.load(path),
            zoo.torch_module(net).double(),
            zoo.image(96, batch=2, seed=_SEEDS.get(net, 3)),
            trained=False,
        )
    x = np.concatenate([model.prepare(one).tensor for one in photos])
    return Pair(model, module.double(), x, trained=True)


def tolerance(name: str) -> float:
    """What the float32 constants in the file allow.

    The exporter folds BatchNorm into weights in float32 (an error of 6e-8 each, which deep networks add up), and
    writes HardSigmoid's slope 1/6 in float32.
    """
    return 1e-5 if name.startswith(("mobilenet_v3", "regnet", "efficientnet_b0")) else 1e-6


def assert_close(ours: Iterable[Any], theirs: Any, tolerance: float = 1e-6) -> None:
    """Every picture's map within ``tolerance`` of the reference, relative to its largest value."""
    for mine, other in zip(ours, theirs, strict=True):
        found, expected = mine.attribution.astype(np.float64), np.asarray(other)
        assert found.shape == expected.shape
        scale = np.abs(expected).max()
        assert scale > 0
        assert np.abs(found - expected).max() / scale < tolerance


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, high: float, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.high, ctx.rule = high, rule
        return torch.minimum(torch.maximum(x, torch.zeros_like(x)), torch.full_like(x, high))

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        (signal,) = signals
        active = torch.logical_and(x > 0, x < ctx.high).to(signal.dtype)
        positive = (signal > 0).to(signal.dtype)
        factor = {"backprop": active, "deconvnet": positive, "guided": active * positive}[ctx.rule]
        return signal * factor, None, None


class Rectifiers(TorchFunctionMode):
    """While active, every rectifier that torch code calls follows a rule on the way back.

    It catches calls, not modules: functional rectifiers, ReLU6 and modules used several times included.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.caught = 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        high = None
        if func in (torch.relu, torch.relu_, functional.relu, Tensor.relu, Tensor.relu_):
            high = float("inf")
        elif func is functional.relu6:
            high = 6.0
        elif func is functional.hardtanh:
            low, high = (*args[1:], kwargs.get("min_val"), kwargs.get("max_val"))[:2]
            high = high if low == 0 else None
        if high is None:
            return func(*args, **kwargs)
        self.caught += 1
        return _Rule.apply(args[0], high, self.rule)  # type: ignore[no-untyped-call]


def one_hot(module: nn.Module, x: Tensor, classes: list[int]) -> Tensor:
    """d logit / d logits of one class for each picture."""
    found = torch.zeros_like(module(x))
    found[torch.arange(len(x)), classes] = 1
    return found


def vjp(module: nn.Module, x: Tensor, cotangents: Tensor, rule: str = "backprop") -> Tensor:
    """Gradient of ``sum(cotangents * module(x))`` by x, with the rectifiers of the original module under a rule."""
    x = x.clone().requires_grad_(True)
    with Rectifiers(rule):
        out = module(x)
    (gradient,) = torch.autograd.grad(out, x, cotangents)
    return gradient
