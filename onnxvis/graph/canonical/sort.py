"""Bring the nodes into topological order.

    y = Relu(x)           x = Conv(...)
    x = Conv(...)   ->    y = Relu(x)

onnxruntime accepts unsorted nodes and its fp16 tool writes them; everything downstream wants order.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.errors import ModelError
from onnxvis.graph.canonical.rewrite import Rewrite

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    before = [id(node) for node in model.graph]
    try:
        model.graph.sort()
    except ValueError as error:
        raise ModelError(f"the graph has a cycle, so it cannot be run: {error}") from error
    return sum(a != id(b) for a, b in zip(before, model.graph, strict=True))


REWRITE = Rewrite("sort", "nodes brought into topological order", _apply)
