"""Pooling over all spatial axes."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__: list[str] = []


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


@converter("GlobalAveragePool")
def _global_average_pool(node: Node) -> Operator:
    return operator(node, lambda x: x.mean(dim=_spatial(x), keepdim=True))


@converter("GlobalMaxPool")
def _global_max_pool(node: Node) -> Operator:
    def run(x: Tensor) -> Tensor:
        # Like a max pooling, and unlike amax, the gradient goes to one maximum when there are several.
        rows = x.flatten(2)
        return rows.max(dim=2).values.reshape(*x.shape[:2], *[1] * (x.dim() - 2))

    return operator(node, run)


@converter("GlobalLpPool")
def _global_lp_pool(node: Node) -> Operator:
    p = float(node.attr("p", 2))
    return operator(node, lambda x: torch.linalg.vector_norm(x, p, dim=_spatial(x), keepdim=True))
