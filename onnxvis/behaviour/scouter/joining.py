"""Backbone and head joined into one ONNX file.

    image -> the file's own nodes up to the feature map -> Conv 1x1 -> ... -> logits (N, K), attention (N, K, H, W)

What lies behind the feature map (the old head) is left out. Names, weights and operator set of the backbone stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxvis._version import __version__
from onnxvis.behaviour.scouter.onnx_head import OLDEST_OPSET, head_nodes
from onnxvis.behaviour.scouter.settings import HeadForm
from onnxvis.errors import ConversionError
from onnxvis.graph.cut import cut
from onnxvis.graph.index import captured
from onnxvis.labels import METADATA_KEY as LABELS_KEY
from onnxvis.methods.scouter import METADATA_KEY
from onnxvis.preprocessing import METADATA_KEY as PREPROCESSING_KEY
from onnxvis.preprocessing import Preprocessing

__all__ = ["Parts", "default_opset", "join", "trunk_of"]

_PREFIX = "scouter/"
_OUTPUTS = ("logits", "attention")


@dataclass(frozen=True, eq=False)
class Parts:
    """What is joined.

    Attributes:
        trunk: the graph up to the feature map (:func:`trunk_of`).
        image: its picture input.
        image_shape: of one picture, batch axis first.
        feature: the feature map's tensor.
        permutation: brings the feature map to ``(N, C, H, W)``.
        cast: the feature map is not float32.
        form: of the head.
        weights: of the head.
    """

    trunk: onnx.ModelProto
    image: str
    image_shape: Sequence[int]
    feature: str
    permutation: Sequence[int]
    cast: bool
    form: HeadForm
    weights: Mapping[str, np.ndarray]


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def trunk_of(model: onnx.ModelProto, image: str, feature: str) -> onnx.ModelProto:
    """The part from the picture to the feature map, under the same operator sets, with the file's metadata.

    Raises:
        LayerError: the feature map does not depend on the picture.
    """
    trunk = cut(model, [image], [feature])
    _sort(trunk.graph)
    trunk.ir_version = max(model.ir_version, 4)
    trunk.producer_version, trunk.domain = model.producer_version, model.domain
    own = (LABELS_KEY, PREPROCESSING_KEY, METADATA_KEY, "names")
    for entry in model.metadata_props:
        if entry.key not in own:
            trunk.metadata_props.add().CopyFrom(entry)
    return trunk


def _sort(graph: onnx.GraphProto) -> None:
    """Bring the nodes into an order in which each can be run: onnxruntime takes any, other readers do not."""
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    order: dict[int, None] = {}
    for first in range(len(graph.node)):
        waiting = [first]
        while waiting:
            node = graph.node[waiting[-1]]
            needed = {makers[t] for t in (*node.input, *captured(node)) if t in makers} - order.keys() - {waiting[-1]}
            if not needed or waiting[-1] in order:
                order[waiting.pop()] = None
            else:
                waiting += sorted(needed, reverse=True)
    if list(order) != sorted(order):
        nodes = [graph.node[number] for number in order]
        graph.ClearField("node")
        graph.node.extend(nodes)


def join(
    parts: Parts, labels: Sequence[str], preprocessing: Preprocessing | None, record: Mapping[str, Any]
) -> onnx.ModelProto:
    """The whole classifier as one model.

    Args:
        parts: backbone and head.
        labels: names of the K classes.
        preprocessing: how a picture becomes the input.
        record: more to say under the metadata key ``onnxvis.scouter``.

    Raises:
        ConversionError: the trunk's operator set is older than 9.
    """
    opset = default_opset(parts.trunk)
    if opset < OLDEST_OPSET:
        raise ConversionError(f"the head needs operator set {OLDEST_OPSET}, the backbone has {opset}.")
    model = onnx.ModelProto()
    model.CopyFrom(parts.trunk)
    graph = model.graph
    taken = {t for node in graph.node for t in (*node.input, *node.output, node.name)}
    prefix = _free(_PREFIX, lambda word: any(name.startswith(word) for name in taken))
    names = [_free(name, lambda word: word in taken) for name in _OUTPUTS]
    outputs = (names[0], names[1])
    head = head_nodes(parts.form, parts.weights, parts.feature, outputs, prefix, opset, parts.permutation, parts.cast)
    graph.node.extend(head.nodes)
    graph.initializer.extend(head.initializers)
    batch = _settle_input(graph, parts)
    del graph.output[:]
    form = parts.form
    for name, shape in zip(outputs, ([form.classes], [form.classes, form.height, form.width]), strict=True):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]))
    said = {
        "onnxvis": __version__,
        "logits": outputs[0],
        "attention": outputs[1],
        "values": head.values,
        "feature": parts.feature,
        "form": form.to_dict(),
        **record,
    }
    _describe(model, labels, preprocessing, said)
    return model


def _free(word: str, taken: Any) -> str:
    while taken(word):
        word = f"scouter_{word}"
    return word


def _settle_input(graph: onnx.GraphProto, parts: Parts) -> int | str:
    """Fix a free height and width to what was trained on, and return the batch axis as the input declares it."""
    declared = next(value for value in graph.input if value.name == parts.image)
    dims = declared.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if axis and not dim.dim_value > 0:
            dim.dim_value = int(parts.image_shape[axis])
    if not dims or not dims[0].dim_value > 0:
        return (dims[0].dim_param if dims else "") or "N"
    return int(dims[0].dim_value)


def _describe(
    model: onnx.ModelProto, labels: Sequence[str], preprocessing: Preprocessing | None, record: Mapping[str, Any]
) -> None:
    entries = {METADATA_KEY: dict(record), LABELS_KEY: list(labels)}
    if preprocessing is not None:
        entries[PREPROCESSING_KEY] = preprocessing.to_dict()
    for key, value in entries.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
