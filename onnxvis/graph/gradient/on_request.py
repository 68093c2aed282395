"""New outputs that are computed only where they are asked for.

    image, condition -> If: then the nodes of the new outputs, with a copy of the network's own nodes that they need
                            else tensors without elements

The graph's own nodes and outputs are as if nothing had been added: what reads an inner tensor would switch fusions off
and cost time even where nobody asks. The copy reads the same weights, so the file does not grow by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from onnxvis.graph.copies import copy_part
from onnxvis.graph.index import GraphIndex

__all__ = ["on_request"]

_PREFIX = "onnxvis/asked/"


def on_request(whole: onnx.ModelProto, own: onnx.ModelProto, image: str, class_index: str) -> onnx.ModelProto:
    """A graph with new outputs, whose making becomes one branch of an If.

    Args:
        whole: the graph with its new outputs, made by :func:`onnxvis.graph.gradient.attach.attach`.
        own: the graph without them; its nodes are the first nodes of ``whole``.
        image: the input on which the graph's own nodes depend.
        class_index: the int64 input ``(N,)``; something is asked for where one of its values is not -2.
    """
    before = {value.name for value in own.graph.output}
    new = [value for value in whole.graph.output if value.name not in before]
    first = len(own.graph.node)
    added = {name for node in whole.graph.node[first:] for name in node.output}
    part = copy_part(GraphIndex(whole), {image: image}, [value.name for value in new], _PREFIX)
    inside = [node for node in part.rest if node.output[0] in added]
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    del model.graph.node[first:]
    condition = _condition(class_index)
    model.graph.node.extend(condition)
    model.graph.node.append(_if(condition[-1].output[0], [*inside, *part.nodes], part.names, new))
    return model


def _condition(class_index: str) -> list[onnx.NodeProto]:
    names = [
        f"{_PREFIX}{word}" for word in ("none", "silent", "asked", "count_each", "axis", "count", "zero", "condition")
    ]
    none, silent, asked, each, axis, count, zero, condition = names

    def constant(name: str, values: list[int], rank: int) -> onnx.NodeProto:
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)] * rank, values)
        return helper.make_node("Constant", [], [name], name=name, value=tensor)

    return [
        constant(none, [-2], 0),
        helper.make_node("Equal", [class_index, none], [silent], name=silent),
        helper.make_node("Not", [silent], [asked], name=asked),
        helper.make_node("Cast", [asked], [each], name=each, to=TensorProto.INT64),
        constant(axis, [0], 1),
        helper.make_node("ReduceSum", [each, axis], [count], name=count, keepdims=0),
        constant(zero, [0], 0),
        helper.make_node("Greater", [count, zero], [condition], name=condition),
    ]


def _if(
    condition: str,
    nodes: Sequence[onnx.NodeProto],
    names: Mapping[str, str],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.NodeProto:
    empty, nothing, found = [], [], []
    for value in outputs:
        kind = value.type.tensor_type
        rank = len(kind.shape.dim)
        label = f"{_PREFIX}no_{value.name}"
        tensor = helper.make_tensor(label, kind.elem_type, [0] * rank, [])
        empty.append(helper.make_node("Constant", [], [label], name=label, value=tensor))
        nothing.append(helper.make_tensor_value_info(label, kind.elem_type, [None] * rank))
        found.append(helper.make_tensor_value_info(names.get(value.name, value.name), kind.elem_type, [None] * rank))
    return helper.make_node(
        "If",
        [condition],
        [value.name for value in outputs],
        name=f"{_PREFIX}If",
        then_branch=helper.make_graph(list(nodes), "onnxvis_explanation", [], found),
        else_branch=helper.make_graph(empty, "onnxvis_nothing", [], nothing),
    )
