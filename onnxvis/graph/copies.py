"""Copies of a part of a graph under new names, for the body of a Loop or a branch of an If."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxvis.graph.index import GraphIndex

__all__ = ["Copy", "copy_part"]


@dataclass(frozen=True, eq=False)
class Copy:
    """A part of a graph, renamed.

    Attributes:
        nodes: those that depend on the sources; every tensor they make has a new name.
        rest: the other nodes that they need, as they are.
        names: what each source and each copied tensor is called in ``nodes``.
    """

    nodes: Sequence[onnx.NodeProto]
    rest: Sequence[onnx.NodeProto]
    names: Mapping[str, str]


def copy_part(index: GraphIndex, sources: Mapping[str, str], outputs: Sequence[str], prefix: str) -> Copy:
    """What lies between some tensors and others, in topological order.

    Args:
        index: the graph; it is not changed.
        sources: where the part begins, with the names that stand for them in the copy.
        outputs: what it makes.
        prefix: put before the name of every tensor and node that is copied.
    """
    names = dict(sources)
    nodes, rest = [], []
    for node in index.between(tuple(sources), outputs):
        if any(name in names for name in index.reads(node)):
            names.update({name: prefix + name for name in node.output if name})
            nodes.append(_renamed(node, names, prefix))
        else:
            rest.append(node)
    return Copy(nodes, rest, names)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name if node.name else ""
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    _rename_in_bodies(copy, names)
    return copy


def _rename_in_bodies(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            made = {name for inner in body.node for name in inner.output} | {v.name for v in body.input}
            made |= {t.name for t in body.initializer}
            outer = {old: new for old, new in names.items() if old not in made}
            for inner in body.node:
                inner.input[:] = [outer.get(name, name) for name in inner.input]
                _rename_in_bodies(inner, outer)
            for value in body.output:
                value.name = outer.get(value.name, value.name)
