"""Models whose answer can be written down, and explanations with any map."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import onnxvis
from support.graphs import Builder

__all__ = ["SIDE", "linear_model", "small_net", "with_map"]

SIDE = 8


def linear_model(weights: np.ndarray, bias: float = 0.0) -> onnxvis.Model:
    """logit 0 = sum of weights ``(C, H, W)`` times input + bias; logit 1 = 0."""
    build = Builder(("batch", *weights.shape))
    rows = np.stack([weights.reshape(-1), np.zeros(weights.size)]).astype(np.float32)
    flat = build.node("Flatten", build.name)
    gemm = build.node(
        "Gemm", flat, build.constant(rows), build.constant(np.array([bias, 0], np.float32), "bias"), transB=1
    )
    return onnxvis.load(build.model(gemm))


def small_net(seed: int = 0, side: int = 16) -> onnxvis.Model:
    """Two convolutions, a global pool and a linear head on three channels; five classes."""
    build = Builder(("batch", 3, side, side), seed=seed)
    x = build.node("Relu", build.conv(build.name, 3, 8, signed=True, pads=[1, 1, 1, 1]))
    x = build.node("Relu", build.conv(x, 8, 12, signed=True, pads=[1, 1, 1, 1], strides=[2, 2]))
    x = build.node("Flatten", build.node("GlobalAveragePool", x))
    return onnxvis.load(build.model(build.node("Gemm", x, build.weight(5, 12, signed=True), transB=1)))


def with_map(model: onnxvis.Model, x: np.ndarray, heat: np.ndarray, target: Any = 0) -> Any:
    """An explanation of a class of an input ``(1, C, H, W)`` that carries the map ``(H, W)``."""
    made = onnxvis.explain(model, x.astype(np.float32), "saliency", target)
    return dataclasses.replace(made, attribution=heat.astype(np.float32), units="any", signed=True)  # type: ignore[type-var]
