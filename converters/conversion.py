"""From a ModelProto to a :class:`~onnxvis.converters.module.TorchGraph`."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

import onnxvis.converters.operators  # noqa: F401  (registers the converters)
from onnxvis.converters.constants import attributes_of, node_constant, tensor_of
from onnxvis.converters.module import TorchGraph
from onnxvis.converters.onnx2torch_bridge import Onnx2Torch
from onnxvis.converters.plan import Step, sort_steps
from onnxvis.converters.registry import Node, Operator, find_converter
from onnxvis.errors import ConversionError, UnsupportedOperatorError

__all__ = ["convert"]

_DEFAULT_DOMAINS = ("", "ai.onnx")


def convert(model: onnx.ModelProto, dtype: torch.dtype = torch.float32) -> TorchGraph:
    """Convert an ONNX model to a differentiable torch module.

    The canonical dialect is what this is made for; any opset from 7 on is accepted where a converter exists.

    Args:
        model: with its external data, if any, in memory. It is not modified.
        dtype: the working float type; float64 keeps float64 constants exact.

    Raises:
        UnsupportedOperatorError: names every operator (domain, version, node) that no converter knows.
        ConversionError: names every node whose form cannot be converted, and why.
    """
    versions = {"" if entry.domain in _DEFAULT_DOMAINS else entry.domain: entry.version for entry in model.opset_import}
    if model.functions:
        names = ", ".join(sorted({f"{f.domain}::{f.name}" for f in model.functions}))
        raise ConversionError(f"The model has local functions ({names}); inline them first (onnx.inliner).")
    converted = _Converter(versions, dtype).graph(model.graph, {})
    if converted.captured_names:
        names = ", ".join(map(repr, converted.captured_names))
        raise ConversionError(f"The graph uses {names}, which no node makes (or which holds text).")
    return converted


class _Converter:
    def __init__(self, versions: Mapping[str, int], working: torch.dtype) -> None:
        self._versions = versions
        self._working = working
        self._types: dict[str, int] = {}

    def graph(self, graph: onnx.GraphProto, outer: Mapping[str, Tensor]) -> TorchGraph:
        """Convert a graph; ``outer`` are constants visible from an enclosing graph."""
        _refuse_other_values(graph)
        self._types.update(_element_types(graph))
        own = self._constants(graph)
        scope = {**outer, **own}
        steps, modules = self._operators(graph, own, scope)
        inputs = [value.name for value in graph.input if value.name not in own]
        ordered = sort_steps(steps, {*inputs, *scope})
        outputs = [value.name for value in graph.output]
        return TorchGraph(modules, ordered, own, input_names=inputs, output_names=outputs, working=self._working)

    def _operators(
        self, graph: onnx.GraphProto, own: Mapping[str, Tensor], scope: Mapping[str, Tensor]
    ) -> tuple[list[Step], list[nn.Module]]:
        """Every node converted; all that cannot be is reported at once."""
        library = Onnx2Torch(graph)
        steps: list[Step] = []
        modules: list[nn.Module] = []
        unknown: dict[str, list[str]] = {}
        unknown_inside: list[str] = []
        refused: list[str] = []
        for proto in graph.node:
            if self._is_constant(proto, own):
                continue
            node = self._view(proto, scope)
            convert_node = find_converter(node.domain, node.op_type, node.version) or library.find(node)
            if convert_node is None:
                unknown.setdefault(node.operator, []).append(repr(node.name))
                continue
            try:
                made = convert_node(node)
            except ConversionError as error:
                refused.append(str(error))
                continue
            except UnsupportedOperatorError as error:  # from the body of an If or Loop
                unknown_inside.append(f"In {node.where}: {error}")
                continue
            steps.append(_step(len(modules), node, made))
            modules.append(made.module)
        missing = [_unknown(operator, names) for operator, names in unknown.items()] + unknown_inside
        if missing:
            raise UnsupportedOperatorError("\n".join(missing + refused))
        if refused:
            raise ConversionError("\n".join(refused))
        return steps, modules

    def _constants(self, graph: onnx.GraphProto) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for proto in graph.initializer:
            value = tensor_of(proto, self._working)
            if value is not None:
                found[proto.name] = value
        for node in graph.node:
            if node.op_type == "Constant" and node.domain in _DEFAULT_DOMAINS:
                value = node_constant(attributes_of(node), self._working)
                if value is not None:
                    found[node.output[0]] = value
        return found

    @staticmethod
    def _is_constant(node: onnx.NodeProto, own: Mapping[str, Tensor]) -> bool:
        return node.op_type == "Constant" and node.domain in _DEFAULT_DOMAINS and node.output[0] in own

    def _view(self, proto: onnx.NodeProto, scope: Mapping[str, Tensor]) -> Node:
        domain = "" if proto.domain in _DEFAULT_DOMAINS else proto.domain
        inputs, outputs = tuple(proto.input), tuple(proto.output)
        while inputs and inputs[-1] == "":
            inputs = inputs[:-1]
        name = proto.name or f"{proto.op_type} -> {next((o for o in outputs if o), '?')}"
        return Node(
            name,
            proto.op_type,
            domain,
            self._versions.get(domain, 1),
            inputs,
            outputs,
            attributes_of(proto),
            scope,
            self._types,
            lambda body: self._body(body, scope),
        )

    def _body(self, body: onnx.GraphProto, scope: Mapping[str, Tensor]) -> tuple[TorchGraph, tuple[str, ...]]:
        module = self.graph(body, scope)
        return module, module.captured_names


def _step(index: int, node: Node, made: Operator) -> Step:
    return Step(index, node.name, node.op_type, made.inputs, node.outputs, made.host, made.activation)


def _unknown(operator: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    count = "node" if len(names) == 1 else f"{len(names)} nodes:"
    return f"No torch converter for {operator} ({count} {shown})."


def _refuse_other_values(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise ConversionError(f"{value.name!r} is not a tensor but a value of {kind}; only tensors are supported.")


def _element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """ONNX element types by tensor name, as far as the file states them."""
    values = (*graph.value_info, *graph.output, *graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    types |= {proto.name: proto.data_type for proto in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                types[node.output[0]] = attribute.t.data_type
    return types
