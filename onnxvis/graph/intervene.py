"""Interventions: a tensor of the graph gets a mask and a value, as two more inputs of the edited graph.

    producer --> x'  --+
    mask m ------------+--> x = Where(m > 0, Where(m < 1, x' * (1 - m) + m * v, v), x') --> all that read x
    value v -----------+

Bau et al., "GAN Dissection: Visualizing and Understanding Generative Adversarial Networks", ICLR 2019, section 3.2:
units U in a region P are forced to a constant. Mask and value are broadcast over the tensor, so they choose units,
regions and rows of the batch; both have defaults, so a caller that knows nothing of them gets the file's own answer.

Selecting instead of multiplying makes both ends exact: a mask of 0 passes the tensor's own bits (infinity, NaN and
minus zero too), a mask of 1 gives the value's, whatever the tensor held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxvis.errors import ConversionError, LayerError, UsageError, did_you_mean

__all__ = ["MASK", "OLDEST", "VALUE", "Intervened", "bake", "intervene"]

MASK, VALUE = "intervention_mask", "intervention_value"
OLDEST = 9
"""First operator set with Where."""
_FLOATS: dict[int, type] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}


@dataclass(frozen=True, eq=False)
class Intervened:
    """An edited graph, and the names of what is new in it.

    Attributes:
        model: the graph.
        tensor: the layer: after the intervention, under its own name, for everything that reads it.
        before: the same tensor before the intervention.
        mask: input of the tensor's type, 0 (leave) to 1 (force to the value); broadcast over the tensor.
        value: input of the tensor's type; broadcast likewise.
    """

    model: onnx.ModelProto
    tensor: str
    before: str
    mask: str
    value: str


def intervene(
    model: onnx.ModelProto,
    tensor: str,
    rank: int,
    elem_type: int = TensorProto.FLOAT,
    *,
    hard: bool = False,
    defaults: bool = True,
) -> Intervened:
    """Give a tensor a mask and a value as inputs.

    Every reader sees the result: other nodes, bodies of control flow, and the graph's outputs.

    Args:
        model: any model of operator set :data:`OLDEST` or newer; it is not changed.
        tensor: made by a node of the main graph.
        rank: number of the tensor's axes. Mask and value have as many; each axis is 1 or the tensor's.
        elem_type: the tensor's type: float32, float16 or float64.
        hard: only masks of 0 and 1 will come (anything above 0 is 1): fewer nodes to run.
        defaults: mask and value may be left out, and are 0 then. onnxruntime lists such inputs apart
            (``get_overridable_initializers``); without defaults they are inputs like all others.

    Raises:
        LayerError: there is no such tensor, or it is an input, a constant, or inside a body.
        ConversionError: the operator set or the tensor's type has no form for it.
    """
    dtype = _numpy_type(elem_type, tensor)
    graph, before, fresh = _split(model, tensor)
    mask, value = fresh(MASK), fresh(VALUE)
    nodes = _hard(fresh, before, tensor, mask, value) if hard else _blended(fresh, before, tensor, mask, value)
    zeros = [numpy_helper.from_array(np.zeros([1] * rank, dtype), name) for name in (mask, value)]
    constants = zeros if defaults else []
    constants += [numpy_helper.from_array(np.asarray(n, dtype), name) for n, name in _numbers(nodes, fresh)]
    edited = _assembled(graph, before, nodes, constants)
    for name in (mask, value):
        dims = [f"{name}_{axis}" for axis in range(rank)]
        edited.graph.input.append(helper.make_tensor_value_info(name, elem_type, dims))
    return Intervened(edited, tensor, before, mask, value)


def bake(model: onnx.ModelProto, tensor: str, mask: np.ndarray, value: np.ndarray) -> onnx.ModelProto:
    """The graph with one intervention for good: its inputs and outputs stay as they are, one node is added.

    Args:
        model: any model of operator set :data:`OLDEST` or newer; it is not changed.
        tensor: made by a node of the main graph.
        mask: bool, one axis for each of the tensor's, each 1 or the tensor's length: True is forced to the value.
        value: of the tensor's type (float32, float16 or float64), broadcast likewise.

    Raises:
        LayerError: as for :func:`intervene`.
        ConversionError: as for :func:`intervene`.
        UsageError: the mask is not bool, or the ranks differ.
    """
    if mask.dtype != np.bool_ or mask.ndim != value.ndim:
        raise UsageError(
            f"a baked intervention takes a bool mask and a value of the same rank; got {mask.dtype} {mask.shape} and "
            f"{value.shape}."
        )
    _numpy_type(helper.np_dtype_to_tensor_dtype(value.dtype), tensor)
    graph, before, fresh = _split(model, tensor)
    names = fresh(MASK), fresh(VALUE)
    node = helper.make_node("Where", [names[0], names[1], before], [tensor], fresh("intervention"))
    stored = [numpy_helper.from_array(np.ascontiguousarray(a), n) for a, n in zip((mask, value), names, strict=True)]
    return _assembled(graph, before, [node], stored)


class _Fresh:
    """Names that nothing in the graph has."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = set(_names(graph))

    def __call__(self, wish: str) -> str:
        name, number = wish, 2
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _names(body)


