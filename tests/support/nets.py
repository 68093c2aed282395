"""Small networks with one peculiarity each, and arrays to feed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CLASSES", "Array", "SmallNet", "as_batch", "bright_spot_net", "noise"]

Array = np.ndarray[Any, Any]
CLASSES = 6


def noise(*shape: int, seed: int = 0) -> Array:
    """A random input, ``shape`` float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_batch(count: int, *shape: int, seed: int = 0) -> list[Array]:
    """Different random inputs, each ``(1, *shape)``."""
    return [noise(1, *shape, seed=seed + i) for i in range(count)]


class SmallNet:
    """A convolutional classifier whose beginning and end can be changed.

    image -> Conv 3x3 -> Relu ("features") -> global average pool -> Flatten -> Gemm ("logits")

    The hidden activation is kept by the name ``features``. ``reference`` computes the logits in float64.
    """

    def __init__(self, channels: int = 3, width: int = 8, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.channels, self.width = channels, width
        self.w1 = (rng.standard_normal((width, channels, 3, 3)) * (2 / (9 * channels)) ** 0.5).astype(np.float32)
        self.b1 = (rng.standard_normal(width) * 0.1).astype(np.float32)
        self.w2 = (rng.standard_normal((CLASSES, width)) / width**0.5).astype(np.float32)
        self.b2 = rng.standard_normal(CLASSES).astype(np.float32)

    def features(self, x: Array) -> Array:
        """``(N, C, H, W)`` -> the hidden activation in float64, slowly."""
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        hidden = np.einsum("nchwij,kcij->nkhw", views, self.w1.astype(np.float64))
        return np.maximum(hidden + self.b1.astype(np.float64)[:, None, None], 0.0)

    def reference(self, x: Array) -> Array:
        """``(N, C, H, W)`` -> logits ``(N, K)`` in float64."""
        return self.features(x).mean(axis=(2, 3)) @ self.w2.T.astype(np.float64) + self.b2.astype(np.float64)

    def grad_cam(self, x: Array, index: int) -> Array:
        """Equations 1 and 2 of the paper by hand, ``(N, h, w)``: the gradient of a mean is w / (h w)."""
        hidden = self.features(x)
        places = hidden.shape[2] * hidden.shape[3]
        weights = self.w2[index].astype(np.float64) / places
        return np.asarray(np.einsum("nkhw,k->nhw", hidden, weights))

    def model(
        self,
        shape: list[int | str] | None = None,
        *,
        before: list[onnx.NodeProto] | None = None,
        middle: list[onnx.NodeProto] | None = None,
        after: list[onnx.NodeProto] | None = None,
        output: str = "logits",
        kind: int = TensorProto.FLOAT,
        constants: dict[str, Array] | None = None,
        more_inputs: list[onnx.ValueInfoProto] | None = None,
    ) -> onnx.ModelProto:
        """The ONNX model.

        Args:
            shape: of the input "image"; ``(N, C, 32, 32)`` with a free batch by default.
            before: nodes from "image" to "x", which the convolution takes; none feeds it the image itself.
            middle: nodes from "features" to "pooled" instead of the global average pool and flattening.
            after: nodes that follow "logits".
            output: the graph's output.
            kind: element type of the input.
            constants: more initializers.
            more_inputs: inputs besides the image.
        """
        first = "x" if before else "image"
        pool = [
            helper.make_node("GlobalAveragePool", ["features"], ["gap"], "gap"),
            helper.make_node("Flatten", ["gap"], ["pooled"], "flatten"),
        ]
        nodes = [
            *(before or []),
            helper.make_node("Conv", [first, "w1", "b1"], ["conv"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["conv"], ["features"], "relu"),
            *(middle if middle is not None else pool),
            helper.make_node("Gemm", ["pooled", "w2", "b2"], ["logits"], "fc", transB=1),
            *(after or []),
        ]
        weights = {"w1": self.w1, "b1": self.b1, "w2": self.w2, "b2": self.b2, **(constants or {})}
        declared = shape if shape is not None else ["N", self.channels, 32, 32]
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("image", kind, declared), *(more_inputs or [])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bright_spot_net(size: int, filter_size: int = 9) -> onnx.ModelProto:
    """A network that looks for one bright spot: a blur, a threshold, the mean of what passes it.

    image (1, 3, size, size) in 0..1 -> Conv (box blur over all channels) -> minus 0.5 -> Relu ("features")
    -> global average pool -> times 100: class 0 "spot", class 1 its negative.
    """
    blur = np.full((1, 3, filter_size, filter_size), 1 / (3 * filter_size**2), np.float32)
    pad = filter_size // 2
    nodes = [
        helper.make_node("Conv", ["image", "blur", "bias"], ["conv"], "conv", pads=[pad] * 4),
        helper.make_node("Relu", ["conv"], ["features"], "relu"),
        helper.make_node("GlobalAveragePool", ["features"], ["gap"], "gap"),
        helper.make_node("Flatten", ["gap"], ["pooled"], "flatten"),
        helper.make_node("Gemm", ["pooled", "w"], ["logits"], "fc"),
    ]
    weights = {
        "blur": blur,
        "bias": np.array([-0.5], np.float32),
        "w": np.array([[100.0, -100.0]], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "spot",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
