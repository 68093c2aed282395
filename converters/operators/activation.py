"""Activations. Rectifiers take a ReLU rule; the smooth ones keep their ordinary derivative."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import ActivationKind, Node, Operator, converter, operator
from onnxvis.converters.relu import ReluRule, rectify

__all__ = ["BOUNDLESS", "clip_bounds"]

BOUNDLESS = 3.0e38
"""Exporters write float32's largest number for "no bound"."""


def _plain(node: Node, function: Callable[..., Tensor]) -> Operator:
    return operator(node, function, activation=ActivationKind.PLAIN)


@converter("Relu")
def _relu(node: Node) -> Operator:
    return operator(node, rectify, activation=ActivationKind.RELU)


def clip_bounds(low: float | None, high: float | None) -> tuple[float, float]:
    """Bounds of a Clip with infinity where there is none."""
    no_low = low is None or low <= -BOUNDLESS
    no_high = high is None or high >= BOUNDLESS
    return (-math.inf if no_low or low is None else low), (math.inf if no_high or high is None else high)


def _fixed_clip(node: Node, low: float | None, high: float | None) -> Operator:
    lower, upper = clip_bounds(low, high)
    if low is None and high is None:
        return operator(node, lambda x: x, inputs=node.inputs[:1])
    if lower < 0.0 or upper <= lower:
        return operator(node, lambda x, *_: torch.clamp(x, low, high), inputs=node.inputs[:1])
    kind = ActivationKind.RELU if (lower, upper) == (0.0, math.inf) else ActivationKind.RELU_LIKE

    def clip(x: Tensor, rule: ReluRule | None = None) -> Tensor:
        return rectify(x, lower, upper, rule) if x.is_floating_point() else x.clamp(low, high)

    return operator(node, clip, inputs=node.inputs[:1], activation=kind)


@converter("Clip")
def _clip_attributes(node: Node) -> Operator:
    return _fixed_clip(node, node.attr("min"), node.attr("max"))


@converter("Clip", since=11)
def _clip(node: Node) -> Operator:
    bounds = [node.constant(i) for i in (1, 2)]
    if all(not node.has(i) or bounds[i - 1] is not None for i in (1, 2)):
        low, high = (None if b is None else b.reshape(()).item() for b in bounds)
        return _fixed_clip(node, low, high)

    def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        x = x if low is None else torch.maximum(x, low)
        return x if high is None else torch.minimum(x, high)

    return operator(node, clip)


@converter("LeakyRelu")
def _leaky_relu(node: Node) -> Operator:
    slope = node.attr("alpha", 0.01)
    if slope == 0.0:
        return operator(node, rectify, activation=ActivationKind.RELU)
    return _plain(node, lambda x: functional.leaky_relu(x, slope))


@converter("ThresholdedRelu")
def _thresholded_relu(node: Node) -> Operator:
    threshold = node.attr("alpha", 1.0)

    def thresholded(x: Tensor, rule: ReluRule | None = None) -> Tensor:
        # x above the threshold, else 0: a rectifier of (x - threshold) plus a step without derivative.
        step = torch.where(x > threshold, threshold, 0.0)
        return rectify(x - threshold, rule=rule) + step

    kind = ActivationKind.RELU_LIKE if threshold >= 0.0 else ActivationKind.PLAIN
    return operator(node, thresholded, activation=kind)


@converter("PRelu")
def _prelu(node: Node) -> Operator:
    # Before opset 7 a slope of one value per channel was not written in broadcastable form.
    per_channel = node.version < 7

    def prelu(x: Tensor, slope: Tensor) -> Tensor:
        if per_channel and slope.dim() == 1 and slope.numel() > 1:
            slope = slope.reshape(-1, *[1] * (x.dim() - 2))
        return torch.where(x < 0, slope * x, x)

    return _plain(node, prelu)


@converter("Elu")
def _elu(node: Node) -> Operator:
    alpha = node.attr("alpha", 1.0)
    return _plain(node, lambda x: functional.elu(x, alpha))


@converter("Selu")
def _selu(node: Node) -> Operator:
    alpha = node.attr("alpha", 1.67326319217681884765625)
    gamma = node.attr("gamma", 1.05070102214813232421875)
    return _plain(node, lambda x: gamma * functional.elu(x, alpha))


@converter("Celu")
def _celu(node: Node) -> Operator:
    alpha = node.attr("alpha", 1.0)
    return _plain(node, lambda x: functional.celu(x, alpha))


@converter("Sigmoid")
def _sigmoid(node: Node) -> Operator:
    return _plain(node, torch.sigmoid)


@converter("Tanh")
def _tanh(node: Node) -> Operator:
    return _plain(node, torch.tanh)


@converter("HardSigmoid")
def _hard_sigmoid(node: Node) -> Operator:
    slope, offset = node.attr("alpha", 0.2), node.attr("beta", 0.5)
    return _plain(node, lambda x: functional.hardtanh(x * slope + offset, 0.0, 1.0))


@converter("HardSwish")
def _hard_swish(node: Node) -> Operator:
    return _plain(node, functional.hardswish)


@converter("Softplus")
def _softplus(node: Node) -> Operator:
    # torch's default threshold turns into a straight line above 20, an error of 2e-9.
    return _plain(node, lambda x: functional.softplus(x, threshold=40.0))


@converter("Softsign")
def _softsign(node: Node) -> Operator:
    return _plain(node, functional.softsign)


@converter("Mish")
def _mish(node: Node) -> Operator:
    return _plain(node, functional.mish)


@converter("Swish")
def _swish(node: Node) -> Operator:
    alpha = node.attr("alpha", 1.0)
    return _plain(node, lambda x: x * torch.sigmoid(alpha * x))


@converter("Gelu")
def _gelu(node: Node) -> Operator:
    approximate = node.attr("approximate", "none")
    return _plain(node, lambda x: functional.gelu(x, approximate=approximate))


@converter("Shrink")
def _shrink(node: Node) -> Operator:
    bias, edge = node.attr("bias", 0.0), node.attr("lambd", 0.5)

    def shrink(x: Tensor) -> Tensor:
        shrunk = torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))
        return shrunk.to(x.dtype)

    return _plain(node, shrink)
