"""What a rewrite is, and the few graph edits that most rewrites share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import onnx_ir as ir

__all__ = [
    "DEFAULT_DOMAINS",
    "OLDEST_MODERN",
    "PINNED",
    "Dims",
    "Patch",
    "Rewrite",
    "Stage",
    "constant_of",
    "distrust",
    "dtype_of",
    "fresh_name",
    "fresh_node_name",
    "input_of",
    "is_default_domain",
    "is_used",
    "nodes_of",
    "opset_of",
    "release_bodies",
    "remember",
    "remove_node",
    "renamed",
    "set_constant",
    "shape_of",
]

DEFAULT_DOMAINS = ("", "ai.onnx")
PINNED = 17
OLDEST_MODERN = 13
Dims = tuple[int | str | None, ...]
Stage = Literal["any", "modern", "form"]
_NAMES, _NODES, _INNER = "onnxvis.names", "onnxvis.nodes", "onnxvis.inner"
_SHAPE, _DTYPE = "onnxvis.shape", "onnxvis.dtype"


@dataclass(frozen=True)
class Rewrite:
    """One rewrite of the canonical dialect.

    Attributes:
        name: short, unique, in the words of the pattern ("lift-constants").
        summary: one sentence for people: what it changes, and why.
        apply: edits the model in place and returns in how many places it changed something. It must be
            idempotent: a second call returns 0.
        stage: ``"any"``: correct at every operator set. ``"modern"``: writes nodes in a form that every
            operator set from 13 on has, so it waits until the model is that new. ``"form"``: brings nodes
            to the form of the pinned operator set; such rewrites are kept only if the whole model can be
            pinned afterwards, because a file has one operator set for all its nodes.
    """

    name: str
    summary: str
    apply: Callable[[ir.Model], int]
    stage: Stage = "any"


def is_default_domain(node: ir.Node) -> bool:
    """Whether the node is an operator of the ONNX standard itself."""
    return node.domain in DEFAULT_DOMAINS


def opset_of(model: ir.Model) -> int:
    """The version of the default operator set that the model imports (1 when it imports none)."""
    imports = model.graph.opset_imports
    return max((imports[d] for d in DEFAULT_DOMAINS if d in imports), default=1)


def nodes_of(model: ir.Model, *op_types: str, domain: str = "") -> Iterator[ir.Node]:
    """Nodes of all graphs with one of these operator types, safe against edits while iterating."""
    for node in tuple(model.graph.all_nodes()):
        same = is_default_domain(node) if domain == "" else node.domain == domain
        if same and node.op_type in op_types:
            yield node


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """The input at ``index``, ``None`` when it is absent or left empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def is_used(value: ir.Value) -> bool:
    """Whether a node or the graph's outputs read the value."""
    return bool(value.uses()) or value.is_graph_output()


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The value of a tensor that is known without running the graph, else ``None``."""
    if value is None or value.const_value is None:
        return None
    if value.is_graph_input():  # a default that the caller may override
        return None
    return np.asarray(value.const_value.numpy())


def shape_of(value: ir.Value | None) -> Dims | None:
    """The shape as inferred from the graph's inputs: a number, a symbol's name or ``None`` per axis.

    What a file declares about its inner tensors is not believed: onnxruntime does not enforce it.
    """
    if value is None:
        return None
    if value.const_value is not None and not value.is_graph_input():
        return tuple(int(extent) for extent in value.const_value.shape.numpy())
    if value.is_graph_input():
        if value.shape is None or _INNER in value.meta:
            return None
        dims = [d if isinstance(d, int) else d.value for d in value.shape]
        return tuple(None if isinstance(d, int) and d <= 0 else d for d in dims)
    return cast("Dims | None", value.meta.get(_SHAPE))


def dtype_of(value: ir.Value | None) -> ir.DataType | None:
    """The element type as far as it is known."""
    if value is None:
        return None
    if value.const_value is not None:
        return ir.DataType(value.const_value.dtype)
    if value.is_graph_input():
        return value.dtype
    return cast("ir.DataType | None", value.meta.get(_DTYPE))


def remember(value: ir.Value, shape: Dims | None, dtype: ir.DataType | None) -> None:
    """Store what is known about a tensor; :func:`shape_of` and :func:`dtype_of` read it."""
    value.meta[_SHAPE] = shape
    value.meta[_DTYPE] = dtype


def distrust(value: ir.Value) -> None:
    """Mark an input of a Loop's or If's body: its declared shape is not enforced, and may change."""
    value.meta[_INNER] = True


def _taken_names(model: ir.Model, key: str) -> set[str]:
    if key not in model.meta:
        taken: set[str] = set()
        for graph in model.graphs():
            if key == _NODES:
                taken.update(node.name for node in graph if node.name)
                continue
            taken.update(graph.initializers)
            taken.update(v.name for v in graph.inputs if v.name)
            taken.update(v.name for n in graph for v in n.outputs if v.name)
        model.meta[key] = taken
    return cast("set[str]", model.meta[key])


def _fresh(taken: set[str], stem: str) -> str:
    name, number = stem, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name)
    return name


def fresh_name(model: ir.Model, stem: str) -> str:
    """A tensor name that no graph of the model uses, derived from ``stem``."""
    return _fresh(_taken_names(model, _NAMES), stem)


def fresh_node_name(model: ir.Model, stem: str) -> str:
    """A node name that no graph of the model uses: onnxruntime refuses a file that has one twice."""
    return _fresh(_taken_names(model, _NODES), stem)


def release_bodies(node: ir.Node) -> None:
    """Let go of the outer tensors that the bodies of a removed node read."""
    for attribute in node.attributes.values():
        bodies = (attribute.value,) if attribute.type == ir.AttributeType.GRAPH else ()
        bodies = tuple(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else bodies
        for body in bodies:
            for inner in body.all_nodes():
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)


def remove_node(node: ir.Node, stand_in: ir.Value) -> None:
    """Remove a node; whoever read its first output reads ``stand_in`` from now on."""
    graph = node.graph
    assert graph is not None
    ir.convenience.replace_all_uses_with(node.outputs[0], stand_in, replace_graph_outputs=False)
    graph.remove(node, safe=True)


def renamed(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The tensor under another name. A copy: the original may belong to the caller's model."""
    if not isinstance(tensor, ir.TensorProtoTensor):
        tensor.name = name
        return tensor
    proto = ir.serde.serialize_tensor(tensor)
    proto.name = name
    return ir.serde.deserialize_tensor(proto)


