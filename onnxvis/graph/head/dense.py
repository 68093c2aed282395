"""Heads that score every position: segmentation, detection, sequences."""

from __future__ import annotations

from collections.abc import Mapping

from onnx.onnx_pb import NodeProto

from onnxvis.graph.head.results import Head, Logits
from onnxvis.graph.head.roles import LINEAR, map_units, weight_tensors
from onnxvis.graph.index import GraphIndex
from onnxvis.graph.receptive import TensorField

__all__ = ["dense_head"]

_SAME_MAP = {"Dropout", "Identity", "Cast"}


def dense_head(index: GraphIndex, fields: Mapping[str, TensorField], logits: Logits) -> Head:
    """The map that enters the last convolution; the deepest one where several end together."""
    last = _last_layers(index, logits.tensor)
    ranked = sorted(last, key=lambda n: _depth(index, n), reverse=True)
    for node in ranked:
        layer = _before_dropout(index, index.data_inputs(node)[0])
        if map_units(fields, layer) > 1:
            return _head(index, fields, logits, node=node, layer=layer, ends=len(last))
    return _without_positions(index, fields, logits)


def _without_positions(index: GraphIndex, fields: Mapping[str, TensorField], logits: Logits) -> Head:
    """Positions were flattened on the way (a sequence model): the last map that every path passes."""
    source = next(t for t in index.inputs if t in fields)
    cuts = index.cut_tensors(source, logits.tensor)
    layer = next((t for t in reversed(cuts) if map_units(fields, t) > 1), None)
    if layer is None or layer == source:
        reason = "no activation map lies on every path to the output, so there is no layer to explain with"
        return Head.nowhere(reason)
    shape = tuple(index.shapes[layer])
    spatial = fields[layer].spatial_axes
    assert spatial is not None
    return Head(
        kind="none",
        cam_layer=layer,
        cam_shape=shape,
        spatial_axes=spatial,
        channel_axis=fields[layer].channel_axis(len(shape)),
        pool=None,
        linear=None,
        weight=None,
        bias=None,
        chain=_chain(index, layer, logits.tensor),
        cam_applies=False,
        reason=(
            f"{layer!r} ({'×'.join(map(str, shape))}) is the last map with positions that every path passes; "
            "after it the positions are mixed, so read a map of it with care"
        ),
    )


def _chain(index: GraphIndex, layer: str, target: str) -> tuple[str, ...]:
    """Operators that depend on ``layer``, in order."""
    after = index.descendants(layer)
    path = index.between([layer], [target])
    return tuple(n.op_type for n in path if any(t in after and not index.is_constant(t) for t in n.output))


def _last_layers(index: GraphIndex, tensor: str) -> list[NodeProto]:
    """The weighted layers reached first when walking back from ``tensor``."""
    found: dict[int, NodeProto] = {}
    seen, pending = {tensor}, [tensor]
    while pending:
        node = index.producer(pending.pop())
        if node is None:
            continue
        data = index.data_inputs(node)
        if node.op_type in LINEAR and len(data) == 1:
            found[id(node)] = node
            continue
        for name in data:
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return list(found.values())


def _depth(index: GraphIndex, node: NodeProto) -> tuple[int, int]:
    """How many weighted layers lie behind a node; the later one in the file wins a tie."""
    behind = index.ancestors(index.data_inputs(node)[0])
    makers = (index.producer(t) for t in behind)
    return sum(m is not None and m.op_type in LINEAR for m in makers), index.position(node)


def _before_dropout(index: GraphIndex, tensor: str) -> str:
    node = index.producer(tensor)
    while node is not None and node.op_type in _SAME_MAP:
        tensor = node.input[0]
        node = index.producer(tensor)
    return tensor


def _head(
    index: GraphIndex,
    fields: Mapping[str, TensorField],
    logits: Logits,
    *,
    node: NodeProto,
    layer: str,
    ends: int,
) -> Head:
    shape = tuple(index.shapes[layer])
    spatial = fields[layer].spatial_axes
    assert spatial is not None
    weight, bias = weight_tensors(index, node)
    several = "" if ends == 1 else f", the deepest of the {ends} layers that end together in the output"
    return Head(
        kind="dense",
        cam_layer=layer,
        cam_shape=shape,
        spatial_axes=spatial,
        channel_axis=fields[layer].channel_axis(len(shape)),
        pool=None,
        linear=index.label(node),
        weight=weight,
        bias=bias,
        chain=_chain(index, layer, logits.tensor),
        cam_applies=False,
        reason=(
            f"{layer!r} ({'×'.join(map(str, shape))}) enters {node.op_type} {index.label(node)!r}{several}; "
            "the logits are given for each position, so an explanation is of one position or region"
        ),
    )
