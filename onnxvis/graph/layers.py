"""The table of a network's layers, and finding one by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx.onnx_pb import ModelProto, NodeProto

from onnxvis.errors import LayerError, did_you_mean
from onnxvis.graph.head.roles import CONVOLUTIONS, LINEAR, weight_tensors
from onnxvis.graph.index import GraphIndex, Shapes
from onnxvis.graph.receptive import TensorField

__all__ = ["Layer", "layer_table", "resolve_layer"]

_PLUMBING = {
    "Cast",
    "CastLike",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Pad",
    "QuantizeLinear",
    "ReorderInput",
    "ReorderOutput",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}
_SETTINGS_AS_INPUTS = ("Clip", "Reduce", "Resize", "Upsample", "TopK", "CumSum", "OneHot", "Concat")
_POINTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "Equal", "Greater", "Less"}
_NUMBERED = re.compile(r"([A-Za-z]\w*):(-?\d+)")


@dataclass(frozen=True)
class Layer:
    """One row of the table.

    Attributes:
        tensor: the layer's output, which is what methods ask for.
        node: the node's name, or its output where it has none.
        op_type: the operator.
        shape: shape of ``tensor`` as measured.
        parameters: how many numbers the node's own constants hold; constants already counted at an earlier
            layer are left out.
        shared: those constants.
        multiply_adds: multiplications with addition for one run at the measured shapes; 0 where the operator
            is no convolution or matrix product.
        field: its receptive field; None where the layer does not depend on the picture.
    """

    tensor: str
    node: str
    op_type: str
    shape: tuple[int, ...]
    parameters: int
    shared: tuple[str, ...]
    multiply_adds: int
    field: TensorField | None

    @property
    def field_size(self) -> tuple[Fraction, Fraction] | None:
        """Receptive field ``(rows, cols)`` in pixels of the input; None where positions are lost."""
        if self.field is None or self.field.rows is None or self.field.cols is None:
            return None
        return self.field.rows.size, self.field.cols.size

    @property
    def field_jump(self) -> tuple[Fraction, Fraction] | None:
        """Pixels from one unit to the next, ``(rows, cols)``; None where positions are lost."""
        if self.field is None or self.field.rows is None or self.field.cols is None:
            return None
        return self.field.rows.jump, self.field.cols.jump

    @property
    def is_convolution(self) -> bool:
        """True for convolutions of any exporter, fused and integer ones included."""
        return self.op_type in CONVOLUTIONS


def layer_table(
    model: ModelProto,
    shapes: Shapes,
    fields: Mapping[str, TensorField],
    *,
    index: GraphIndex | None = None,
) -> list[Layer]:
    """Every node that computes on the picture, in topological order; reshapes, casts and the like left out.

    Args:
        model: the graph.
        shapes: concrete shape of every tensor.
        fields: receptive fields of the same model.
        index: an index of the same model and shapes, to save building it.
    """
    index = index or GraphIndex(model, shapes)
    counted: set[str] = set()
    table: list[Layer] = []
    for node in index.nodes:
        tensor = next((t for t in node.output if t), "")
        if node.op_type in _PLUMBING or tensor not in fields or tensor not in shapes:
            continue
        constants = {_stored_name(index, t): _size(index, t) for t in _parameters(index, node)}
        table.append(
            Layer(
                tensor=tensor,
                node=index.label(node),
                op_type=node.op_type,
                shape=tuple(shapes[tensor]),
                parameters=sum(n for name, n in constants.items() if name not in counted),
                shared=tuple(name for name in constants if name in counted),
                multiply_adds=_multiply_adds(index, node),
                field=fields[tensor],
            )
        )
        counted |= constants.keys()
    return table


def _parameters(index: GraphIndex, node: NodeProto) -> list[str]:
    """The constant inputs that were learned (or set like weights), settings left out."""
    if node.op_type.startswith(_SETTINGS_AS_INPUTS):
        return []
    if node.op_type in LINEAR:
        return [t for t in weight_tensors(index, node) if t is not None]
    constants = [t for t in node.input if t and index.is_constant(t)]
    # A single number beside a map is part of a formula (x * relu6(x + 3) / 6), not of the weights.
    return [t for t in constants if node.op_type not in _POINTWISE or _size(index, t) > 1]


def _size(index: GraphIndex, tensor: str) -> int:
    return math.prod(index.constant_shape(tensor) or ())


def _stored_name(index: GraphIndex, tensor: str) -> str:
    """The stored tensor behind Identity, DequantizeLinear and the like."""
    node = index.producer(tensor)
    while node is not None and node.input:
        tensor = node.input[0]
        node = index.producer(tensor)
    return tensor


def _multiply_adds(index: GraphIndex, node: NodeProto) -> int:
    if node.op_type not in LINEAR:
        return 0
    shapes = index.shapes
    made = math.prod(shapes[node.output[0]])
    if node.op_type in CONVOLUTIONS:
        place = 3 if node.op_type == "QLinearConv" else 1
        weight = index.constant_shape(node.input[place]) or shapes.get(node.input[place], ())
        if node.op_type == "ConvTranspose":
            made = math.prod(shapes[node.input[0]])
        return made * math.prod(weight[1:])
    data = next((t for t in node.input if t in shapes and not index.is_constant(t)), None)
    if data is None:
        return 0
    if "Gemm" in node.op_type:
        return made * shapes[data][0 if index.attrs(node).get("transA", 0) else -1]
    return made * shapes[data][-1 if data == node.input[0] else -2]


def resolve_layer(name: str, graph: ModelProto | GraphIndex, table: Sequence[Layer]) -> str:
    """The tensor that a layer name stands for.

    Accepted, in this order: a tensor's name; a node's name; an operator and a number, counted from either
    end (``conv:-1`` is the last convolution, ``relu:0`` the first Relu); the end of a tensor's or node's
    name, if only one fits; a module's path as exporters write it into names (``layer4.1``), which stands for
    the last layer inside.

    Args:
        name: what the user wrote.
        graph: the model, or an index of it.
        table: its layers.

    Raises:
        LayerError: if nothing or too much fits, or the tensor is a constant or lives in the body of an
            If, Loop or Scan.
    """
    index = graph if isinstance(graph, GraphIndex) else GraphIndex(graph)
    exact = _exact(name, index) or _numbered(name, table)
    if exact is not None:
        return exact
    ends = _by_ending(name, index)
    if len(ends) == 1:
        return ends[0]
    if len(ends) > 1:
        named = ", ".join(map(repr, ends[:5])) + (", ..." if len(ends) > 5 else "")
        raise LayerError(f"Layer {name!r} could be {len(ends)} tensors: {named}. Write more of the name.")
    inside = [row.tensor for row in table if _in_module(name, row.node) or _in_module(name, row.tensor)]
    if inside:
        return inside[-1]
    owner = index.hidden_in(name)
    if owner is not None:
        raise LayerError(
            f"Tensor {name!r} lives in the body of {owner.op_type} {index.label(owner)!r}; it exists only "
            "while that body runs and cannot be exposed. Choose a tensor of the main graph."
        )
    known = [word for row in table for word in (row.tensor, row.node, *row.node.strip("/").split("/")[:-1])]
    hint = did_you_mean(name, known) or " `onnxvis inspect MODEL --layers 0` lists all."
    raise LayerError(f"There is no layer {name!r}.{hint}")


def _exact(name: str, index: GraphIndex) -> str | None:
    if index.is_constant(name):
        raise LayerError(f"{name!r} is a constant (weights or settings), not an activation.")
    if name in index.inputs or index.producer(name) is not None:
        return name
    named = next((node for node in index.nodes if node.name == name), None)
    return None if named is None else next(str(t) for t in named.output if t)


def _numbered(name: str, table: Sequence[Layer]) -> str | None:
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return None
    word, number = match[1].casefold(), int(match[2])
    if word in ("conv", "convolution"):
        rows = [row for row in table if row.is_convolution]
    else:
        rows = [row for row in table if row.op_type.casefold() == word]
    if not rows:
        return None
    if not -len(rows) <= number < len(rows):
        raise LayerError(
            f"There is no layer {name!r}: the graph has {len(rows)} of them, 0 to {len(rows) - 1} "
            f"or -1 to -{len(rows)}."
        )
    return rows[number].tensor


def _by_ending(name: str, index: GraphIndex) -> list[str]:
    """Tensors whose own or whose node's name ends so; whole path components come first."""
    whole: dict[str, None] = {}
    partial: dict[str, None] = {}
    for node in index.nodes:
        tensors = [t for t in node.output if t]
        for tensor in tensors:
            if index.is_constant(tensor):
                continue
            words = [tensor] + ([node.name] if tensor == tensors[0] and node.name else [])
            for word in words:
                if name and word.endswith(name):
                    before = word[: -len(name)]
                    target = whole if not before or before[-1] in "/.:" or name[0] in "/.:" else partial
                    target[tensor] = None
    return list(whole or partial)


def _in_module(name: str, word: str) -> bool:
    return bool(name) and f"/{name.strip('/')}/" in f"/{word.strip('/')}/"
