"""What the stretch of graph between two neighboring cut tensors does.

The tensors that every path from the picture to the logits passes cut the graph into stretches. Most hold one
node; an activation written out (``x * HardSigmoid(x)``), a layer normalization written out or a dynamic
integer product are several nodes that act as one; a residual block is a ``block``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx.onnx_pb import NodeProto

from onnxvis.graph.index import GraphIndex
from onnxvis.graph.receptive import TensorField

__all__ = ["LINEAR", "Role", "Stretch", "map_units", "stretch", "weight_tensors"]

RoleKind = Literal["shape", "quantize", "bias", "affine", "linear", "nonlinear", "norm", "pool", "local-pool", "block"]

CONVOLUTIONS = {"Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcFusedConv", "ConvTranspose"}
LINEAR = CONVOLUTIONS | {
    "Gemm",
    "FusedGemm",
    "QGemm",
    "MatMul",
    "FusedMatMul",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
    "GemmFloat8",
}
_SHAPE = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast", "Dropout"}
_QUANTIZE = {"QuantizeLinear", "DequantizeLinear"}
_NORM = {
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "LpNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "MeanVarianceNormalization",
}
_WHOLE_POOLS = {
    "GlobalAveragePool": "mean",
    "QLinearGlobalAveragePool": "mean",
    "GlobalMaxPool": "max",
    "GlobalLpPool": "norm",
    "ReduceMean": "mean",
    "QLinearReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceL2": "norm",
    "ReduceLogSumExp": "log-sum-exp",
}
_LOCAL_POOLS = {
    "AveragePool": "mean",
    "QLinearAveragePool": "mean",
    "MaxPool": "max",
    "LpPool": "norm",
}
# What stands around the product of a dynamically quantized layer.
_RESCALING = {"DynamicQuantizeLinear", "Cast", "Mul", "Add", "Sub", "Reshape"}
_POINTWISE = {
    "Abs",
    "Add",
    "BiasGelu",
    "Cast",
    "Celu",
    "Clip",
    "DequantizeLinear",
    "Div",
    "Elu",
    "Erf",
    "Exp",
    "FastGelu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Max",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "PRelu",
    "Pow",
    "QLinearAdd",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearSigmoid",
    "QuantizeLinear",
    "QuickGelu",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
}
# Adaptive pooling to a size that does not divide the map is written out with these.
_RESAMPLING = {
    "Add",
    "AveragePool",
    "Concat",
    "Div",
    "Expand",
    "Gather",
    "GatherElements",
    "GatherND",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Resize",
    "ScatterND",
    "Slice",
    "Split",
    "Squeeze",
    "Sum",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "Where",
}
_MOVES_POSITIONS = {
    "AveragePool",
    "Gather",
    "GatherElements",
    "GatherND",
    "MaxPool",
    "Pad",
    "Resize",
    "Slice",
    "Upsample",
}
_STATISTICS = {"ReduceMean", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"}


@dataclass(frozen=True)
class Role:
    """What a stretch does.

    Attributes:
        kind: ``shape`` (reshapes, casts, dropout), ``quantize`` (to or from 8 bits), ``bias`` and ``affine``
            (a constant added; multiplied), ``linear``, ``nonlinear``, ``norm``, ``pool`` (over the whole
            map), ``local-pool`` (also padding, slicing, resizing) or ``block`` (anything else).
        node: the node that matters.
        pooling: how it pools, if it does.
        activated: a linear node with an activation fused into it.
        integer: a product in integers whose scale is taken from the picture.
    """

    kind: RoleKind
    node: NodeProto
    pooling: str = ""
    activated: bool = False
    integer: bool = False


@dataclass(frozen=True)
class Stretch:
    """The nodes from one cut tensor to the next."""

    source: str
    target: str
    nodes: tuple[NodeProto, ...]
    role: Role


def map_units(fields: Mapping[str, TensorField], tensor: str) -> int:
    """How many positions of the image a tensor has; 0 where it is not a map."""
    field = fields.get(tensor)
    if field is None or field.rows is None or field.cols is None:
        return 0
    return len(field.rows.support) * len(field.cols.support)


def stretch(index: GraphIndex, fields: Mapping[str, TensorField], source: str, target: str) -> Stretch:
    """The stretch between two neighboring cut tensors."""
    nodes = tuple(n for n in index.between([source], [target]) if not all(index.is_constant(t) for t in n.output if t))
    role = _single(index, fields, nodes[0]) if len(nodes) == 1 else _several(index, nodes)
    return Stretch(source, target, nodes, role)


def _single(index: GraphIndex, fields: Mapping[str, TensorField], node: NodeProto) -> Role:
    op, data = node.op_type, index.data_inputs(node)
    if op in LINEAR:
        activated = bool(index.attrs(node).get("activation"))
        return Role("linear" if len(data) == 1 else "block", node, activated=activated)
    if op in _SHAPE or (op == "Gather" and _takes_everything(index, node)):
        return Role("shape", node)
    if op in _QUANTIZE:
        return Role("quantize", node)
    if op in _WHOLE_POOLS:
        return _whole_pool(index, fields, node)
    if op in _LOCAL_POOLS:
        return _local_pool(index, fields, node)
    if op in _NORM:
        return Role("norm", node)
    if op == "BatchNormalization":
        return Role("affine", node)
    if op in ("Add", "Sub", "Mul", "Div", "QLinearAdd", "QLinearMul", "BiasAdd") and len(data) == 1:
        divides_by_data = op == "Div" and data[0] == node.input[1]
        shifts = op in ("Add", "Sub", "QLinearAdd", "BiasAdd")
        return Role("nonlinear" if divides_by_data else "bias" if shifts else "affine", node)
    if op == "Where" and len(data) == 1 and data[0] != node.input[0]:
        return Role("affine", node)
    if op in _MOVES_POSITIONS:
        return Role("local-pool", node)
    return Role("nonlinear" if op in _POINTWISE else "block", node)


def _several(index: GraphIndex, nodes: Sequence[NodeProto]) -> Role:
    operators = {n.op_type for n in nodes}
    weighted = [n for n in nodes if n.op_type in LINEAR]
    last = nodes[-1]
    if len(weighted) == 1 and "DynamicQuantizeLinear" in operators and operators - LINEAR <= _RESCALING:
        return Role("linear", weighted[0], integer=True)
    if weighted:
        return Role("block", last)
    if operators <= _POINTWISE:
        return Role("nonlinear", last)
    if operators <= _POINTWISE | _STATISTICS | {"Expand"} and operators & _STATISTICS:
        return Role("norm", last)
    if operators <= _RESAMPLING and operators & _MOVES_POSITIONS:
        return Role("local-pool", last)
    return Role("block", last)


def _takes_everything(index: GraphIndex, node: NodeProto) -> bool:
    """A Gather that only re-orders axes of length 1 or lists all entries in order (``as_strided``)."""
    indices = index.constant(node.input[1])
    return indices is not None and np.array_equal(indices.reshape(-1), np.arange(indices.size))


def _whole_pool(index: GraphIndex, fields: Mapping[str, TensorField], node: NodeProto) -> Role:
    """Global pooling; a reduction counts only where it runs over the image's axes and no other."""
    pooling = _WHOLE_POOLS[node.op_type]
    if node.op_type.endswith("Pool"):
        return Role("pool", node, pooling)
    source = node.input[0]
    shape = index.shapes[source]
    given = index.attrs(node).get("axes")
    if given is None and len(node.input) > 1 and node.op_type != "QLinearReduceMean":
        value = index.constant(node.input[1])
        given = None if value is None else value.reshape(-1).tolist()
    reduced = {int(a) % len(shape) for a in given or range(len(shape))}
    field = fields[source]
    spatial = {f.axis for f in (field.rows, field.cols) if f is not None}
    if spatial and reduced <= spatial:
        return Role("pool", node, pooling)
    if not spatial and _merged_positions(index, fields, source) == math.prod(shape[a] for a in reduced):
        return Role("pool", node, pooling)
    if not spatial and len(shape) > 2 and pooling in ("mean", "max", "sum"):
        # The end of an adaptive pool that began with gathers.
        return Role("local-pool", node, pooling)
    return Role("norm" if pooling == "norm" else "block", node)