def _numpy_type(elem_type: int, tensor: str) -> Any:
    if elem_type not in _FLOATS:
        kind = TensorProto.DataType.Name(elem_type)
        raise ConversionError(
            f"tensor {tensor!r} holds {kind}; interventions are made in float32, float16 and float64. Choose a layer "
            "behind a DequantizeLinear or a Cast (`onnxvis inspect` lists layers)."
        )
    return _FLOATS[elem_type]


def _split(model: onnx.ModelProto, tensor: str) -> tuple[onnx.ModelProto, str, _Fresh]:
    """A copy in which the node that made ``tensor`` makes another one, whose name is returned."""
    version = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if version < OLDEST:
        raise ConversionError(
            f"the file has operator set {version}; interventions need Where, which came with {OLDEST}. Use the "
            "model's canonical form."
        )
    _check_tensor(model.graph, tensor)
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    fresh = _Fresh(edited.graph)
    before = fresh(f"{tensor}/before")
    for node in edited.graph.node:
        if tensor in node.output:
            node.output[:] = [before if name == tensor else name for name in node.output]
    _without_weight_inputs(edited)
    return edited, before, fresh


def _check_tensor(graph: onnx.GraphProto, tensor: str) -> None:
    made = {name for node in graph.node for name in node.output if name}
    if tensor in made:
        return
    if tensor in {value.name for value in (*graph.input, *graph.initializer)}:
        raise LayerError(
            f"{tensor!r} is an input or a constant, not the result of a node: give it another value instead of "
            "intervening, or choose a layer behind it."
        )
    inside = {n for node in graph.node for a in node.attribute for b in (a.g, *a.graphs) for n in _names(b)}
    if tensor in inside:
        raise LayerError(f"tensor {tensor!r} is inside the body of an If, Loop or Scan node. Choose one outside.")
    raise LayerError(f"the graph has no tensor {tensor!r}.{did_you_mean(tensor, made)}")


def _without_weight_inputs(model: onnx.ModelProto) -> None:
    """IR 3 lists weights as inputs, and gives no input a default that a caller may override; IR 4 does."""
    if model.ir_version >= 4:
        return
    stored = {t.name for t in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = 4


def _blended(fresh: _Fresh, before: str, after: str, mask: str, value: str) -> list[onnx.NodeProto]:
    touched, partial, rest = fresh(f"{mask}/touched"), fresh(f"{mask}/partial"), fresh(f"{mask}/rest")
    kept, added, blend, forced = (fresh(f"{mask}/{word}") for word in ("kept", "added", "blend", "forced"))
    return [
        helper.make_node("Greater", [mask, "#0"], [touched], touched),
        helper.make_node("Less", [mask, "#1"], [partial], partial),
        helper.make_node("Sub", ["#1", mask], [rest], rest),
        helper.make_node("Mul", [before, rest], [kept], kept),
        helper.make_node("Mul", [mask, value], [added], added),
        helper.make_node("Add", [kept, added], [blend], blend),
        helper.make_node("Where", [partial, blend, value], [forced], forced),
        helper.make_node("Where", [touched, forced, before], [after], fresh("intervention")),
    ]


def _hard(fresh: _Fresh, before: str, after: str, mask: str, value: str) -> list[onnx.NodeProto]:
    touched = fresh(f"{mask}/touched")
    return [
        helper.make_node("Greater", [mask, "#0"], [touched], touched),
        helper.make_node("Where", [touched, value, before], [after], fresh("intervention")),
    ]


def _numbers(nodes: Sequence[onnx.NodeProto], fresh: _Fresh) -> list[tuple[float, str]]:
    """Name the constants 0 and 1 that the nodes read, and let them read those."""
    names = {word: fresh(f"{MASK}/{label}") for word, label in (("#0", "zero"), ("#1", "one"))}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
    read = {name for node in nodes for name in node.input}
    return [(float(word[1]), name) for word, name in names.items() if name in read]


def _assembled(
    model: onnx.ModelProto, before: str, nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """The nodes stand where the tensor was made, so that a sorted graph stays sorted."""
    place = next(i for i, node in enumerate(model.graph.node) if before in node.output) + 1
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*rest[:place], *nodes, *rest[place:]])
    model.graph.initializer.extend(constants)
    return model
