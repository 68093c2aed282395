"""Small graphs exported for a fixed number of images, each with another way to bake that number in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from support.graphs import Builder

__all__ = ["LOOPED", "REPAIRED", "feature_map", "graph", "unequal_rows"]


def feature_map(batch: int, channels: int = 6, seed: int = 0) -> tuple[Builder, str]:
    """A convolution and a ReLU on ``(batch, 3, 8, 8)``; the map is ``(batch, channels, 8, 8)``."""
    b = Builder([batch, 3, 8, 8], seed=seed)
    return b, b.node("Relu", b.conv("image", 3, channels, signed=True, pads=[1, 1, 1, 1]))


def ints(b: Builder, *values: int) -> str:
    return b.constant(np.array(values, np.int64))


def head(b: Builder, flat: str, width: int) -> onnx.ModelProto:
    return b.model(b.node("Gemm", flat, b.weight(width, 5, signed=True), b.weight(5, signed=True)))


def yolox(n: int) -> onnx.ModelProto:
    """Runs on any batch without a word, and puts boxes of one picture into another: [n, 6, -1]."""
    b, x = feature_map(n)
    boxes = b.node("Transpose", b.node("Reshape", x, ints(b, n, 6, -1)), perm=[0, 2, 1])
    return b.model(b.node("Reshape", b.node("Sigmoid", boxes), ints(b, -1, 64, 6)))


def flatten(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    flat = b.node("Reshape", b.node("GlobalAveragePool", x), ints(b, n, 6))
    return b.model(b.node("Softmax", b.node("Gemm", flat, b.weight(6, 5, signed=True)), axis=1))


def flatten_rest(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    return head(b, b.node("Reshape", x, ints(b, n, -1)), 6 * 64)


def shuffle(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    split = b.node("Transpose", b.node("Reshape", x, ints(b, n, 2, 3, 8, 8)), perm=[0, 2, 1, 3, 4])
    joined = b.conv(b.node("Reshape", split, ints(b, n, 6, 8, 8)), 6, 4, signed=True)
    return b.model(b.node("GlobalAveragePool", joined))


def resize(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    small = b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    sizes = ints(b, n, 6, 8, 8)
    large = b.node("Resize", small, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    return b.model(b.node("Add", large, x))


def expand(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    wide = b.node("Expand", b.node("GlobalAveragePool", x), ints(b, n, 6, 8, 8))
    return b.model(b.conv(b.node("Mul", wide, x), 6, 4, signed=True))


def class_token(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    rows = b.node("Transpose", b.node("Reshape", x, ints(b, n, 6, 64)), perm=[0, 2, 1])
    token = b.constant(np.repeat(b.rng.standard_normal((1, 1, 6)).astype(np.float32), n, axis=0))
    tokens = b.node("Concat", token, rows, axis=1)
    scores = b.node("MatMul", tokens, b.node("Transpose", tokens, perm=[0, 2, 1]))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), tokens)
    first = b.node("Slice", mixed, ints(b, 0, 0), ints(b, n, 1), ints(b, 0, 1))
    return head(b, b.node("Reshape", first, ints(b, n, 6)), 6)


def linear_on_places(n: int) -> onnx.ModelProto:
    """Places and images merged into rows of a Gemm, as [places, images, features] -> [rows, features]."""
    b, x = feature_map(n)
    places = b.node("Transpose", b.node("Reshape", x, ints(b, n, 6, 64)), perm=[2, 0, 1])
    rows = b.node("Gemm", b.node("Reshape", places, ints(b, 64 * n, 6)), b.weight(6, 4, signed=True))
    back = b.node("Transpose", b.node("Reshape", rows, ints(b, 64, n, 4)), perm=[1, 2, 0])
    return b.model(back)


def windows(n: int) -> onnx.ModelProto:
    """Windows cut out of a map: images and windows share an axis."""
    b, x = feature_map(n)
    cut = b.node("Transpose", b.node("Reshape", x, ints(b, n, 6, 2, 4, 2, 4)), perm=[0, 2, 4, 1, 3, 5])
    each = b.node("Softmax", b.node("Reshape", cut, ints(b, 4 * n, 6, 16)), axis=1)
    whole = b.node("Transpose", b.node("Reshape", each, ints(b, n, 2, 2, 6, 4, 4)), perm=[0, 3, 1, 4, 2, 5])
    return b.model(b.node("Reshape", whole, ints(b, n, 6, 8, 8)))


def lstm(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    columns = b.node("Transpose", b.node("ReduceMean", x, axes=[2], keepdims=0), perm=[2, 0, 1])
    weights = [b.weight(1, 16, 6, signed=True), b.weight(1, 16, 4, signed=True), b.weight(1, 32, signed=True)]
    states = [b.constant(np.full((1, n, 4), value, np.float32)) for value in (0.3, -0.2)]
    hidden = b.node("LSTM", columns, *weights, "", *states, hidden_size=4, outputs=3)[0]
    sequence = b.node("Transpose", b.node("Squeeze", hidden, ints(b, 1)), perm=[1, 0, 2])
    return b.model(sequence)


def old_bias(n: int) -> onnx.ModelProto:
    """One equal row of biases for each image of the batch."""
    b, x = feature_map(n)
    return b.model(
        b.node("Add", x, b.constant(np.repeat(np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1), n, axis=0)))
    )


def strided_gather(n: int) -> onnx.ModelProto:
    """What exporters make of as_strided: flat indices of one batch."""
    b, x = feature_map(n)
    flat = b.node("Reshape", b.node("GlobalAveragePool", x), ints(b, -1))
    indices = b.constant(np.arange(6 * n, dtype=np.int64).reshape(n, 6, 1, 1))
    return b.model(b.node("Gather", flat, indices, axis=0))


def mean_over_images(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    return b.model(b.node("Mul", x, b.node("ReduceMean", x, axes=[0], keepdims=1)))


def first_image_only(n: int) -> onnx.ModelProto:
    b, x = feature_map(n)
    flat = b.node("Flatten", b.node("GlobalAveragePool", x))
    return b.model(b.node("Gather", flat, b.constant(np.array(0)), axis=0))


def unequal_rows(n: int) -> onnx.ModelProto:
    """Another bias for each image of the batch: there is no answer for a single image."""
    b, x = feature_map(n)
    return b.model(b.node("Add", x, b.constant(np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1))))


Graph = Callable[[int], onnx.ModelProto]
REPAIRED: dict[str, Graph] = {
    "yolox": yolox,
    "flatten": flatten,
    "flatten_rest": flatten_rest,
    "shuffle": shuffle,
    "resize": resize,
    "expand": expand,
    "class_token": class_token,
    "linear_on_places": linear_on_places,
    "windows": windows,
    "lstm": lstm,
    "old_bias": old_bias,
}
LOOPED: dict[str, tuple[Graph, str]] = {
    "strided_gather": (strided_gather, "node 'node_Gather4' (Gather) loses the batch axis"),
    "mean_over_images": (mean_over_images, "node 'node_ReduceMean2' (ReduceMean) loses the batch axis"),
    "first_image_only": (first_image_only, "node 'node_Gather4' (Gather) loses the batch axis"),
}


def graph(name: str, batch: int) -> onnx.ModelProto:
    """One of the graphs of :data:`REPAIRED` or :data:`LOOPED`."""
    found: Any = REPAIRED.get(name) or LOOPED[name][0]
    model: onnx.ModelProto = found(batch)
    return model
