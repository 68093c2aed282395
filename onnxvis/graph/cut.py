"""Cut a graph at tensors: the trunk before them, the tail after them.

    input -> [ trunk ] -> layer -> [ tail ] -> logits

A method that only needs what happens after a layer runs the tail alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxvis.errors import LayerError
from onnxvis.graph.index import captured

__all__ = ["cut", "needed_nodes"]


def needed_nodes(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that compute ``outputs`` when ``inputs`` are given, in the graph's order."""
    makers = {name: node for node in graph.node for name in node.output if name}
    given, wanted, chosen = set(inputs), list(outputs), set()
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in given or name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        chosen.add(id(node))
        wanted += [n for n in (*node.input, *captured(node)) if n]
    return [node for node in graph.node if id(node) in chosen]


def cut(
    model: onnx.ModelProto,
    inputs: Sequence[str],
    outputs: Sequence[str],
    types: Mapping[str, tuple[int, Sequence[int | str | None]]] | None = None,
) -> onnx.ModelProto:
    """The part of ``model`` that computes ``outputs`` from ``inputs``.

    Args:
        model: any ONNX model with its nodes in topological order; it is not changed.
        inputs: tensors that become the inputs of the part; graph inputs that are still needed are
            kept as inputs too.
        outputs: tensors that become its outputs.
        types: element type (``onnx.TensorProto.DataType``) and shape of each new input; a tensor that
            is not listed is declared float32 with unknown shape.

    Raises:
        LayerError: an output does not depend on any of ``inputs``.
    """
    graph = model.graph
    nodes = needed_nodes(graph, inputs, outputs)
    reads = {name for node in nodes for name in (*node.input, *captured(node)) if name}
    unused = [name for name in inputs if name not in reads and name not in outputs]
    if unused:
        raise LayerError(
            f"{', '.join(map(repr, outputs))} cannot be computed from {unused[0]!r}: no path leads from there. "
            "Choose a layer that comes before the output."
        )
    part = onnx.ModelProto()
    part.CopyFrom(_without_graph(model))
    part.graph.name = graph.name or "part"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(t for t in graph.initializer if t.name in reads or t.name in outputs)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in reads)
    constants = {t.name for t in graph.initializer}
    declared = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    kept = [v.name for v in graph.input if v.name in reads and v.name not in inputs and v.name not in constants]
    for name in (*inputs, *kept):
        part.graph.input.append(_declare(name, declared, types or {}))
    outs = {value.name: value for value in graph.output}
    for name in outputs:
        if name in outs:
            part.graph.output.add().CopyFrom(outs[name])
        else:
            part.graph.output.add().name = name
    return part


def _declare(
    name: str,
    declared: dict[str, onnx.ValueInfoProto],
    types: Mapping[str, tuple[int, Sequence[int | str | None]]],
) -> onnx.ValueInfoProto:
    if name in types:
        kind, shape = types[name]
        return onnx.helper.make_tensor_value_info(name, kind, list(shape))
    if name in declared and declared[name].type.tensor_type.elem_type:
        return declared[name]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    shell = onnx.ModelProto()
    shell.ir_version = max(model.ir_version, 4)
    shell.producer_name = model.producer_name
    shell.opset_import.extend(model.opset_import)
    shell.functions.extend(model.functions)
    return shell
