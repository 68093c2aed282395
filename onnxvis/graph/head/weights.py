"""The weights of a linear head, in one orientation whatever the exporter wrote."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxvis.errors import LayerError
from onnxvis.graph.head.results import Head
from onnxvis.graph.index import GraphIndex

__all__ = ["class_weights"]

Array = np.ndarray[Any, Any]


def class_weights(index: GraphIndex, head: Head) -> tuple[Array, Array]:
    """Weights and bias of a head to which original CAM applies.

    Args:
        index: an index of the graph in which ``head`` was found.
        head: a head of kind ``gap-linear``, ``gap-conv1x1`` or ``class-maps-gap``.

    Returns:
        ``(classes, channels)`` and ``(classes,)``, both float64: ``logit = weights @ mean(map) + bias``. For
        ``class-maps-gap`` they are the identity and zeros. A sum in place of the mean is folded into the
        weights.

    Raises:
        LayerError: if CAM does not apply, or the weights cannot be read (integer weights, or external data
            that was not loaded).
    """
    if not head.cam_applies or head.cam_shape is None or head.channel_axis is None:
        raise LayerError(f"Original CAM does not apply to this model: {head.reason}. Use Grad-CAM.")
    channels = head.cam_shape[head.channel_axis]
    scale = _sum_scale(index, head)
    if head.kind == "class-maps-gap":
        return np.eye(channels) * scale, np.zeros(channels)
    node = index.node(head.linear or "")
    weights = None if head.weight is None else index.constant(head.weight)
    if weights is None or "Integer" in node.op_type or node.op_type.startswith(("QLinear", "QGemm")):
        raise LayerError(
            f"The weights of {node.op_type} {head.linear!r} cannot be read as floats here. "
            "Load the model's external data, or use the canonical dialect of an integer model."
        )
    attrs = index.attrs(node)
    matrix = weights.astype(np.float64)
    if matrix.ndim > 2:
        matrix = matrix.reshape(matrix.shape[0], -1) if "Conv" in node.op_type else matrix.reshape(-1, matrix.shape[-1])
    by_rows = "Conv" in node.op_type or bool(attrs.get("transB", 0)) or head.weight == node.input[0]
    matrix = (matrix if by_rows else matrix.T) * attrs.get("alpha", 1.0)
    if matrix.shape[1] != channels:
        raise LayerError(
            f"{node.op_type} {head.linear!r} reads {matrix.shape[1]} values, but {head.cam_layer!r} has "
            f"{channels} channels. Use Grad-CAM."
        )
    bias = np.zeros(len(matrix)) if head.bias is None else index.constant(head.bias)
    if bias is None:
        raise LayerError(f"The bias {head.bias!r} was left in an external file. Load the model's data.")
    bias = np.broadcast_to(bias.astype(np.float64).reshape(-1), (len(matrix),))
    return matrix * scale, bias * (attrs.get("beta", 1.0) if "Gemm" in node.op_type else 1.0)


def _sum_scale(index: GraphIndex, head: Head) -> float:
    if head.pool is None or head.cam_shape is None or head.spatial_axes is None:
        return 1.0
    sums = index.node(head.pool).op_type == "ReduceSum"
    return float(np.prod([head.cam_shape[a] for a in head.spatial_axes])) if sums else 1.0
