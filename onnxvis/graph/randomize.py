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
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from onnx import helper, numpy_helper
from onnx.onnx_pb import ModelProto, NodeProto, TensorProto

from onnxvis.errors import ModelError, UsageError
from onnxvis.graph.fold import is_loaded
from onnxvis.graph.index import GraphIndex

__all__ = ["HOW", "WeightLayer", "randomize", "weight_layers"]

HOW = ("permute", "redraw")
_LAYERS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "ConvInteger"), (1, 2)),
    **dict.fromkeys(("MatMul", "FusedMatMul", "MatMulInteger"), (0, 1)),
    **dict.fromkeys(("MatMulIntegerToFloat", "DynamicQuantizeMatMul"), (1,)),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (3, 6),
}
"""Operators that start a layer, and which of their inputs can hold learned numbers."""

_FOLLOWERS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (0, 1)),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), (1, 2)),
    "BatchNormalization": (1, 2, 3, 4),
    "PRelu": (1,),
}
"""Operators with learned numbers that belong to the layer before; before the first layer they prepare the picture."""

_WHOLE = {name for name in _LAYERS if "Integer" in name or name.startswith(("Q", "Dynamic"))}
"""Those whose weights are whole numbers; elsewhere whole numbers are shapes and indices."""

_SAME_NUMBERS = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_SCALED = ("DequantizeLinear", "QuantizeLinear")


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
    nodes: list[NodeProto] = []
    tensors: list[list[str]] = []
    taken: set[str] = set()
    owner: dict[str, int] = {}
    for node in index.nodes:
        before = max((owner[name] for name in index.reads(node) if name in owner), default=-1)
        starts = node.op_type in _LAYERS
        own = [n for n in _weights(index, node) if n not in taken] if above & set(node.output) else []
        if own and (starts or before >= 0):
            if starts:
                before = len(nodes)
                nodes.append(node)
                tensors.append([])
            tensors[before].extend(own)
            taken.update(own)
        owner |= {name: before for name in node.output if name and before >= 0}
    sizes = {name: math.prod(tensor.dims) for name, tensor in _stored(model).items()}
    return [
        WeightLayer(index.label(node), node.op_type, tuple(own), sum(sizes[name] for name in own))
        for node, own in zip(reversed(nodes), reversed(tensors), strict=True)
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
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def _weights(index: GraphIndex, node: NodeProto) -> list[str]:
    """The stored tensors behind the inputs of a node that can hold learned numbers."""
    places = _LAYERS.get(node.op_type) or _FOLLOWERS.get(node.op_type, ())
    moving = [index.producer(name) for name in node.input if name and not index.is_constant(name)]
    scales = any(maker is not None and maker.op_type == "DynamicQuantizeLinear" for maker in moving)
    if not moving or (scales and node.op_type not in _LAYERS):  # what multiplies a picture's scale is one of weights
        return []
    names = [node.input[place] for place in places if place < len(node.input) and node.input[place]]
    leaves = [_leaf(index, name, node.op_type in _WHOLE) for name in names if index.is_constant(name)]
    return [leaf for leaf in dict.fromkeys(leaves) if leaf is not None]


def _leaf(index: GraphIndex, tensor: str, whole: bool) -> str | None:
    """The stored tensor that a constant is made of, back over casts, reshapes and scales.

    ``None`` for a single number, for whole numbers where none can be weights, and for what is computed otherwise.
    """
    while (node := index.producer(tensor)) is not None and node.op_type != "Constant":
        if node.op_type not in (*_SAME_NUMBERS, *_SCALED):
            return None
        whole = whole or node.op_type in _SCALED
        tensor = node.input[0]
    stored = _stored_tensor(index, tensor)
    if stored is None or math.prod(stored.dims) < 2:
        return None
    kind = helper.tensor_dtype_to_np_dtype(stored.data_type).kind
    return tensor if kind in "fV" or (whole and kind in "iu") else None


def _stored_tensor(index: GraphIndex, tensor: str) -> TensorProto | None:
    node = index.producer(tensor)
    if node is not None:
        return next((a.t for a in node.attribute if a.name == "value"), None)
    return next((t for t in index.model.graph.initializer if t.name == tensor), None)