def set_constant(node: ir.Node, array: np.ndarray | ir.TensorProtocol) -> None:
    """Replace a single-output node by an initializer that carries the node's output name."""
    graph, output = node.graph, node.outputs[0]
    assert graph is not None
    name, output.name = output.name, None
    tensor = array if isinstance(array, ir.TensorProtocol) else ir.tensor(np.asarray(array, order="C"))
    tensor = renamed(tensor, name or "")
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    ir.convenience.replace_all_uses_with(output, value)
    graph.remove(node, safe=True)


class Patch:
    """The nodes and constants that take the place of one node.

    A tensor keeps its name: the values handed to :meth:`replace` take over the names, the declared types
    and the readers of the old node's outputs. What is new is named after the old node's first output.
    """

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self._model, self._node = model, node
        self._nodes: list[ir.Node] = []
        self._stem = next((out.name for out in node.outputs if out.name), node.name or node.op_type)

    def op(self, op_type: str, *inputs: ir.Value | None, hint: str | None = None, **attributes: Any) -> ir.Value:
        """Add a node with one output and return that output; attributes that are ``None`` are left out."""
        return self.ops(op_type, *inputs, outputs=1, hint=hint, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, hint: str | None = None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs."""
        suffix = hint or op_type.lower()
        given = {name: value for name, value in attributes.items() if value is not None}
        label = fresh_node_name(self._model, f"{self._node.name or self._stem}_{suffix}")
        node = ir.node(op_type, list(inputs), attributes=given, num_outputs=outputs, name=label)
        for value in node.outputs:
            value.name = fresh_name(self._model, f"{self._stem}_{suffix}")
        self._nodes.append(node)
        return node.outputs

    def constant(self, hint: str, array: np.ndarray) -> ir.Value:
        """Add an initializer to the node's graph and return it."""
        graph = self._node.graph
        assert graph is not None
        name = fresh_name(self._model, f"{self._stem}_{hint}")
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(tensor.shape.numpy()), type=kind)
        graph.register_initializer(value)
        return value

    def insert(self) -> None:
        """Put the new nodes before the old node, which stays."""
        graph = self._node.graph
        assert graph is not None
        graph.insert_before(self._node, self._nodes)
        self._nodes = []

    def replace(self, *outputs: ir.Value) -> None:
        """Put the new nodes in the old node's place; further outputs of the old node must be unused."""
        node, graph = self._node, self._node.graph
        assert graph is not None
        made = {id(value) for new in self._nodes for value in new.outputs}
        finals = [
            value if id(value) in made and value not in outputs[:index] else self.op("Identity", value)
            for index, value in enumerate(outputs)
        ]
        self.insert()
        for old, new in zip(node.outputs, finals, strict=False):
            new.name, new.shape, new.type = old.name, old.shape, old.type
            remember(new, shape_of(old), dtype_of(old))
            old.name = None
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
