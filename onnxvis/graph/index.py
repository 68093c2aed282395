"""Look-ups in a graph: who makes a tensor, who reads it, what is constant, what lies between.

A :class:`GraphIndex` is built once from a model and never changes it. It accepts any opset, unsorted
nodes, weights kept in ``Constant`` nodes or behind ``Identity``/``Cast``/``DequantizeLinear``, and files
whose external weights were not loaded (then dims are known and values are not).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx.onnx_pb import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxvis.errors import LayerError, ModelError, did_you_mean
from onnxvis.graph.fold import attributes, fold, is_loaded, tensor_values

__all__ = ["GraphIndex", "Shapes", "captured"]

Shapes = Mapping[str, tuple[int, ...]]

_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
_CACHED_BYTES = 1 << 20


class GraphIndex:
    """A read-only view of one graph.

    Args:
        model: any ``ModelProto``; it is not copied, so do not edit it while the index is in use.
        shapes: concrete tensor shapes of one run. With them ``Shape`` and ``Size`` nodes count as constants,
            so that shape arithmetic (``Shape -> Gather -> Concat -> Reshape``) is not mistaken for data.

    Raises:
        ModelError: if the nodes form a cycle or read a tensor that nothing makes.
    """

    def __init__(self, model: ModelProto, shapes: Shapes | None = None) -> None:
        graph = model.graph
        self.model = model
        self.shapes: Shapes = dict(shapes) if shapes is not None else {}
        self._stored: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self._sparse = {t.values.name: t for t in graph.sparse_initializer}
        stored = self._stored.keys() | self._sparse.keys()
        self.inputs: tuple[str, ...] = tuple(i.name for i in graph.input if i.name not in stored)
        self.outputs: tuple[str, ...] = tuple(o.name for o in graph.output)
        self._reads: dict[int, tuple[str, ...]] = {}
        self.nodes: tuple[NodeProto, ...] = self._sorted(list(graph.node))
        self._position = {id(node): i for i, node in enumerate(self.nodes)}
        self._producer = {t: node for node in self.nodes for t in node.output if t}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(self.reads(node)):
                self._consumers.setdefault(tensor, []).append(node)
        self._constants = self._find_constants()
        self._values: dict[str, np.ndarray[Any, Any] | None] = {}
        self._hidden = dict(_hidden_tensors(self.nodes))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Graph inputs, then every node output, in topological order (constants included)."""
        return self.inputs + tuple(t for node in self.nodes for t in node.output if t)

    def reads(self, node: NodeProto) -> tuple[str, ...]:
        """Every tensor a node reads: its inputs and what its If/Loop/Scan bodies take from outside."""
        key = id(node)
        if key not in self._reads:
            explicit = tuple(t for t in node.input if t)
            self._reads[key] = explicit + tuple(captured(node))
        return self._reads[key]

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that makes ``tensor``; None for a graph input or an initializer."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> tuple[NodeProto, ...]:
        """The nodes that read ``tensor``, in topological order."""
        return tuple(self._consumers.get(tensor, ()))

    def attrs(self, node: NodeProto) -> dict[str, Any]:
        """Attributes as Python values, byte strings decoded."""
        return attributes(node)

    def label(self, node: NodeProto) -> str:
        """What to call a node in a message: its name, or its first output where it has none."""
        return node.name or next((t for t in node.output if t), node.op_type)

    def node(self, name: str) -> NodeProto:
        """The node of that name, or the one that makes the tensor of that name.

        Raises:
            LayerError: if there is neither.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        if name in self._producer:
            return self._producer[name]
        known = [n.name for n in self.nodes if n.name] + list(self._producer)
        raise LayerError(f"The graph has no node or tensor {name!r}.{did_you_mean(name, known)}")

    def position(self, node: NodeProto) -> int:
        """The place of a node in :attr:`nodes`."""
        return self._position[id(node)]

    def is_constant(self, tensor: str) -> bool:
        """True where the tensor is the same for every input image, whether or not its values are known."""
        return tensor in self._constants

    def constant(self, tensor: str) -> np.ndarray[Any, Any] | None:
        """The value of a constant tensor, or None where it is not constant or cannot be known here.

        Initializers and ``Constant`` nodes are read; ``Identity``, ``Cast``, ``DequantizeLinear``,
        ``Transpose``, ``Reshape`` and the usual shape arithmetic on them are evaluated when asked for.
        """
        if tensor not in self._constants:
            return None
        if tensor in self._values:
            return self._values[tensor]
        value = self._evaluate(tensor)
        if value is None or value.nbytes <= _CACHED_BYTES:
            self._values[tensor] = value
        return value

    def constant_shape(self, tensor: str) -> tuple[int, ...] | None:
        """The dims of a constant, known even where its values were left in an external file."""
        if tensor in self._stored:
            return tuple(self._stored[tensor].dims)
        if tensor in self._sparse:
            return tuple(self._sparse[tensor].dims)
        if tensor in self.shapes:
            return tuple(self.shapes[tensor])
        value = self.constant(tensor)
        return None if value is None else tuple(value.shape)

    def data_inputs(self, node: NodeProto) -> tuple[str, ...]:
        """What a node reads that is not constant, in order."""
        return tuple(t for t in self.reads(node) if t not in self._constants)

    def ancestors(self, tensor: str) -> set[str]:
        """Every tensor that ``tensor`` is computed from, itself included."""
        seen, pending = {tensor}, [tensor]
        while pending:
            node = self._producer.get(pending.pop())
            for name in self.reads(node) if node is not None else ():
                if name not in seen:
                    seen.add(name)
                    pending.append(name)
        return seen

    def descendants(self, tensor: str) -> set[str]:
        """Every tensor computed from ``tensor``, itself included."""
        seen, pending = {tensor}, [tensor]
        while pending:
            for node in self._consumers.get(pending.pop(), ()):
                for name in node.output:
                    if name and name not in seen:
                        seen.add(name)
                        pending.append(name)
        return seen

    def between(self, inputs: Iterable[str], outputs: Iterable[str]) -> list[NodeProto]:
        """The nodes needed to compute ``outputs`` when ``inputs`` are given, in topological order.

        Nodes that make constants on the way are included.
        """
        given, needed = set(inputs), set()
        pending = list(outputs)
        while pending:
            tensor = pending.pop()
            node = self._producer.get(tensor)
            if tensor in given or node is None or id(node) in needed:
                continue
            needed.add(id(node))
            pending.extend(self.reads(node))
        return [node for node in self.nodes if id(node) in needed]

    def hidden_in(self, tensor: str) -> NodeProto | None:
        """The If/Loop/Scan node in whose body ``tensor`` lives, or None. Such a tensor cannot be exposed."""
        return self._hidden.get(tensor)

    def cut_tensors(self, source: str, target: str) -> tuple[str, ...]:
        """The tensors that every way from ``source`` to ``target`` passes, in order, both ends included.

        In topological order all nodes before such a tensor come before all nodes after it, so it is found
        by one scan: it is a cut where it is the only tensor alive. Empty if ``target`` does not depend on
        ``source``.
        """
        after = self.descendants(source) - self._constants
        if target not in after:
            return ()
        path = [
            node
            for node in self.between([source], [target])
            if any(t in after for t in self.reads(node)) and any(t in after for t in node.output)
        ]
        on_path = {id(n) for n in path}
        wanted = {
            t: sum(id(c) in on_path for c in self._consumers.get(t, ()))
            for t in [source, *(t for n in path for t in n.output)]
        }
        alive, cuts = {source: wanted[source]}, [source]
        for node in path:
            for tensor in dict.fromkeys(self.reads(node)):
                if tensor in alive:
                    alive[tensor] -= 1
                    if not alive[tensor]:
                        del alive[tensor]
            alive.update({t: wanted[t] for t in node.output if t and (wanted[t] or t == target)})
            if len(alive) == 1:
                cuts.append(next(iter(alive)))
        return tuple(dict.fromkeys(cuts))

    def _sorted(self, nodes: list[NodeProto]) -> tuple[NodeProto, ...]:
        """Kahn's algorithm that keeps the file's order where it is already a valid one."""
        known = set(self.inputs) | self._stored.keys() | self._sparse.keys()
        order: list[NodeProto] = []
        pending = nodes
        while pending:
            left = []
            for node in pending:
                if all(t in known for t in self.reads(node)):
                    order.append(node)
                    known.update(node.output)
                else:
                    left.append(node)
            if len(left) == len(pending):
                node = left[0]
                missing = [t for t in self.reads(node) if t not in known]
                raise ModelError(
                    f"Node {node.name or node.output[0]!r} ({node.op_type}) reads {missing[0]!r}, which no "
                    "input, initializer or earlier node makes; the graph is incomplete or has a cycle. "
                    "Export it again."
                )
            pending = left
        return tuple(order)

    def _find_constants(self) -> set[str]:
        found = set(self._stored) | set(self._sparse)
        for node in self.nodes:
            if node.op_type in _RANDOM:
                continue
            of_shape = node.op_type in ("Shape", "Size") and node.input[0] in self.shapes
            if of_shape or all(t in found for t in self.reads(node)):
                found.update(t for t in node.output if t)
        return found

    def _evaluate(self, tensor: str) -> np.ndarray[Any, Any] | None:
        if tensor in self._stored:
            return tensor_values(self._stored[tensor])
        if tensor in self._sparse:
            return self._dense(tensor)
        node = self._producer[tensor]
        if node.op_type in ("Shape", "Size") and node.input[0] in self.shapes:
            dims = np.asarray(self.shapes[node.input[0]], np.int64)
            attrs = attributes(node)
            return np.asarray(dims.prod()) if node.op_type == "Size" else dims[attrs.get("start", 0) : attrs.get("end")]
        inputs = [self.constant(t) if t else None for t in node.input]
        if any(value is None for value, t in zip(inputs, node.input, strict=True) if t):
            return None
        outputs = fold(node, inputs)
        return None if outputs is None else outputs[list(node.output).index(tensor)]

    def _dense(self, tensor: str) -> np.ndarray[Any, Any] | None:
        sparse = self._sparse[tensor]
        if not (is_loaded(sparse.values) and is_loaded(sparse.indices)):
            return None
        values, indices = tensor_values(sparse.values), tensor_values(sparse.indices)
        assert values is not None
        assert indices is not None
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        return dense


def _bodies(node: NodeProto) -> list[GraphProto]:
    bodies = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return bodies + [g for a in node.attribute if a.type == AttributeProto.GRAPHS for g in a.graphs]


def captured(node: NodeProto) -> list[str]:
    """Tensors of the graph around it that the If, Loop or Scan bodies of a node read."""
    names: list[str] = []
    for body in _bodies(node):
        own = {t.name for t in body.initializer} | {i.name for i in body.input}
        own |= {t for n in body.node for t in n.output}
        used = [t for n in body.node for t in (*n.input, *captured(n)) if t]
        used += [o.name for o in body.output]
        names += [t for t in used if t not in own]
    return names


def _hidden_tensors(nodes: Iterable[NodeProto]) -> list[tuple[str, NodeProto]]:
    found: list[tuple[str, NodeProto]] = []
    for node in nodes:
        for body in _bodies(node):
            found += [(t, node) for inner in body.node for t in inner.output if t]
            found += [(t, node) for t, _ in _hidden_tensors(body.node)]
    return found
