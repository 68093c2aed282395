"""What the nodes of a graph cost: operations, and the work that they stand for on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnxvis.graph.index import GraphIndex

__all__ = ["NodeCost", "node_costs"]

_CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv")
_PRODUCTS = ("Gemm", "MatMul", "FusedGemm", "FusedMatMul")
_FREE = ("Relu", "Clip", "Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Constant")
_PER_VALUE = {"MaxPool": 80.0, "AveragePool": 80.0, "LRN": 300.0, "Concat": 60.0}
_ELEMENTWISE = 40.0
_THIN = 6.0
"""Depthwise convolutions are bound by memory: about a sixth of the rate of dense ones."""
_NARROW = 1.5


@dataclass(frozen=True)
class NodeCost:
    """One node on the way from the picture to the logits.

    Attributes:
        output: the tensor it makes.
        operations: multiplications and additions of convolutions and products, for one picture.
        work: the same weighed by how well such a node runs, other nodes included, in operations of a dense
            convolution that would take as long.
    """

    output: str
    operations: float
    work: float


def node_costs(index: GraphIndex, image: str, logits: str) -> list[NodeCost]:
    """The cost of every node between two tensors, in topological order."""
    found = []
    for node in index.between([image], [logits]):
        if index.data_inputs(node):
            operations, work = _cost(index, node)
            found.append(NodeCost(next(t for t in node.output if t), operations, work))
    return found


def _cost(index: GraphIndex, node: onnx.NodeProto) -> tuple[float, float]:
    shape = index.shapes.get(next(t for t in node.output if t), ())
    values = float(np.prod(shape))
    if node.op_type in _CONVOLUTIONS:
        weights = index.constant_shape(node.input[1]) or index.shapes.get(node.input[1], ())
        if len(weights) > 2:
            source = index.shapes.get(node.input[0], shape)
            places = np.prod((source if node.op_type == "ConvTranspose" else shape)[2:])
            operations = 2.0 * float(np.prod(weights)) * float(places)
            per_group = weights[1] if node.op_type != "ConvTranspose" else weights[0]
            return operations, operations * (_THIN if per_group == 1 else _NARROW if per_group < 8 else 1.0)
    if node.op_type in _PRODUCTS:
        operands = [index.constant_shape(t) or index.shapes.get(t, ()) for t in node.input[:2]]
        summed = operands[0][0 if index.attrs(node).get("transA", 0) else -1] if operands[0] else 1
        operations = 2.0 * values * float(summed)
        return operations, operations
    return 0.0, 0.0 if node.op_type in _FREE else values * _PER_VALUE.get(node.op_type, _ELEMENTWISE)
