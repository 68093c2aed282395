"""Random small convolutional graphs, for hypothesis: strides, dilations, uneven pads, branches, pools, resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

__all__ = ["random_cnns"]

CLASSES = 3
_OPERATORS = (
    *("conv", "conv", "conv", "depthwise", "max", "average", "residual", "concat", "downsampled residual"),
    *("nearest", "linear", "pad", "same", "transposed", "norm", "gate"),
)


class _Net:
    """A graph under construction: the last tensor, its channels, its rows and columns."""

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.tensor, self.channels, self.size = "image", 2, size

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, op_type: str, inputs: list[str], size: tuple[int, int] | None = None, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n{len(self.nodes)}", **attributes))
        self.tensor, self.size = name, size or self.size
        return name

    def conv(self, source: str, inside: int, out: int, kernel: list[int], **attributes: Any) -> str:
        group = attributes.get("group", 1)
        scale = (2 / (inside / group * np.prod(kernel))) ** 0.5
        weight = self.rng.normal(0, scale, (out, inside // group, *kernel)).astype(np.float32)
        bias = self.rng.normal(0, 0.3, out).astype(np.float32)
        return self.add("Conv", [source, self.constant(weight), self.constant(bias)], kernel_shape=kernel, **attributes)


def _moved(size: tuple[int, int], kernel: list[int], stride: list[int], pads: list[int], dilation: list[int]) -> Any:
    return tuple(
        (n + pads[a] + pads[2 + a] - (kernel[a] - 1) * dilation[a] - 1) // stride[a] + 1 for a, n in enumerate(size)
    )


def _pads(net: _Net, tensor: str) -> bool:
    """Whether a tensor is padded: onnxruntime folds that into a pool, and then fails or averages other values."""
    return any(node.op_type == "Pad" and tensor in node.output for node in net.nodes)


def _step(draw: st.DrawFn, net: _Net, kind: str) -> None:
    """Add a piece of that kind, where the map is large enough for it."""
    small = min(net.size) < 7
    if kind in ("conv", "depthwise"):
        _convolution(draw, net, kind, small)
    elif kind in ("max", "average"):
        if not _pads(net, net.tensor):
            _pool(draw, net, kind, small)
    elif kind in ("pad", "same"):
        if not small:
            _padded(draw, net, kind)
    elif kind in ("nearest", "linear", "transposed"):
        if max(net.size) <= 20:
            _larger(net, kind)
    else:
        _branches(net, kind, small)


def _convolution(draw: st.DrawFn, net: _Net, kind: str, small: bool) -> None:
    c = net.channels
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    stride = [1, 1] if small else [draw(st.integers(1, 3)), draw(st.integers(1, 2))]
    dilation = [1, 1] if small else [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    size = _moved(net.size, kernel, stride, pads, dilation)
    if min(size) >= 2:
        out, group = (c, c) if kind == "depthwise" else (draw(st.integers(2, 4)), 1)
        net.conv(net.tensor, c, out, kernel, strides=stride, dilations=dilation, pads=pads, group=group)
        net.channels, net.size = out, size


def _pool(draw: st.DrawFn, net: _Net, kind: str, small: bool) -> None:
    kernel, stride = [draw(st.integers(2, 3))] * 2, [1, 1] if small else [draw(st.integers(1, 3))] * 2
    pads = [draw(st.integers(0, 1)) for _ in range(4)]
    size = _moved(net.size, kernel, stride, pads, [1, 1])
    if min(size) >= 2:
        extra = {} if kind == "max" else {"count_include_pad": draw(st.integers(0, 1))}
        operator = "MaxPool" if kind == "max" else "AveragePool"
        net.add(operator, [net.tensor], size, kernel_shape=kernel, strides=stride, pads=pads, **extra)


def _padded(draw: st.DrawFn, net: _Net, kind: str) -> None:
    if kind == "same":
        auto = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        net.conv(net.tensor, net.channels, net.channels, [3, 2], strides=[2, 2], auto_pad=auto)
        net.size = (-(-net.size[0] // 2), -(-net.size[1] // 2))
        return
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    amounts = [draw(st.integers(0, 2)) for _ in range(4)]
    pads = net.constant(np.array([0, 0, *amounts[:2], 0, 0, *amounts[2:]], np.int64))
    size = (net.size[0] + amounts[0] + amounts[2], net.size[1] + amounts[1] + amounts[3])
    net.add("Pad", [net.tensor, pads], size, mode=mode)


def _larger(net: _Net, kind: str) -> None:
    c, size = net.channels, (2 * net.size[0], 2 * net.size[1])
    if kind == "transposed":
        weight = net.constant(net.rng.normal(0, 0.4, (c, c, 3, 3)).astype(np.float32))
        net.add("ConvTranspose", [net.tensor, weight], size, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])
    else:
        scales = net.constant(np.array([1, 1, 2, 2], np.float32))
        net.add("Resize", [net.tensor, "", scales], size, mode=kind)


def _branches(net: _Net, kind: str, small: bool) -> None:
    x, c = net.tensor, net.channels
    if kind == "residual":
        net.add("Add", [x, net.conv(net.add("Relu", [x]), c, c, [3, 3], pads=[1] * 4)])
    elif kind == "downsampled residual" and not small:
        size = ((net.size[0] - 1) // 2 + 1, (net.size[1] - 1) // 2 + 1)
        branch = net.conv(net.conv(x, c, c, [3, 3], pads=[1] * 4, strides=[2, 2]), c, c, [3, 3], pads=[1] * 4)
        net.add("Add", [net.conv(x, c, c, [1, 1], strides=[2, 2]), branch], size)
    elif kind == "concat":
        one, two = net.conv(x, c, 2, [1, 1]), net.conv(x, c, 2, [3, 3], pads=[2] * 4, dilations=[2, 2])
        mean = net.add("AveragePool", [x], kernel_shape=[3, 3], pads=[1] * 4) if not _pads(net, x) else x
        net.add("Concat", [one, two, mean], axis=1)
        net.channels = c + 4
    elif kind == "norm":
        net.add("Mul", [x, net.constant(net.rng.uniform(0.5, 1.5, (1, c, 1, 1)).astype(np.float32))])
    elif kind == "gate":
        net.add("Mul", [x, net.add("Sigmoid", [net.add("GlobalAveragePool", [x])])])


@st.composite
def random_cnns(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, int]]:
    """A model ``image (N, 2, H, W) -> logits (N, 3)`` and ``(H, W)``."""
    size = (draw(st.integers(14, 34)), draw(st.integers(14, 34)))
    net = _Net(draw(st.integers(0, 2**31)), size)
    for kind in draw(st.lists(st.sampled_from(_OPERATORS), min_size=2, max_size=7)):
        _step(draw, net, kind)
        if draw(st.booleans()):
            net.add("Relu", [net.tensor])
    weight = net.constant(net.rng.normal(0, 1, (CLASSES, net.channels)).astype(np.float32))
    pooled = net.add("GlobalAveragePool", [net.tensor])
    flat = net.add("Flatten", [pooled])
    net.nodes.append(helper.make_node("Gemm", [flat, weight], ["logits"], "fc", transB=1))
    graph = helper.make_graph(
        net.nodes,
        "random",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(v, n) for n, v in net.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), size
