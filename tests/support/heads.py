"""Pieces of network heads, and reading a head in one call."""

from __future__ import annotations

from typing import Any

import onnx

from onnxvis.graph.head import Head, Logits, find_head, find_logits
from support.graphs import Builder
from support.shapes import measure_shapes

__all__ = ["CLASSES", "gap_gemm", "gemm", "pooled", "read_head", "softmax_written_out", "stem"]

CLASSES = 5


def read_head(model: onnx.ModelProto, size: int = 64, output: str | None = None) -> tuple[Logits, Head]:
    """Logits and head of a graph, shapes measured."""
    shapes = measure_shapes(model, size)
    logits = find_logits(model, output, shapes)
    return logits, find_head(model, logits, shapes)


def stem(b: Builder, channels: int = 4, **attrs: Any) -> str:
    """A convolution and ReLU, ``(1, channels, 7, 7)`` for a picture of 15 px."""
    return str(b.node("Relu", b.conv(b.name, 3, channels, 3, signed=True, strides=[2, 2], **attrs)))


def gemm(b: Builder, x: str, c_in: int = 4, c_out: int = CLASSES, **attrs: Any) -> str:
    """A ``Gemm`` with random weights and bias."""
    shape = (c_out, c_in) if attrs.get("transB") else (c_in, c_out)
    bias = b.weight(c_out, signed=True)
    return str(b.node("Gemm", x, b.weight(*shape, signed=True), bias, **attrs))


def pooled(b: Builder, x: str) -> str:
    """Global average pool and flatten."""
    return str(b.node("Flatten", b.node("GlobalAveragePool", x)))


def gap_gemm(b: Builder) -> str:
    """The commonest head: pool, flatten, ``Gemm``."""
    return gemm(b, b.node("Flatten", b.node("GlobalAveragePool", stem(b))), transB=1, alpha=0.5, beta=2.0)


def softmax_written_out(b: Builder, x: str, shifted: bool = True) -> str:
    """``Exp``, ``ReduceSum`` and ``Div``."""
    if shifted:
        x = b.node("Sub", x, b.node("ReduceMax", x, axes=[1]))
    exp = b.node("Exp", x)
    return str(b.node("Div", exp, b.node("ReduceSum", exp, b.constant([1]))))
