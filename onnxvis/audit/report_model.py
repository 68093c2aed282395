"""What an audited model is, as plain data: enough to recognize it, to judge it, and to find what a copy changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from onnxvis.errors import OnnxvisError
from onnxvis.machine import describe_machine
from onnxvis.modelfile import with_weights
from onnxvis.provenance import versions

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["class_count", "describe_environment", "describe_model", "weight_changes", "weight_digests"]

_LAYERS = 400


def class_count(model: Model) -> int | None:
    """How many classes a classifier tells apart; ``None`` for a dense output."""
    if model.logits.kind != "classifier":
        return None
    return int(np.prod(model.shapes[model.logits.tensor][1:]))


def describe_model(model: Model) -> dict[str, Any]:
    """Everything of a model that a reader of an audit asks for."""
    spec = model.preprocessing
    layers = model.layers
    weights = weight_digests(model)
    return {
        **model.describe(),
        "file_bytes": model.file.path.stat().st_size if model.file.path else None,
        "precision": model.engine.precision,
        "layout": model.layout,
        "parameters": sum(w["values"] for w in weights.values()),
        "operators": dict(Counter(_operator(node) for node in model.file.proto.graph.node).most_common()),
        "metadata": {k: v[:400] for k, v in sorted(model.metadata.items())},
        "rewrites": {a.name: a.count for a in model.canonical.applied},
        "explained": {"tensor": model.logits.tensor, "kind": model.logits.kind, "reason": model.logits.reason},
        "head": {"kind": model.head.kind, "layer": model.head.cam_layer, "reason": model.head.reason},
        "classes": class_count(model),
        "labels": {"source": model.labels.source, "count": len(model.labels)},
        "preprocessing": {**spec.to_dict(), "summary": spec.summary()} if spec else None,
        "gradients_refused": model.gradient_refusal(),
        "layers": [
            {"tensor": layer.tensor, "operator": layer.op_type, "shape": list(layer.shape), "values": layer.parameters}
            for layer in layers[-_LAYERS:]
        ],
        "layers_in_all": len(layers),
        "weights": weights,
    }


def _operator(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def weight_digests(model: Model) -> dict[str, dict[str, Any]]:
    """Shape, number of values and a fingerprint of each weight tensor of the file, by its name.

    The fingerprint is the beginning of the SHA-256 of type, shape and values.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, array in _weights(model):
        digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
        found[name] = {"shape": list(array.shape), "values": int(array.size), "sha256": digest.hexdigest()[:16]}
    return found


def _weights(model: Model) -> list[tuple[str, np.ndarray]]:
    """Initializers, and the values of Constant nodes: some exporters keep the weights there."""
    graph = with_weights(model.file).graph
    arrays = [(t.name, numpy_helper.to_array(t)) for t in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            arrays += [(node.output[0], numpy_helper.to_array(a.t)) for a in node.attribute if a.name == "value"]
    return arrays


def weight_changes(recorded: Mapping[str, Mapping[str, Any]], model: Model) -> str:
    """In words, which weight tensors of the model are not those that were recorded; empty where all are."""
    now = weight_digests(model)
    changed = [n for n in recorded if n in now and now[n]["sha256"] != recorded[n]["sha256"]]
    gone, new = [n for n in recorded if n not in now], [n for n in now if n not in recorded]
    parts = [
        f"{len(names)} {word} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
        for names, word in ((changed, "changed"), (gone, "missing"), (new, "new"))
        if names
    ]
    return f"of {len(recorded)} weight tensors {', '.join(parts)}" if parts else ""


def describe_environment(model: Model) -> dict[str, Any]:
    """Versions and machine; how busy the machine was does not belong to what must be repeated."""
    machine = {k: v for k, v in describe_machine().items() if k not in ("load_average", "torch_threads")}
    return {"versions": versions(), "machine": machine, "provider": model.provider.name, "gradients": _backend(model)}


def _backend(model: Model) -> str:
    try:
        return model.engine.backend().name
    except OnnxvisError as error:
        return f"none: {error}"
