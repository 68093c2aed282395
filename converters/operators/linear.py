"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__ = ["gemm"]


def gemm(a: Tensor, b: Tensor, c: Tensor | None, *, alpha: float, beta: float, flip: tuple[bool, bool]) -> Tensor:
    """``alpha * A' @ B' + beta * C``; ``flip`` says whether A and B are transposed."""
    a = a.T if flip[0] else a
    b = b.T if flip[1] else b
    out = a @ b
    out = out if alpha == 1.0 else out * alpha
    if c is None or beta == 0.0:
        return out
    return out + (c if beta == 1.0 else c * beta)


@converter("Gemm")
def _gemm(node: Node) -> Operator:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    flip = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        return gemm(a, b, c, alpha=alpha, beta=beta, flip=flip)

    return operator(node, run)


@converter("MatMul")
def _matmul(node: Node) -> Operator:
    return operator(node, torch.matmul)


@converter("Einsum")
def _einsum(node: Node) -> Operator:
    equation = node.attr("equation").replace(" ", "")
    return operator(node, lambda *terms: torch.einsum(equation, *terms))


@converter("Det")
def _det(node: Node) -> Operator:
    return operator(node, torch.linalg.det)
