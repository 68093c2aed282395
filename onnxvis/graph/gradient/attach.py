"""Attach what a tape wrote to the deployed graph, whose own nodes stay as they are.

A tensor of the dialect has the name it has in the file, so the new nodes read the file's tensors. What exists only in
the dialect is brought along: constants are copied, twins are computed again; half precision is raised to float32 where
the new nodes read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper

from onnxvis.errors import ConversionError
from onnxvis.graph.gradient.shapes import infer
from onnxvis.graph.gradient.tensor import FLOATS, Known, Tape, Tensor
from onnxvis.graph.gradient.vjp import check_forms, opset_of
from onnxvis.graph.index import captured

__all__ = ["Attached", "attach"]


@dataclass(frozen=True, eq=False)
class Attached:
    """A deployed graph with more outputs.

    Attributes:
        model: the new graph.
        added: how many nodes it has more.
        recomputed: those of them that compute a tensor of the dialect that the file does not have.
    """

    model: onnx.ModelProto
    added: int
    recomputed: int


@dataclass(eq=False)
class _Bridge:
    """Finds for each tensor that the tape reads what stands for it in the deployed graph."""

    tape: Tape
    deployed: onnx.GraphProto
    known: Mapping[str, Known]
    makers: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]
    own: Mapping[str, onnx.TensorProto]
    made: frozenset[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    recomputed: int = 0
    names: dict[str, str] = field(default_factory=dict)

    def name(self, tensor: str) -> str:
        """What to read instead of a tensor of the dialect."""
        if tensor and tensor not in self.names:
            self.names[tensor] = self._find(tensor)
        return self.names.get(tensor, "")

    def _find(self, tensor: str) -> str:
        weight, stored = self.constants.get(tensor), self.own.get(tensor)
        if weight is not None and stored is not None:
            if stored.data_type == weight.data_type and stored.SerializeToString() == weight.SerializeToString():
                return tensor
            half = stored.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
            return self._read(tensor) if half else self._copied(weight)
        if tensor in self.made:
            return self._read(tensor)
        return self._copied(weight) if weight is not None else self._recomputed(tensor)

    def _read(self, tensor: str) -> str:
        """A tensor of the file, in the type that it has in the dialect."""
        wanted = self.tape.tensor(tensor).dtype
        found = self.known.get(tensor, Known()).dtype
        if found == wanted or (wanted not in FLOATS and found == 0):
            return tensor
        if wanted not in FLOATS or (found and found not in FLOATS):
            raise ConversionError(
                f"tensor {tensor!r} holds {onnx.TensorProto.DataType.Name(found)} in the file and "
                f"{onnx.TensorProto.DataType.Name(wanted)} in its canonical form, so nothing can be attached to it. "
                "Embed the float32 model that the file was made from."
            )
        name = self.tape.fresh("Cast")
        self.nodes.append(helper.make_node("Cast", [tensor], [name], name=name, to=wanted))
        return name

    def _copied(self, weight: onnx.TensorProto) -> str:
        copy = onnx.TensorProto()
        copy.CopyFrom(weight)
        copy.name = self.tape.fresh("constant")
        self.initializers.append(copy)
        return copy.name

    def _recomputed(self, tensor: str) -> str:
        copy = onnx.NodeProto()
        copy.CopyFrom(self.makers[tensor])
        for attribute in copy.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ConversionError(
                    f"{copy.op_type} node {copy.name!r} has a body, and its result {tensor!r} is not in the file: the "
                    "gradient cannot be attached. Use `onnxvis explain`."
                )
        copy.input[:] = [self.name(read) for read in copy.input]
        copy.name = self.tape.fresh(copy.op_type)
        for position, out in enumerate(copy.output):
            if out:
                self.names.setdefault(out, self.tape.fresh("twin"))
                copy.output[position] = self.names[out]
        self.nodes.append(copy)
        self.recomputed += 1
        return self.names[tensor]


def _needed(tape: Tape, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    makers = {name: node for node in tape.nodes for name in node.output}
    chosen: set[int] = set()
    pending = list(outputs)
    while pending:
        node = makers.get(pending.pop())
        if node is not None and id(node) not in chosen:
            chosen.add(id(node))
            pending.extend(name for name in (*node.input, *captured(node)) if name)
    return [node for node in tape.nodes if id(node) in chosen]


def attach(
    deployed: onnx.ModelProto,
    dialect: onnx.ModelProto,
    tape: Tape,
    outputs: Mapping[str, tuple[Tensor, Sequence[str | int]]],
    inputs: Mapping[str, onnx.TensorProto],
) -> Attached:
    """The deployed graph with new outputs, and inputs that may be left out.

    Args:
        deployed: weights in memory; it is not changed.
        dialect: its canonical form, on which the tape was written.
        tape: with ``amend=False``, and the deployed graph's names taken.
        outputs: name of each new output, the tensor it shows, and its declared dims.
        inputs: name and default value of each new input. The batch axis of the default is declared free.

    Raises:
        ConversionError: the file's operator set lacks a form that is needed; a tensor has another meaning there.
    """
    if deployed.ir_version < 4:
        raise ConversionError(f"the file has IR version {deployed.ir_version}, in which weights are inputs")
    graph = deployed.graph
    weights = {t.name: t for t in graph.initializer}
    made = {v.name for v in graph.input} | {t for n in graph.node for t in n.output if t}
    makers = {t: n for n in dialect.graph.node for t in n.output if t}
    constants = {t.name: t for t in dialect.graph.initializer}
    bridge = _Bridge(tape, graph, infer(deployed), makers, constants, weights, frozenset(made | weights.keys()))
    nodes = []
    own = {name for node in tape.nodes for name in node.output} | {t.name for t in tape.initializers} | inputs.keys()
    wanted = [tensor.name for tensor, _ in outputs.values()]
    for node in _needed(tape, wanted):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [name if name in own or not name else bridge.name(name) for name in node.input]
        nodes.append(copy)
    finals = []
    for name, (tensor, _) in outputs.items():
        source = tensor.name if tensor.name in own else bridge.name(tensor.name)
        finals.append(helper.make_node("Identity", [source], [name], name=tape.fresh("Identity")))
    new = [*bridge.nodes, *nodes, *finals]
    check_forms(new, opset_of(deployed))
    model = onnx.ModelProto()
    model.CopyFrom(deployed)
    read = {name for node in new for name in (*node.input, *captured(node))}
    model.graph.node.extend(new)
    model.graph.initializer.extend(bridge.initializers)
    model.graph.initializer.extend(t for t in tape.initializers if t.name in read)
    for name, default in inputs.items():
        dims: list[str | int] = [f"{name}_count", *default.dims[1:]]
        model.graph.input.append(helper.make_tensor_value_info(name, default.data_type, dims))
        model.graph.initializer.append(default)
    for name, (tensor, shape) in outputs.items():
        model.graph.output.append(helper.make_tensor_value_info(name, tensor.dtype, list(shape)))
    return Attached(model, len(new), bridge.recomputed)
