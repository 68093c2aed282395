"""Why a canonical graph gives no gradients, and what to do about it.

Forward-only methods run on the deployed file and do not care. A method that needs gradients asks
:func:`refusal` first, so that the user reads one sentence with a remedy instead of a converter's error.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxvis.graph.canonical.opset import OLDEST

__all__ = ["refusal"]

_FORWARD_ONLY = "Methods that only run the network forward (occlusion, RISE, Score-CAM, Ablation-CAM) still work."
_DEFAULT = ("", "ai.onnx")
_CONTROL_FLOW = ("If", "Loop", "Scan")


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _name(node: NodeProto) -> str:
    return repr(node.name or next((name for name in node.output if name), node.op_type))


def _integer(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _foreign(node: NodeProto) -> str | None:
    if node.domain.startswith("com.microsoft.nchwc") or node.domain.startswith("com.ms.internal"):
        return (
            f"the file was saved by onnxruntime with ORT_ENABLE_ALL: node {_name(node)} works on a blocked "
            "memory layout of this machine, of which no gradient is known. Use the original file, or save "
            "the optimized one with ORT_ENABLE_EXTENDED."
        )
    if node.domain not in _DEFAULT:
        return (
            f"node {_name(node)} uses the operator {node.domain}.{node.op_type}, of which no gradient is "
            "known. Use the file from before the optimization or quantization that put it there, or export "
            "the model again."
        )
    return None


def _standard(node: NodeProto, used: set[str]) -> str | None:
    kind = node.op_type
    if kind in _CONTROL_FLOW:
        return (
            f"node {_name(node)} is a {kind} whose course depends on the input, so there is no one graph "
            "to differentiate. Export the model without control flow (trace it, or fix the "
            "sizes it branches on)."
        )
    if kind == "BatchNormalization" and (_integer(node, "training_mode") or any(o in used for o in node.output[1:])):
        return (
            f"node {_name(node)} is a BatchNormalization in training mode: the answer for one picture "
            "depends on the others in its batch. Export the model in evaluation mode (`model.eval()` in "
            "PyTorch)."
        )
    if kind == "Dropout" and len(node.input) > 2 and node.input[2]:
        return (
            f"node {_name(node)} is a Dropout in training mode: the answer is random. "
            "Export the model in evaluation mode (`model.eval()` in PyTorch)."
        )
    return None


def _unknown(node: NodeProto, version: int) -> str | None:
    try:
        onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return (
            f"node {_name(node)} uses the operator {node.op_type}, which operator set {version} does not "
            "have. The file is probably the result of an incomplete export: export the model again."
        )
    return None


def refusal(model: ModelProto) -> str | None:
    """Why gradients cannot be had from a canonical model, with the remedy; ``None`` where they can.

    Args:
        model: the result of :func:`onnxvis.graph.canonical.canonicalize`.
    """
    version = max((entry.version for entry in model.opset_import if entry.domain in _DEFAULT), default=1)
    used = {name for node in _nodes(model.graph) for name in node.input} | {value.name for value in model.graph.output}
    if version < OLDEST and any(node.domain in _DEFAULT for node in model.graph.node):
        return (
            f"the file uses operator set {version} from before 2017; the oldest one supported is {OLDEST}. "
            f"Export the model again with a newer operator set. {_FORWARD_ONLY}"
        )
    for node in _nodes(model.graph):
        reason = _foreign(node) or _standard(node, used) or _unknown(node, version)
        if reason is not None:
            return f"{reason} {_FORWARD_ONLY}"
    return None
