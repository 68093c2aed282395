"""Random small networks over the operator sets: same answers, idempotent, deterministic, names kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from support.formats import FLOAT, OrtError, check, model_of, run

OPSETS = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]


@dataclass
class Net:
    """A growing graph over maps ``(batch, channels, height, width)``."""

    opset: int
    draw: Any
    rng: np.random.Generator
    channels: int = 3
    size: tuple[int, int] = (8, 8)
    last: str = "x"
    count: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def constant(self, array: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        if self.draw(st.booleans()):
            return name
        made = self.name()
        tensor = onnx.numpy_helper.from_array(self.constants.pop(name))
        self.nodes.append(helper.make_node("Constant", [], [made], value=tensor))
        return made

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{self.count}", **attributes))
        return names

    def step(self, op: str, *inputs: str, **attributes: Any) -> None:
        self.last = self.add(op, [self.last, *inputs], **attributes)[0]


def conv(net: Net) -> None:
    out, kernel = net.draw(st.integers(1, 4)), net.draw(st.sampled_from([1, 3]))
    weight = net.rng.standard_normal((out, net.channels, kernel, kernel)).astype(np.float32)
    net.step("Conv", net.constant(weight), pads=[kernel // 2] * 4)
    net.channels = out


def batch_norm(net: Net) -> None:
    ones = [net.constant(net.rng.uniform(0.5, 1.5, net.channels).astype(np.float32)) for _ in range(4)]
    net.step("BatchNormalization", *ones)


def relu(net: Net) -> None:
    net.step(net.draw(st.sampled_from(["Relu", "Sigmoid", "LeakyRelu", "Identity", "Dropout"])))


def clip(net: Net) -> None:
    if net.opset < 11:
        net.step("Clip", min=-0.5, max=1.0)
    else:
        net.step("Clip", net.constant(np.float32(-0.5)), net.constant(np.float32(1)))


def residual(net: Net) -> None:
    branch = net.add("Tanh", [net.last])[0]
    net.step(net.draw(st.sampled_from(["Add", "Mul", "Sum"])), branch)


def concat(net: Net) -> None:
    branch = net.add("Relu", [net.last])[0]
    net.step("Concat", branch, axis=1)
    net.channels *= 2


def pool(net: Net) -> None:
    if min(net.size) >= 2:
        net.step(net.draw(st.sampled_from(["MaxPool", "AveragePool"])), kernel_shape=[2, 2], strides=[2, 2])
        net.size = (net.size[0] // 2, net.size[1] // 2)


def pad(net: Net) -> None:
    widths = [0, 0, 1, 2, 0, 0, net.draw(st.integers(0, 1)), 0]
    fill = float(net.draw(st.sampled_from([0, 1])))
    if net.opset < 11:
        net.step("Pad", pads=widths, value=fill)
    elif net.opset >= 18 and net.draw(st.booleans()):
        axes = net.constant(np.int64([2, 3]))
        net.step("Pad", net.constant(np.int64([1, 2, widths[6], 0])), net.constant(np.float32(fill)), axes)
    else:
        net.step("Pad", net.constant(np.int64(widths)), net.constant(np.float32(fill)))
    net.size = (net.size[0] + 1 + widths[6], net.size[1] + 2)


def resize(net: Net) -> None:
    factors = np.float32([1, 1, 2, 2])
    if net.size[0] > 16:
        return
    if net.opset < 9:
        net.step("Upsample", scales=factors.tolist(), mode="nearest")
    elif net.opset < 11:
        net.step("Upsample" if net.opset == 9 else "Resize", net.constant(factors), mode="nearest")
    elif net.draw(st.booleans()):
        net.step("Resize", net.constant(np.float32([])), net.constant(factors), mode="linear")
    else:
        shape = net.add("Shape", [net.last])[0]
        sizes = net.add("Mul", [shape, net.constant(np.int64([1, 1, 2, 2]))])[0]
        if net.opset >= 13:
            net.step("Resize", "", "", sizes, mode="nearest")
        else:
            net.step("Resize", net.constant(np.float32([])), net.constant(np.float32([])), sizes, mode="nearest")
    net.size = (net.size[0] * 2, net.size[1] * 2)


def split(net: Net) -> None:
    net.channels *= 2
    doubled = net.add("Concat", [net.last, net.last], axis=1)[0]
    options: dict[str, Any] = {"axis": 1} | ({"num_outputs": 2} if net.opset >= 18 else {})
    left, right = net.add("Split", [doubled], 2, **options)
    net.channels //= 2
    net.last = net.add("Add", [left, right])[0]


def reshape(net: Net) -> None:
    shape = net.add("Shape", [net.last])[0]
    folded = net.add("Reshape", [net.last, net.constant(np.int64([0, net.channels, -1]))])[0]
    net.last = net.add("Reshape", [folded, shape])[0]


def squeeze_and_excite(net: Net) -> None:
    if net.opset < 18:
        mean = net.add("ReduceMean", [net.last], axes=[2, 3], keepdims=1)[0]
    else:
        mean = net.add("ReduceMean", [net.last, net.constant(np.int64([-1, -2]))], keepdims=1)[0]
    net.step("Mul", net.add("Sigmoid", [mean])[0])


def softmax(net: Net) -> None:
    net.step("Softmax", axis=net.draw(st.sampled_from([1, 2, 3])))


STEPS = [
    conv,
    batch_norm,
    relu,
    clip,
    residual,
    concat,
    pool,
    pad,
    resize,
    split,
    reshape,
    squeeze_and_excite,
    softmax,
]


def head(net: Net) -> None:
    kind = net.draw(st.sampled_from(["gap", "flatten", "shape", "none"]))
    if kind == "none":
        return
    net.step("GlobalAveragePool")
    if kind == "flatten":
        net.step("Flatten")
    elif kind == "shape":
        shape = net.add("Shape", [net.last])[0]
        batch = net.add("Gather", [shape, net.constant(np.int64([0]))])[0]
        target = net.add("Concat", [batch, net.constant(np.int64([-1]))], axis=0)[0]
        net.step("Reshape", target)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_random_networks(data: st.DataObject):
    opset = data.draw(st.sampled_from(OPSETS))
    batch = data.draw(st.sampled_from([1, 2, "batch"]))
    net = Net(opset, data.draw, np.random.default_rng(data.draw(st.integers(0, 99))))
    for step in data.draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=7)):
        step(net)
    head(net)
    if net.last == "x":
        relu(net)
    extra = data.draw(
        st.sampled_from([n.output[0] for n in net.nodes if n.op_type not in ("Shape", "Constant", "Gather")])
    )
    outputs = [net.last] if extra == net.last or net.nodes[-1].op_type == "Concat" else [net.last, extra]
    outputs = [o for o in outputs if not _integral(net, o)] or [net.last]
    model = model_of(net.nodes, {"x": (FLOAT, [batch, 3, 8, 8])}, outputs, net.constants, opset)
    feeds = {"x": net.rng.standard_normal((2 if batch == "batch" else batch, 3, 8, 8)).astype(np.float32)}
    if not _runs(model, feeds):
        return
    result = check(model, feeds, rtol=1e-4, atol=1e-5)
    assert result.opset == 17
    made = {name for node in model.graph.node for name in node.output}
    kept = {name for node in result.model.graph.node for name in node.output} & made
    assert {
        n.output[0] for n in model.graph.node if n.op_type in ("Conv", "MaxPool", "Tanh", "Sigmoid")
    } - kept <= _dead(net, outputs)


def _integral(net: Net, name: str) -> bool:
    """Whether a tensor is shape arithmetic."""
    node = next(n for n in net.nodes if name in n.output)
    makers = {n.output[0]: n.op_type for n in net.nodes}
    return any(makers.get(source) in ("Shape", "Gather") for source in node.input) and node.op_type in (
        "Mul",
        "Concat",
    )


def _runs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> bool:
    try:
        run(model, feeds)
    except OrtError:
        return False
    return True


def _dead(net: Net, outputs: list[str]) -> set[str]:
    """Tensors that no output depends on."""
    makers = {name: node for node in net.nodes for name in node.output}
    wanted, alive = list(outputs), set()
    while wanted:
        name = wanted.pop()
        if name in makers and name not in alive:
            alive.add(name)
            wanted += makers[name].input
    return set(makers) - alive