def _merged_positions(index: GraphIndex, fields: Mapping[str, TensorField], tensor: str) -> int:
    """Positions of the map that was reshaped into ``tensor`` (``N, C, H*W``), or 0."""
    node = index.producer(tensor)
    while node is not None and node.op_type in _SHAPE | _QUANTIZE:
        units = map_units(fields, node.input[0])
        if units:
            return units
        node = index.producer(node.input[0])
    return 0


def _local_pool(index: GraphIndex, fields: Mapping[str, TensorField], node: NodeProto) -> Role:
    """A windowed pool is a global one where one unit is left that covers the map without padding."""
    pooling = _LOCAL_POOLS[node.op_type]
    source, target = node.input[0], node.output[0]
    if map_units(fields, target) != 1 or map_units(fields, source) == 1:
        return Role("local-pool", node, pooling)
    attrs = index.attrs(node)
    kernel = attrs["kernel_shape"]
    rank = len(kernel)
    begins = attrs.get("pads", [0] * 2 * rank)[:rank]
    extents = index.shapes[source][2 : 2 + rank]
    covers = all(k - pad >= n for k, pad, n in zip(kernel, begins, extents, strict=True))
    # Padding that is counted divides by too much: a scaled mean.
    diluted = attrs.get("count_include_pad", 0) and math.prod(kernel) != math.prod(extents)
    return Role("pool", node, pooling if covers and not diluted else f"partial {pooling}")


def weight_tensors(index: GraphIndex, node: NodeProto) -> tuple[str | None, str | None]:
    """The constant tensors that hold a linear node's weight and bias."""
    places = {
        "QLinearConv": (3, 8),
        "QLinearMatMul": (3, None),
        "QGemm": (3, 6),
        "ConvInteger": (1, None),
        "MatMulInteger": (1, None),
        "MatMul": (1, None),
        "FusedMatMul": (1, None),
        "MatMulIntegerToFloat": (1, 6),
        "DynamicQuantizeMatMul": (1, 4),
    }
    weight, bias = places.get(node.op_type, (1, 2))
    if node.op_type in ("MatMul", "FusedMatMul") and index.is_constant(node.input[0]):
        weight = 0
    names = list(node.input)

    def constant(place: int | None) -> str | None:
        known = place is not None and place < len(names) and index.is_constant(names[place])
        return names[place] if known and place is not None else None

    return constant(weight), constant(bias)
