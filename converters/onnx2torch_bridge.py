"""Operators that only onnx2torch knows, through its own registry but without its graph wiring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from torch import nn

from onnxvis.converters.registry import Node, Operator
from onnxvis.converters.torchvision_shim import ensure_torchvision

__all__ = ["Onnx2Torch"]


class Onnx2Torch:
    """Looks converters up in onnx2torch's registry, for the nodes of one graph.

    onnx2torch asks for an exact version; the newest one that is not above the node's is used instead.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._proto = graph
        self._graph: Any = None
        self._nodes: dict[str, Any] = {}

    def find(self, node: Node) -> Callable[[Node], Operator] | None:
        """A converter for this node, or None."""
        ensure_torchvision()
        from onnx2torch.node_converters import registry

        table = registry._CONVERTER_REGISTRY
        versions = [
            key.version
            for key in table
            if key.domain == node.domain and key.operation_type == node.op_type and key.version <= node.version
        ]
        if not versions:
            return None
        theirs = table[registry.OperationDescription(node.domain, node.op_type, max(versions))]
        return lambda ours: self._convert(theirs, ours)

    def _convert(self, theirs: Callable[[Any, Any], Any], node: Node) -> Operator:
        if self._graph is None:
            from onnx2torch.onnx_graph import OnnxGraph

            self._graph = OnnxGraph(self._proto)
            self._nodes = {name: view for view in self._graph.nodes.values() for name in view.output_values if name}
        view = self._nodes[next(name for name in node.outputs if name)]
        try:
            result = theirs(view, self._graph)
        except (NotImplementedError, KeyError, ValueError, TypeError, IndexError) as error:
            raise node.refuse(f"onnx2torch says {type(error).__name__}: {error}") from error
        if tuple(result.onnx_mapping.outputs) != tuple(view.output_values):
            raise node.refuse("onnx2torch orders its outputs in another way")
        module: nn.Module = result.torch_module
        return Operator(module, tuple(result.onnx_mapping.inputs))
