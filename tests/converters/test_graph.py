"""Feeding, fetching, cutting, types, names and errors of TorchGraph."""

from __future__ import annotations

import weakref

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.onnx_nodes import build, run_onnxruntime, single

from onnxvis.converters import TorchGraph, convert
from onnxvis.errors import ConversionError, LayerError, UnsupportedOperatorError, UsageError

RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)


def _net() -> onnx.ModelProto:
    """Two convolutions, a residual sum, a pool and a linear head; nodes on purpose not in order."""
    weights = {
        "w1": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "w2": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
        "w3": RNG.standard_normal((5, 4)).astype(np.float32),
        "shape": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Relu", ["a/out.1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["x", "w1"], ["a/out.1"], pads=[1, 1, 1, 1], name="conv1"),
        helper.make_node("Conv", ["r1", "w2"], ["b"], pads=[1, 1, 1, 1], name="conv2"),
        helper.make_node("Add", ["b", "r1"], ["c"], name="add"),
        helper.make_node("Relu", ["c"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Reshape", ["p", "shape"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1, name="head"),
    ]
    return build(nodes, {"x": X}, ["y"], weights)


NET = _net()
TENSORS = ["x", "a/out.1", "r1", "b", "c", "r2", "p", "f", "y"]


@pytest.fixture(scope="module")
def graph() -> TorchGraph:
    return convert(NET)


def test_names_and_order(graph: TorchGraph) -> None:
    assert graph.input_names == ("x",)
    assert graph.output_names == ("y",)
    assert sorted(graph.tensor_names) == sorted(TENSORS)
    assert [activation.node for activation in graph.activations] == ["relu1", "relu2"]
    assert not graph.training
    assert not graph.train().training
    assert not any(buffer.requires_grad for buffer in graph.buffers())


def test_all_tensors_equal_onnxruntime(graph: TorchGraph) -> None:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(NET)
    # onnxruntime accepts unsorted nodes only without the checker's order; give it the sorted ones.
    order = ["conv1", "relu1", "conv2", "add", "relu2", "pool", "flat", "head"]
    nodes = {node.name: node for node in NET.graph.node}
    del exposed.graph.node[:]
    exposed.graph.node.extend(nodes[name] for name in order)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in TENSORS[1:])
    made = graph({"x": torch.from_numpy(X)}, TENSORS[1:])
    for name, expected in zip(TENSORS[1:], run_onnxruntime(exposed, {"x": X}), strict=True):
        np.testing.assert_allclose(made[name].numpy(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(TENSORS[1:-1]), st.sets(st.sampled_from(TENSORS), min_size=1))
def test_cut_equals_the_full_run(cut: str, wanted: set[str]) -> None:
    graph = convert(NET)
    full = graph({"x": torch.from_numpy(X)}, TENSORS)
    order = TENSORS.index(cut)
    after = [name for name in wanted if TENSORS.index(name) >= order]
    feeds = {cut: full[cut]}
    if cut in ("b", "a/out.1"):
        feeds["r1"] = full["r1"]
    made = graph(feeds, after)
    for name in after:
        torch.testing.assert_close(made[name], full[name], rtol=0, atol=0)


def test_nodes_before_a_cut_do_not_run(graph: TorchGraph) -> None:
    ran: list[int] = []
    handles = [module.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, module in enumerate(graph.operators)]
    r2 = torch.rand(2, 4, 8, 8)
    graph({"r2": r2}, ["y"])
    for handle in handles:
        handle.remove()
    assert len(ran) == 3


def test_gradient_to_an_intermediate_that_is_used_again(graph: TorchGraph) -> None:
    """d y / d r1 flows through the convolution and around it."""
    double = convert(NET).to_dtype(torch.float64)
    x = torch.from_numpy(X).double().requires_grad_()
    made = double({"x": x}, ["y", "r1", "b"])
    (whole,) = torch.autograd.grad(made["y"].sum(), made["r1"], retain_graph=True)
    fed = made["r1"].detach().requires_grad_()
    (again,) = torch.autograd.grad(double({"r1": fed}, ["y"])["y"].sum(), fed)
    torch.testing.assert_close(whole, again)
    (direct,) = torch.autograd.grad(made["y"].sum(), made["b"], retain_graph=True)
    assert not torch.allclose(whole, direct)
    (to_input,) = torch.autograd.grad(made["y"].sum(), x)
    assert to_input.abs().sum() > 0


def test_watch_makes_a_leaf(graph: TorchGraph) -> None:
    x = torch.from_numpy(X)
    made = graph({"x": x}, ["y", "r1"], watch=["r1"])
    (gradient,) = torch.autograd.grad(made["y"][:, 2].sum(), made["r1"])
    fed = made["r1"].detach().requires_grad_()
    (expected,) = torch.autograd.grad(graph({"r1": fed}, ["y"])["y"][:, 2].sum(), fed)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
    assert made["r1"].is_leaf


def test_gradient_to_a_pass_through_is_only_its_own() -> None:
    """y = identity(x) + x: the gradient with respect to the identity's output is 1, not 2."""
    nodes = [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Add", ["i", "x"], ["y"])]
    graph = convert(build(nodes, {"x": X}, ["y"]))
    x = torch.from_numpy(X).requires_grad_()
    made = graph({"x": x}, ["y", "i"])
    (gradient,) = torch.autograd.grad(made["y"].sum(), made["i"])
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_intermediates_are_freed(graph: TorchGraph) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    counts: list[int] = []

    def note(_module: object, _given: object, out: torch.Tensor) -> None:
        counts.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(out))

    handles = [module.register_forward_hook(note) for module in graph.operators]
    with torch.no_grad():
        graph({"x": torch.from_numpy(X)})
    for handle in handles:
        handle.remove()
    assert max(counts) <= 2


def test_one_output_of_several(graph: TorchGraph) -> None:
    node = helper.make_node("Split", ["x", "s"], ["a", "b"], axis=1)
    split = convert(build([node], {"x": X}, ["b"], {"s": np.array([1, 2])}))
    made = split({"x": torch.from_numpy(X)})
    assert list(made) == ["b"]
    np.testing.assert_array_equal(made["b"].numpy(), X[:, 1:])


def test_casts_follow_the_working_type() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["h", "c"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["m"], ["i"], to=TensorProto.INT32),
        helper.make_node("Shape", ["m"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["o"]),
    ]
    model = build(nodes, {"x": X}, ["y", "i", "o"], {"c": np.array(1.5, np.float16)})
    graph = convert(model)
    for dtype in (torch.float32, torch.float64):
        graph.to_dtype(dtype)
        assert graph.dtype == dtype
        made = graph({"x": torch.from_numpy(X).to(dtype)}, ["y", "i", "o", "s"])
        assert [made[name].dtype for name in ("y", "o", "i", "s")] == [dtype, dtype, torch.int32, torch.int64]
        torch.testing.assert_close(made["y"], torch.from_numpy(X).to(dtype) * 1.5, rtol=0, atol=0)


def test_float64_constants_survive() -> None:
    value = np.array(1 / 3, np.float64)
    model = build([helper.make_node("Add", ["x", "c"], ["y"])], {"x": np.zeros(1)}, ["y"], {"c": value})
    x = torch.zeros(1, dtype=torch.float64)
    assert convert(model, torch.float64)({"x": x})["y"].item() == 1 / 3


def test_initializers_that_are_inputs_too() -> None:
    model = build([helper.make_node("Add", ["x", "c"], ["y"])], {"x": X, "c": X[:1]}, ["y"], {"c": X[:1]}, opset=8)
    graph = convert(model)
    assert graph.input_names == ("x",)
    np.testing.assert_allclose(graph({"x": torch.from_numpy(X)})["y"].numpy(), X + X[:1])
    fed = graph({"x": torch.from_numpy(X), "c": torch.zeros(1, 3, 8, 8)})["y"]
    np.testing.assert_array_equal(fed.numpy(), X)


def test_every_unsupported_operator_is_named_at_once() -> None:
    nodes = [
        helper.make_node("Bernoulli", ["x"], ["a"], name="coin"),
        helper.make_node("Bernoulli", ["a"], ["b"], name="toss"),
        helper.make_node("Mystery", ["b"], ["y"], domain="my.domain", name="what"),
    ]
    model = build(nodes, {"x": X}, ["y"], domains={"my.domain": 3})
    with pytest.raises(UnsupportedOperatorError) as caught:
        convert(model)
    assert str(caught.value).splitlines() == [
        "No torch converter for ai.onnx::Bernoulli-17 (2 nodes: 'coin', 'toss').",
        "No torch converter for my.domain::Mystery-3 (node 'what').",
    ]


def test_refusals_name_the_node() -> None:
    inputs = {"x": X, "s": X[0, :, 0, 0], "b": X[0, :, 0, 0], "m": X[0, :, 0, 0], "v": X[0, :, 0, 0] ** 2}
    model = single("BatchNormalization", inputs, training_mode=1, outputs=("y", "rm", "rv"))
    with pytest.raises(ConversionError, match=r"BatchNormalization-17 \(node 'the_node'\).*training mode"):
        convert(model)


def test_errors_of_a_run(graph: TorchGraph) -> None:
    x = torch.from_numpy(X)
    with pytest.raises(LayerError, match=r"no tensor 'r3'\. Did you mean .*'r1'"):
        graph({"x": x}, ["r3"])
    with pytest.raises(UsageError, match="'x'"):
        graph({"b": torch.rand(2, 4, 8, 8)}, ["y"])
    with pytest.raises(UsageError, match="float64"):
        graph({"x": x.double()})
    with pytest.raises(ConversionError, match=r"'conv1' \(Conv\).*\[2, 5, 8, 8\]"):
        graph({"x": torch.rand(2, 5, 8, 8)})


def test_malformed_graphs() -> None:
    loop = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(ConversionError, match="cycle"):
        convert(build(loop, {"x": X}, ["b"]))
    with pytest.raises(ConversionError, match="'nowhere'"):
        convert(build([helper.make_node("Add", ["x", "nowhere"], ["y"])], {"x": X}, ["y"]))
    twice = [
        helper.make_node("Relu", ["x"], ["y"], name="one"),
        helper.make_node("Abs", ["x"], ["y"], name="two"),
    ]
    with pytest.raises(ConversionError, match="'one' and 'two'"):
        convert(build(twice, {"x": X}, ["y"]))


def test_onnx2torch_is_asked_for_what_we_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxvis.converters import registry

    # Celu leaves our table; onnx2torch knows its version 12, the node speaks 17.
    monkeypatch.delitem(registry._TABLE, ("", "Celu"))
    made = convert(single("Celu", {"x": X}, alpha=2.0))({"x": torch.from_numpy(X)})["y"]
    torch.testing.assert_close(made, torch.celu(torch.from_numpy(X), 2.0))


def test_an_unsupported_operator_inside_a_body_is_named_with_both_nodes() -> None:
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("Bernoulli", ["x"], ["z"], name="coin")], "b", [], [out])
    branch = helper.make_node("If", ["flag"], ["y"], name="fork", then_branch=inner, else_branch=inner)
    with pytest.raises(UnsupportedOperatorError, match=r"'fork'.*Bernoulli.*'coin'"):
        convert(build([branch], {"x": X, "flag": np.array(True)}, ["y"]))


def test_if_sees_the_tensors_around_them() -> None:
    def body(name: str, op_type: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op_type, ["outer", "one"], ["z"])], name, [], [out])

    branch = helper.make_node("If", ["flag"], ["y"], then_branch=body("t", "Add"), else_branch=body("e", "Sub"))
    nodes = [helper.make_node("Relu", ["x"], ["outer"]), branch]
    flag = np.array(True)
    dynamic = build(nodes, {"x": X, "flag": flag}, ["y"], {"one": np.float32(1)})
    fixed = build(nodes, {"x": X}, ["y"], {"one": np.float32(1), "flag": np.array(False)})
    x = torch.from_numpy(X).requires_grad_()
    for value, shift in ((True, 1.0), (False, -1.0)):
        made = convert(dynamic)({"x": x, "flag": torch.tensor(value)})["y"]
        torch.testing.assert_close(made, x.relu() + shift)
    made = convert(fixed)({"x": x})["y"]
    torch.testing.assert_close(made, x.relu() - 1.0)
    (gradient,) = torch.autograd.grad(made.sum(), x)
    torch.testing.assert_close(gradient, (x > 0).float())
