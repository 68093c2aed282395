"""Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__ = ["layer_norm"]


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (x.dim() - 2))


@converter("BatchNormalization")
def _batch_normalization(node: Node) -> Operator:
    # torch's own batch norm is avoided: in eval mode on the CPU its backward pass returns a scrambled
    # gradient when the incoming gradient is laid out channels-last and has axes of size one.
    epsilon = node.attr("epsilon", 1e-5)
    if node.attr("training_mode", 0) or sum(node.wants(i) for i in range(5)) > 1:
        raise node.refuse("it is in training mode; export the model in inference mode")

    def run(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        factor = scale / torch.sqrt(variance + epsilon)
        return x * _per_channel(factor, x) + _per_channel(shift - mean * factor, x)

    return operator(node, run)


def _standardize(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centered = x - x.mean(dim=axes, keepdim=True)
    variance = (centered * centered).mean(dim=axes, keepdim=True)
    return centered / torch.sqrt(variance + epsilon)


@converter("InstanceNormalization")
def _instance_normalization(node: Node) -> Operator:
    epsilon = node.attr("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        out = _standardize(x, tuple(range(2, x.dim())), epsilon)
        return out * _per_channel(scale, x) + _per_channel(shift, x)

    return operator(node, run)


@converter("GroupNormalization")
def _group_normalization(node: Node) -> Operator:
    epsilon, groups = node.attr("epsilon", 1e-5), node.attr("num_groups")

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        out = _standardize(x.reshape(x.shape[0], groups, -1), (2,), epsilon).reshape(x.shape)
        # Opset 18 gave one scale per group, 21 one per channel.
        repeat = x.shape[1] // scale.numel()
        scale, shift = scale.repeat_interleave(repeat), shift.repeat_interleave(repeat)
        return out * _per_channel(scale, x) + _per_channel(shift, x)

    return operator(node, run)


def layer_norm(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalization over ``axis`` and all axes after it.

    Returns:
        The normalized tensor, the mean, and the inverse standard deviation.
    """
    axes = tuple(range(axis % x.dim(), x.dim()))
    mean = x.mean(dim=axes, keepdim=True)
    centered = x - mean
    inverse = 1.0 / torch.sqrt((centered * centered).mean(dim=axes, keepdim=True) + epsilon)
    out = centered * inverse
    out = out if scale is None else out * scale
    return (out if shift is None else out + shift), mean, inverse


@converter("LayerNormalization")
def _layer_normalization(node: Node) -> Operator:
    epsilon, axis = node.attr("epsilon", 1e-5), node.attr("axis", -1)

    def run(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return layer_norm(x, scale, shift, axis, epsilon)

    return operator(node, run)


@converter("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_normalization(node: Node) -> Operator:
    epsilon, axis = node.attr("epsilon", 1e-5), node.attr("axis", -1)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        axes = tuple(range(axis % x.dim(), x.dim()))
        return x / torch.sqrt((x * x).mean(dim=axes, keepdim=True) + epsilon) * scale

    return operator(node, run, inputs=node.inputs[:2])


@converter("LRN")
def _local_response(node: Node) -> Operator:
    size, bias = node.attr("size"), node.attr("bias", 1.0)
    alpha, beta = node.attr("alpha", 1e-4), node.attr("beta", 0.75)

    def run(x: Tensor) -> Tensor:
        # The window of an even size reaches further towards higher channels.
        before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
        squares = functional.pad((x * x).movedim(1, -1), [before, after])
        sums = squares.unfold(-1, size, 1).sum(dim=-1).movedim(-1, 1)
        out: Tensor = x / (bias + alpha / size * sums) ** beta
        return out

    return operator(node, run)


@converter("LpNormalization")
def _lp_normalization(node: Node) -> Operator:
    p, axis = float(node.attr("p", 2)), node.attr("axis", -1)

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
        zero = norm == 0
        return torch.where(zero, 0.0, x / torch.where(zero, 1.0, norm))

    return operator(node, run)


@converter("MeanVarianceNormalization")
def _mean_variance(node: Node) -> Operator:
    axes = tuple(node.attr("axes", (0, 2, 3)))

    def run(x: Tensor) -> Tensor:
        centered = x - x.mean(dim=axes, keepdim=True)
        deviation = torch.sqrt((centered * centered).mean(dim=axes, keepdim=True))
        return centered / (deviation + 1e-9)

    return operator(node, run)
