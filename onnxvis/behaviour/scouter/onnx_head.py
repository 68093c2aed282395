"""The trained head as nodes of the ONNX standard, for operator set 9 and later.

Each line of the formulas in :mod:`onnxvis.behaviour.scouter.head` is one node or two. The GRU is written out, because
a graph of plain operators runs on every provider and can be differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxvis.behaviour.scouter.settings import SMALLEST_SUM, HeadForm

__all__ = ["OLDEST_OPSET", "HeadNodes", "head_nodes"]

OLDEST_OPSET = 9
"""The first operator set with Where."""
_AXES_AS_INPUT = 13


class HeadNodes:
    """Nodes and weights under construction; every tensor gets a name with one prefix.

    Attributes:
        nodes: in running order.
        initializers: weights and constants.
        values: name of F' ``(N, d, l)``, the features after convolution and ReLU.
    """

    def __init__(self, prefix: str, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values = ""
        self._prefix, self._opset = prefix, opset

    def constant(self, name: str, array: np.ndarray) -> str:
        """A named constant."""
        full = f"{self._prefix}{name}"
        if all(t.name != full for t in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), full))
        return full

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """One node; its output is named after it unless it is a graph output."""
        made = output or f"{self._prefix}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [made], f"{self._prefix}node_{len(self.nodes)}", **attributes)
        )
        return made

    def sum(self, tensor: str, axis: int, keep: bool, output: str = "") -> str:
        """A sum over one axis, in the form of the operator set."""
        if self._opset >= _AXES_AS_INPUT:
            axes = self.constant(f"axis_{axis}", np.array([axis], np.int64))
            return self.node("ReduceSum", [tensor, axes], output, keepdims=int(keep))
        return self.node("ReduceSum", [tensor], output, axes=[axis], keepdims=int(keep))

    def linear(self, tensor: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """``x W^T + b`` over the last axis."""
        product = self.node("MatMul", [tensor, self.constant(f"{name}.weight", weight.T)])
        return self.node("Add", [product, self.constant(f"{name}.bias", bias)])

    def reshape(self, tensor: str, shape: Sequence[int], output: str = "") -> str:
        """A reshape; 0 keeps an axis."""
        name = "shape_" + "_".join(map(str, shape)).replace("-", "m")
        return self.node("Reshape", [tensor, self.constant(name, np.array(shape, np.int64))], output)


def head_nodes(
    form: HeadForm,
    weights: Mapping[str, np.ndarray],
    feature: str,
    outputs: tuple[str, str],
    prefix: str,
    opset: int,
    permutation: Sequence[int] = (0, 1, 2, 3),
    cast: bool = False,
) -> HeadNodes:
    """The head from a feature map to logits and attention.

    Args:
        form: the head's form.
        weights: the state of :class:`~onnxvis.behaviour.scouter.head.XSlotHead` as arrays.
        feature: the feature map's tensor.
        outputs: names of the logits ``(N, K)`` and of the attention ``(N, K, H, W)``.
        prefix: of all other names.
        opset: the operator set to write for, 9 or later.
        permutation: brings the feature map to ``(N, C, H, W)``.
        cast: the feature map is not float32.
    """
    head, chosen = HeadNodes(prefix, opset), form.settings
    if cast:
        feature = head.node("Cast", [feature], to=TensorProto.FLOAT)
    if tuple(permutation) != (0, 1, 2, 3):
        feature = head.node("Transpose", [feature], perm=list(permutation))
    convolution = [head.constant(f"reduce.{part}", weights[f"reduce.{part}"]) for part in ("weight", "bias")]
    reduced = head.node("Relu", [head.node("Conv", [feature, *convolution], kernel_shape=[1, 1])])
    head.values = head.reshape(reduced, (0, chosen.dim, -1), f"{prefix}values")
    encoded = head.node("Add", [head.values, head.constant("encoding", weights["encoding"])])
    keys = _layers(head, head.node("Transpose", [encoded], perm=[0, 2, 1]), "keys", weights)
    keys = head.node("Transpose", [keys], perm=[0, 2, 1])
    values = head.node("Transpose", [head.values], perm=[0, 2, 1])
    slots = head.constant("slots", weights["slots"])
    width = head.constant("dim", np.array(chosen.dim, np.float32))
    root = head.constant("root_dim", np.array(math.sqrt(chosen.dim), np.float32))
    for step in range(chosen.iterations):
        queries = _layers(head, slots, "queries", weights)
        products = head.node("Div", [head.node("MatMul", [queries, keys]), root])
        attention = head.node("Sigmoid", [_same_sums(head, products) if chosen.normalize else products])
        attended = head.node("Div", [head.node("MatMul", [attention, values]), width])
        if step + 1 < chosen.iterations:
            slots = _gru(head, attended, slots, weights)
    _outputs(head, form, attended, attention, outputs)
    return head


def _layers(head: HeadNodes, tensor: str, name: str, weights: Mapping[str, np.ndarray]) -> str:
    places = sorted({int(key.split(".")[1]) for key in weights if key.startswith(f"{name}.")})
    for i, place in enumerate(places):
        if i:
            tensor = head.node("Relu", [tensor])
        own = f"{name}.{place}"
        tensor = head.linear(tensor, own, weights[f"{own}.weight"], weights[f"{own}.bias"])
    return tensor


def _same_sums(head: HeadNodes, products: str) -> str:
    """The rows scaled to one sum; sums near zero count as the smallest one of their sign."""
    smallest = head.constant("smallest", np.array(SMALLEST_SUM, np.float32))
    negative = head.constant("minus_smallest", np.array(-SMALLEST_SUM, np.float32))
    zero = head.constant("zero", np.array(0, np.float32))
    sums = head.sum(products, 2, keep=True)
    near = head.node("Where", [head.node("Less", [sums, zero]), negative, smallest])
    is_near = head.node("Less", [head.node("Abs", [sums]), smallest])
    divisor = head.node("Where", [is_near, near, sums])
    return head.node("Mul", [head.node("Div", [products, divisor]), head.sum(sums, 1, keep=True)])


def _gru(head: HeadNodes, attended: str, slots: str, weights: Mapping[str, np.ndarray]) -> str:
    """The gated recurrent unit as torch defines it: the reset gate after the hidden layer's product."""
    parts = {
        kind: [np.split(weights[f"update.{what}_{kind}"], 3) for what in ("weight", "bias")] for kind in ("ih", "hh")
    }

    def gate(kind: str, place: int, tensor: str) -> str:
        weight, bias = (split[place] for split in parts[kind])
        return head.linear(tensor, f"update.{kind}.{place}", weight, bias)

    reset = head.node("Sigmoid", [head.node("Add", [gate("ih", 0, attended), gate("hh", 0, slots)])])
    keep = head.node("Sigmoid", [head.node("Add", [gate("ih", 1, attended), gate("hh", 1, slots)])])
    remembered = head.node("Mul", [reset, gate("hh", 2, slots)])
    new = head.node("Tanh", [head.node("Add", [gate("ih", 2, attended), remembered])])
    return head.node("Add", [new, head.node("Mul", [keep, head.node("Sub", [slots, new])])])


def _outputs(head: HeadNodes, form: HeadForm, attended: str, attention: str, outputs: tuple[str, str]) -> None:
    count, logits = form.settings.slots, outputs[0]
    if form.settings.sign < 0:
        attended = head.node("Neg", [attended])
    if count == 1:
        head.sum(attended, 2, keep=False, output=logits)
    else:
        per_slot = head.sum(attended, 2, keep=False)
        head.sum(head.reshape(per_slot, (0, form.classes, count)), 2, keep=False, output=logits)
        attention = head.sum(head.reshape(attention, (0, form.classes, count, -1)), 2, keep=False)
    head.reshape(attention, (0, form.classes, form.height, form.width), outputs[1])
