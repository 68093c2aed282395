"""Small ONNX graphs written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Builder"]


class Builder:
    """Adds nodes one by one; each call returns the name of the new tensor.

    Weights are drawn from a seeded generator, positive by default, so that no contribution cancels.
    """

    def __init__(self, shape: Sequence[int | str], name: str = "image", opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
        self.name = name
        self.rng = np.random.default_rng(seed)

    def constant(self, values: Any, name: str | None = None) -> str:
        """Store an initializer."""
        name = name or f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape: int, signed: bool = False) -> str:
        """Store random float32 weights, in (0.5, 1.5) or normal."""
        values = self.rng.standard_normal(shape) if signed else self.rng.uniform(0.5, 1.5, shape)
        return self.constant(values.astype(np.float32))

    def node(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        """Add a node; returns its output's name, or a list of names."""
        names = [
            f"{op_type}{len(self.nodes)}_{i}" if outputs > 1 else f"{op_type}{len(self.nodes)}" for i in range(outputs)
        ]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, f"node_{names[0]}", domain=domain, **attrs))
        return names if outputs > 1 else names[0]

    def conv(
        self,
        x: str,
        c_in: int,
        c_out: int,
        k: int | tuple[int, int] = 3,
        *,
        signed: bool = False,
        **attrs: Any,
    ) -> str:
        """Add a convolution with random weights."""
        kernel = (k, k) if isinstance(k, int) else k
        group = attrs.get("group", 1)
        return str(self.node("Conv", x, self.weight(c_out, c_in // group, *kernel, signed=signed), **attrs))

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished model."""
        declared = [onnx.ValueInfoProto(name=o) for o in outputs]
        graph = helper.make_graph(self.nodes, "test", [self.input], declared, self.stored)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(d, 1) for d in {n.domain for n in self.nodes if n.domain}]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)
