"""Remove what no output depends on.

    outputs: y      y = Relu(x); z = Conv(x, w)   ->   y = Relu(x)
    opset_import: "", com.microsoft               ->   opset_import: ""     (no node of that domain left)

Inputs of the graph stay, used or not: they are what a caller feeds.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import DEFAULT_DOMAINS, Rewrite, is_used, release_bodies

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


def _drop_imports(model: ir.Model) -> int:
    used = {node.domain for node in model.graph.all_nodes()} | {node.domain for node in model.functions.values()}
    unused = [d for d in model.graph.opset_imports if d not in used and d not in DEFAULT_DOMAINS]
    for domain in unused:
        model.graph.opset_imports.pop(domain)
    return len(unused)


def _apply(model: ir.Model) -> int:
    inner = sum(_sweep(graph) for graph in tuple(model.graph.subgraphs()))
    return inner + _sweep(model.graph) + _drop_imports(model)


REWRITE = Rewrite("dead-code", "nodes, initializers and imports removed that no output depends on", _apply)
