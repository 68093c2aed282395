"""Inline an If whose condition is known.

    y = If(true) { then: a = Relu(x) -> a;  else: ... }   ->   y = Relu(x)

Exporters write such branches for sizes that are constants after all; tensors inside a branch cannot be
exposed or cut at. A branch tensor keeps its name unless the main graph uses the name already.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import (
    Rewrite,
    constant_of,
    fresh_name,
    fresh_node_name,
    nodes_of,
    release_bodies,
    renamed,
)

__all__ = ["REWRITE"]


def _names_elsewhere(model: ir.Model, node: ir.Node) -> tuple[set[str], set[str]]:
    """Names of all tensors and of all nodes that are not inside a branch of ``node``."""
    inside: set[int] = set()
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            inside.update(id(graph) for graph in (attribute.as_graph(), *attribute.as_graph().subgraphs()))
    tensors: set[str] = set()
    nodes: set[str] = set()
    for graph in model.graphs():
        if id(graph) in inside:
            continue
        tensors.update(graph.initializers)
        tensors.update(v.name for v in graph.inputs if v.name)
        tensors.update(v.name for n in graph for v in n.outputs if v.name)
        nodes.update(n.name for n in graph if n.name)
    return tensors, nodes


def _inline(model: ir.Model, node: ir.Node, branch: ir.Graph) -> None:
    graph = node.graph
    assert graph is not None
    taken, taken_nodes = _names_elsewhere(model, node)
    results = list(branch.outputs)
    while branch.outputs:
        branch.outputs.pop()
    for name, value in tuple(branch.initializers.items()):
        branch.initializers.pop(name)
        if name in taken and value.const_value is not None:
            fresh = fresh_name(model, name)
            value.const_value = renamed(value.const_value, fresh)
            value.name = fresh
        graph.register_initializer(value)
    body = tuple(branch)
    branch.remove(body)
    for inner in body:
        if inner.name and inner.name in taken_nodes:
            inner.name = fresh_node_name(model, inner.name)
        for value in inner.outputs:
            if value.name and value.name in taken:
                value.name = fresh_name(model, value.name)
    graph.insert_before(node, body)
    # An Identity per output: the If's output keeps its name whatever the branch returns (an outer tensor, a
    # constant, one tensor twice), and the ``identity`` rewrite removes those that nobody needs.
    for old, result in zip(tuple(node.outputs), results, strict=True):
        stand_in = ir.node("Identity", [result], name=fresh_node_name(model, f"{node.name or old.name}_result"))
        new, kept_name = stand_in.outputs[0], old.name
        graph.insert_before(node, stand_in)
        old.name = None
        new.name, new.shape, new.type = kept_name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    release_bodies(node)
    graph.remove(node, safe=True)


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "If"):
        condition = constant_of(node.inputs[0])
        if condition is None or condition.size != 1 or node.graph is None:
            continue
        chosen = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
        _inline(model, node, node.attributes[chosen].as_graph())
        return 1 + _apply(model)  # the nodes of the dropped branch must not be visited
    return count


REWRITE = Rewrite("inline-if", "If nodes with a known condition replaced by the branch they take", _apply)
