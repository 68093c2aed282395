"""Remove what no output depends on.

    outputs: y      y = Relu(x); z = Conv(x, w)   ->   y = Relu(x)

Inputs of the graph stay, used or not: they are what a caller feeds.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, is_used, release_bodies

__all__ = ["REWRITE"]


def _sweep(graph: ir.Graph) -> int:
    count = 0
    for node in reversed(tuple(graph)):
        if not any(is_used(out) for out in node.outputs):
            release_bodies(node)
            graph.remove(node, safe=True)
            count += 1
    for name, value in tuple(graph.initializers.items()):
        if not is_used(value) and not value.is_graph_input():
            graph.initializers.pop(name)
            count += 1
    return count


def _apply(model: ir.Model) -> int:
    inner = sum(_sweep(graph) for graph in tuple(model.graph.subgraphs()))
    return inner + _sweep(model.graph)


REWRITE = Rewrite("dead-code", "nodes and initializers removed that no output depends on", _apply)
