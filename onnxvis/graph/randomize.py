"""The same network with other weights: for asking whether an explanation depends on what was learned.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 4. The structure stays; the numbers of chosen
layers are put into random order, or drawn anew with the same mean and deviation. Nodes are taken from the logits down.

Weights are found wherever exporters keep them: initializers, ``Constant`` nodes, behind ``DequantizeLinear``, ``Cast``,
``Transpose`` and the like. Quantised weights keep their scales and zero points, and half precision its type. What
two nodes share is changed once, and so for both.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from onnx import helper, numpy_helper
from onnx.onnx_pb import ModelProto, NodeProto, TensorProto

from onnxvis.errors import ModelError, UsageError
from onnxvis.graph.fold import is_loaded
from onnxvis.graph.index import GraphIndex

__all__ = ["HOW", "WeightLayer", "randomize", "weight_layers"]

HOW = ("permute", "redraw")
_WEIGHED = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "PRelu", "ConvInteger"), (1, 2)),
    **dict.fromkeys(("MatMul", "FusedMatMul", "MatMulInteger"), (0, 1)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (0, 1)),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), (1, 2)),
    "BatchNormalization": (1, 2, 3, 4),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (3, 6),
}
"""Operators with learned numbers, and which of their inputs can hold them."""

_FRESH = {"Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "QLinearConv"}
_FRESH |= {"QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"}
"""Those that start a layer; a bias or a normalization after one belongs to it."""

_KINDS = "fiuV"


@dataclass(frozen=True)
class WeightLayer:
    """A node with weights, and the biases and normalizations that follow it up to the next.

    Attributes:
        name: of the node.
        operator: what it is.
        tensors: the stored tensors (initializers, or outputs of ``Constant`` nodes) that hold its numbers.
        parameters: how many numbers.
    """

    name: str
    operator: str
    tensors: tuple[str, ...]
    parameters: int


def weight_layers(model: ModelProto, logits: str | None = None) -> list[WeightLayer]:
    """The layers with weights that the logits depend on, from the logits down to the picture.

    Args:
        model: any model, with its weights loaded.
        logits: the tensor to start from; ``None`` takes every node.
    """
    index = GraphIndex(model)
    above = set(index.tensors) if logits is None else index.ancestors(logits)
    found: list[tuple[NodeProto, list[str]]] = []
    taken: set[str] = set()
    for node in index.nodes:
        if not above & set(node.output):
            continue
        own = [name for name in _weights(index, node) if name not in taken]
        if not own:
            continue
        taken.update(own)
        if found and node.op_type not in _FRESH:
            found[-1][1].extend(own)
        else:
            found.append((node, own))
    sizes = _sizes(model)
    return [
        WeightLayer(index.label(node), node.op_type, tuple(own), sum(sizes[name] for name in own))
        for node, own in reversed(found)
    ]


def randomize(model: ModelProto, tensors: Collection[str], *, seed: int = 0, how: str = "permute") -> ModelProto:
    """A copy of a model with the numbers of some stored tensors made random.

    What becomes of a tensor depends on its name and the seed alone, not on which others are changed with it.

    Args:
        model: any model, with its weights loaded; not changed.
        tensors: names of stored tensors, see :class:`WeightLayer`.
        seed: of the draw.
        how: "permute" puts the numbers of each tensor into random order: exactly the same distribution, in any number
            format; "redraw" draws them from a normal distribution of the same mean and deviation, within the same
            smallest and largest value.

    Raises:
        UsageError: another ``how``.
        ModelError: a tensor that the model does not store, or whose numbers were left in another file.
    """
    if how not in HOW:
        raise UsageError(f"weights are randomised by {' or '.join(HOW)}, not {how!r}.")
    copy = ModelProto()
    copy.CopyFrom(model)
    stored = _stored(copy)
    for name in sorted(tensors):
        if name not in stored:
            raise ModelError(f"the model stores no tensor {name!r}, so it cannot be randomised.")
        if not is_loaded(stored[name]):
            raise ModelError(f"the numbers of {name!r} are in another file: load the model with its weights first.")
        values = np.asarray(numpy_helper.to_array(stored[name]))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "replace"))])
        changed = _permuted(values, rng) if how == "permute" else _redrawn(values, rng)
        fresh = numpy_helper.from_array(np.ascontiguousarray(changed.astype(values.dtype)), stored[name].name)
        stored[name].CopyFrom(fresh)
    return copy


def _permuted(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(rng.permutation(values.reshape(-1)).reshape(values.shape))


def _redrawn(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wide = values.astype(np.float64)
    drawn = np.clip(rng.normal(wide.mean(), wide.std(), wide.shape), wide.min(), wide.max())
    return np.asarray(np.rint(drawn) if values.dtype.kind in "iu" else drawn)


def _stored(model: ModelProto) -> dict[str, TensorProto]:
    """Every tensor whose numbers stand in the graph, by the name under which nodes read it."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found |= {node.output[0]: a.t for a in node.attribute if a.name == "value"}
    return found


def _sizes(model: ModelProto) -> dict[str, int]:
    return {name: math.prod(tensor.dims) for name, tensor in _stored(model).items()}


def _weights(index: GraphIndex, node: NodeProto) -> Iterable[str]:
    """The stored tensors behind the inputs of a node that can hold learned numbers."""
    places = _WEIGHED.get(node.op_type, ())
    if not places or not any(not index.is_constant(name) for name in node.input if name):
        return ()
    found = []
    for place in places:
        name = node.input[place] if place < len(node.input) else ""
        if name and index.is_constant(name):
            leaf = _leaf(index, name)
            if leaf is not None:
                found.append(leaf)
    return found


def _leaf(index: GraphIndex, tensor: str) -> str | None:
    """The stored tensor that a constant is made of, back over casts, reshapes and scales; ``None`` for single numbers."""
    while True:
        node = index.producer(tensor)
        if node is None or node.op_type == "Constant":
            shape = index.constant_shape(tensor)
            stored = _is_stored(index, tensor)
            return tensor if stored and shape is not None and math.prod(shape) > 1 else None
        if not node.input or not node.input[0]:
            return None
        tensor = node.input[0]


def _is_stored(index: GraphIndex, tensor: str) -> bool:
    node = index.producer(tensor)
    if node is None:
        held = next((t for t in index.model.graph.initializer if t.name == tensor), None)
        return held is not None and helper.tensor_dtype_to_np_dtype(held.data_type).kind in _KINDS
    return any(a.name == "value" for a in node.attribute)
