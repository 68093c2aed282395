"""Expose intermediate tensors as graph outputs.

The edit is plain protobuf and untyped: onnxruntime infers type and shape itself, and a declared type
that is wrong would make it refuse the file. Do not run the checker on the result: it wants the types.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxvis.errors import LayerError, did_you_mean

__all__ = ["available_tensors", "expose"]


def available_tensors(model: onnx.ModelProto) -> list[str]:
    """Every tensor of the main graph that can be exposed: inputs, then node outputs in order."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initializers]
    names += [name for node in model.graph.node for name in node.output if name]
    return list(dict.fromkeys(names))


def _inner_tensors(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                names.update(name for inner in body.node for name in inner.output)
                names |= _inner_tensors(body)
    return names


def expose(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of ``model`` whose outputs are exactly ``tensors``, in that order.

    Args:
        model: any ONNX model; it is not changed. Weights are shared by copy only.
        tensors: names of graph outputs, intermediate tensors, inputs or initializers.

    Raises:
        LayerError: a tensor does not exist, or lives inside the body of an If or Loop.
    """
    wanted = list(dict.fromkeys(tensors))
    known = set(available_tensors(model)) | {t.name for t in model.graph.initializer}
    outputs = {value.name: value for value in model.graph.output}
    missing = [name for name in wanted if name not in known and name not in outputs]
    if missing:
        inner = _inner_tensors(model.graph)
        if missing[0] in inner:
            raise LayerError(
                f"tensor {missing[0]!r} is inside the body of an If, Loop or Scan node; such tensors cannot be "
                "exposed. Choose one of the main graph (`onnxvis inspect` lists them)."
            )
        hint = did_you_mean(missing[0], known)
        raise LayerError(f"the graph has no tensor {missing[0]!r}.{hint} `onnxvis inspect` lists them all.")
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    del edited.graph.output[:]
    for name in wanted:
        if name in outputs:
            edited.graph.output.add().CopyFrom(outputs[name])
        else:
            edited.graph.output.add().name = name
    return edited
