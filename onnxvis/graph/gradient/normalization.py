"""Normalizations. BatchNormalization of an inference graph is a scale and a shift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxvis.graph.gradient.table import Call, Found, rule
from onnxvis.graph.gradient.tensor import Tensor

__all__: list[str] = []


def _mean(x: Tensor, axes: Sequence[int], count: Tensor) -> Tensor:
    return x.sum(axes) / count


def _standardized(n: Call, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """``(x - mean) / std``, ``1 / std`` and the number of values of one mean."""
    total = n.x.size
    count = total / n.x.sum(axes).size
    centered = n.x - _mean(n.x, axes, count)
    inverse = (_mean(centered * centered, axes, count) + epsilon).power(-0.5)
    return centered * inverse, inverse, count


def _through(n: Call, g: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """The input's gradient: (g - mean(g) - z mean(g z)) / std, with z the standardized input."""
    z, inverse, count = _standardized(n, axes, epsilon)
    return (g - _mean(g, axes, count) - z * _mean(g * z, axes, count)) * inverse


def _per_channel(n: Call, vector: Tensor) -> Tensor:
    return vector.reshape([1, -1] + [1] * (n.rank() - 2))


@rule("BatchNormalization")
def _batch_normalization(n: Call) -> Found:
    if n.attr("training_mode", 0):
        raise n.refuse("it is in training mode")
    slope = n.input(1) / (n.input(4) + n.attr("epsilon", 1e-5)).op("Sqrt")
    return n.g * _per_channel(n, slope)


@rule("InstanceNormalization")
def _instance_normalization(n: Call) -> Found:
    g = n.g * _per_channel(n, n.input(1))
    return _through(n, g, range(2, n.rank()), n.attr("epsilon", 1e-5))


@rule("LayerNormalization")
def _layer_normalization(n: Call) -> Found:
    axis = int(n.attr("axis", -1)) % n.rank()
    return _through(n, n.g * n.input(1), range(axis, n.rank()), n.attr("epsilon", 1e-5))


@rule("MeanVarianceNormalization")
def _mean_variance_normalization(n: Call) -> Found:
    axes = [int(a) % n.rank() for a in n.attr("axes", [0, 2, 3])]
    return _through(n, n.g, axes, 1e-9)


@rule("LpNormalization")
def _lp_normalization(n: Call) -> Found:
    axes, p = [int(n.attr("axis", -1))], int(n.attr("p", 2))
    length = n.x.op("Abs").sum(axes) if p == 1 else (n.x * n.x).sum(axes).op("Sqrt")
    change = n.x.op("Sign") if p == 1 else n.y
    some = length > 0.0  # of nothing, the direction has no derivative
    return some.keep((n.g - change * (n.g * n.y).sum(axes)) / some.where(length, 1.0))


@rule("LRN")
def _local_response(n: Call) -> Found:
    """With y = x / D^b, D = bias + a B x², B the band matrix that adds up neighboring channels.

    x' = g D^-b - 2 a b x Bᵀ(g x D^(-b-1))
    """
    channels, size = n.x.extent(1), int(n.attr("size"))
    if channels is None:
        raise n.refuse("its number of channels is not known before it runs")
    alpha, beta = float(n.attr("alpha", 1e-4)) / size, float(n.attr("beta", 0.75))
    distance = np.arange(channels)[None] - np.arange(channels)[:, None]
    band = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    dtype = np.float64 if n.x.dtype == 11 else np.float32

    def summed(values: Tensor, matrix: np.ndarray) -> Tensor:
        flat = values.reshape([0, channels, -1])
        return (n.tape.constant(matrix, dtype) @ flat).reshape(n.x.shape)

    d = summed(n.x * n.x, band) * alpha + float(n.attr("bias", 1.0))
    pull = summed(n.g * n.x * d.power(-beta - 1.0), band.T)
    return n.g * d.power(-beta) - n.x * pull * (2.0 * alpha * beta)
