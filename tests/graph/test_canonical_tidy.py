"""The rewrites that hold at every operator set: tidying, folding, inlining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.formats import FLOAT, check, convnet, model_of, run

from onnxvis.graph.canonical import REWRITES, Canonical, canonicalize, fold_constants
from onnxvis.graph.canonical.describe import table

RNG = np.random.default_rng(0)
X = ("x", (FLOAT, ["n", 3, 8, 8]))


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def applied(result: Canonical) -> dict[str, int]:
    return {entry.name: entry.count for entry in result.applied}


def operators(result: Canonical) -> list[str]:
    return [node.op_type for node in result.model.graph.node]


def constants(result: Canonical) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}


def test_names_and_summaries_are_unique_and_each_module_draws_its_pattern():
    assert len({r.name for r in REWRITES}) == len(REWRITES)
    for rewrite in REWRITES:
        module = __import__(rewrite.apply.__module__, fromlist=["__doc__"])
        assert "->" in (module.__doc__ or ""), rewrite.name
        assert rewrite.summary


def test_a_clean_model_keeps_its_nodes():
    model = convnet(opset=17)
    result = check(model)
    assert [(n.op_type, n.name, list(n.output)) for n in result.model.graph.node] == [
        (n.op_type, n.name, list(n.output)) for n in model.graph.node
    ]
    assert result.applied == ()
    assert result.twins == frozenset()


def test_unsorted_nodes_are_sorted():
    model = convnet(opset=17)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert operators(check(model))[0] == "Conv"


def test_initializers_leave_the_inputs_unless_nothing_would_be_left():
    model = convnet(opset=17)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, FLOAT, tensor.dims))
    model.ir_version = 3
    result = check(model)
    assert [v.name for v in result.model.graph.input] == ["x"]
    assert result.model.ir_version >= 4
    del model.graph.input[0]
    model.graph.initializer.append(numpy_helper.from_array(image(1, 3, 16, 16), "x"))
    model.graph.input.append(helper.make_tensor_value_info("x", FLOAT, [1, 3, 16, 16]))
    assert len(canonicalize(model).model.graph.input) == len(model.graph.input)


@pytest.mark.parametrize("kind", ["value", "value_float", "value_floats", "value_int", "value_ints"])
def test_constants_become_initializers_of_the_same_name(kind: str):
    values = {
        "value": numpy_helper.from_array(np.float32([1.5, 2]), "inner"),
        "value_float": 1.5,
        "value_floats": [1.5, 2.0],
        "value_int": 3,
        "value_ints": [3, 4],
    }
    nodes = [
        helper.make_node("Constant", [], ["k"], **{kind: values[kind]}),
        helper.make_node("Cast", ["k"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    result = check(model_of(nodes, {"x": (FLOAT, [4, 2])}, ["y"]))
    assert operators(result) == ["Mul"]
    assert applied(result)["lift-constants"] == 1


def test_a_constant_that_is_an_output_stays_a_node():
    nodes = [
        helper.make_node("Constant", [], ["k"], value_float=1.5),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    assert operators(check(model_of(nodes, {"x": (FLOAT, [2])}, ["y", "k"]))) == ["Constant", "Add"]


def test_initializers_and_inputs_may_be_outputs():
    nodes = [helper.make_node("Add", ["x", "k"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, [2])}, ["y", "k", "x"], {"k": np.float32([1, 2])})
    assert operators(check(model)) == ["Add"]


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20], [1 << 62, 4]])
def test_a_hostile_constant_is_not_allocated(shape: list[int]):
    fill = numpy_helper.from_array(np.float32([1]))
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"], value=fill),
        helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    model = model_of(nodes, {"x": (FLOAT, [2])}, ["y"], {"s": np.int64(shape)})
    assert "ConstantOfShape" in operators(canonicalize(model))


@pytest.mark.parametrize("op", ["Expand", "Tile", "Range", "Gather", "Add", "Concat"])
def test_hostile_growth_is_not_computed(op: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fold_constants, "_TOTAL", 1 << 25)
    many = 1 << 20
    arrays = {
        "Expand": [np.float32([1]), np.int64([many, many])],
        "Tile": [np.float32([[1]]), np.int64([many, many])],
        "Range": [np.float32(0), np.float32(1e30), np.float32(1)],
        "Gather": [np.ones((1, 100_000), np.float32), np.zeros(1 << 17, np.int64)],
        "Add": [np.ones((60_000, 1), np.float32), np.ones((1, 60_000), np.float32)],
        "Concat": [np.ones(1 << 18, np.float32)] * 2,
    }[op]
    names = [f"k{i}" for i in range(len(arrays))]
    extra = {"axis": 0} if op in ("Concat", "Gather") else {}
    nodes = [helper.make_node(op, names, ["big0"], **extra)]
    if op == "Concat":  # doubling thirty times
        nodes += [helper.make_node("Concat", [f"big{i}"] * 2, [f"big{i + 1}"], axis=0) for i in range(30)]
    nodes += [helper.make_node("ReduceMax", [nodes[-1].output[0]], ["m"], keepdims=0)]
    nodes += [helper.make_node("Add", ["x", "m"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, [2])}, ["y"], dict(zip(names, arrays, strict=True)))
    result = canonicalize(model)
    assert op in operators(result)
    assert canonicalize(result.model).model.SerializeToString() == result.model.SerializeToString()


def test_identity_and_dropout_go_but_outputs_keep_their_names():
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b", "mask"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["y"]),
        helper.make_node("Dropout", ["c"], ["z"]),
        helper.make_node("Identity", ["w"], ["v"]),
        helper.make_node("Add", ["c", "v"], ["u"]),
    ]
    result = check(model_of(nodes, {"x": (FLOAT, [2])}, ["y", "z", "c", "u"], {"w": np.float32([3, 4])}))
    assert operators(result) == ["Relu", "Identity", "Identity", "Add"]
    assert list(result.model.graph.node[0].input) == ["x"]


def test_a_dropout_whose_mask_is_read_stays():
    nodes = [helper.make_node("Dropout", ["x"], ["y", "mask"])]
    assert operators(check(model_of(nodes, {"x": (FLOAT, [2])}, ["y", "mask:BOOL"]))) == ["Dropout"]


def test_weights_computed_from_initializers_are_folded():
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"], axis=0),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        helper.make_node("Cast", ["i"], ["g"], to=FLOAT),
        helper.make_node("Unsqueeze", ["g", "zero"], ["h"]),
        helper.make_node("Mul", ["t", "h"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    values = {
        "q": RNG.integers(-128, 127, (5, 4)).astype(np.int8),
        "s": np.float32([0.1, 0.2, 0.3, 0.4, 0.5]),
        "z": np.int8([1, 2, 3, 4, 5]),
        "i": np.int32([1, 2, 3, 4, 5]),
        "zero": np.int64([0]),
    }
    result = check(model_of(nodes, {"x": (FLOAT, [2, 4])}, ["y"], values))
    assert operators(result) == ["MatMul"]
    expected = (
        (values["q"].astype(float) - values["z"][:, None]) * values["s"][:, None] * values["i"][:, None]
    )
    np.testing.assert_allclose(constants(result)["w"], expected.T, rtol=1e-6)


INTEGERS = [
    ("Div", [np.int64([7, -7, 7, -7]), np.int64([2, 2, -2, -2])], {}),
    ("Mod", [np.int64([7, -7, 7, -7]), np.int64([3, 3, -3, -3])], {}),
    ("Mod", [np.int64([7, -7, 7, -7]), np.int64([3, 3, -3, -3])], {"fmod": 1}),
    (
        "Slice",
        [np.int64([1, 2, 3, 4, 5]), np.int64([-1]), np.int64([-(2**62)]), np.int64([0]), np.int64([-1])],
        {},
    ),
    ("Slice", [np.int64([1, 2, 3, 4, 5]), np.int64([3]), np.int64([0]), np.int64([0]), np.int64([-2])], {}),
    ("Slice", [np.int64([1, 2, 3, 4, 5]), np.int64([-9]), np.int64([-2])], {}),
    ("Slice", [np.int64([1, 2, 3, 4, 5]), np.int64([1]), np.int64([2**62])], {}),
    ("Gather", [np.int64([[1, 2, 3], [4, 5, 6]]), np.int64([-1, 0])], {"axis": 1}),
    ("Squeeze", [np.int64([[[1], [2]]])], {}),
    ("Unsqueeze", [np.int64([1, 2]), np.int64([-1, 0])], {}),
    ("Reshape", [np.int64([[1, 2, 3, 4]]), np.int64([0, 2, -1])], {}),
    ("Range", [np.int64(10), np.int64(1), np.int64(-3)], {}),
    ("ReduceProd", [np.int64([[1, 2], [3, 4]])], {"axes": [-1], "keepdims": 0}),
    ("ReduceSum", [np.int64([[1, 2], [3, 4]]), np.int64([0])], {}),
    ("ReduceMax", [np.int64([[1, 2], [3, 4]])], {}),
    ("Expand", [np.int64([[1], [2]]), np.int64([3, 1, 2])], {}),
    ("Tile", [np.int64([[1, 2]]), np.int64([2, 2])], {}),
    ("Shape", [np.ones((2, 3, 4), np.float32)], {"start": 1}),
    ("Size", [np.ones((2, 3, 4), np.float32)], {}),
    ("Cast", [np.float32([1.7, -1.7, 2.5])], {"to": TensorProto.INT64}),
    ("Flatten", [np.ones((2, 3, 4), np.int64)], {"axis": 2}),
    ("Max", [np.int64([1, 5]), np.int64([3, 2]), np.int64([2, 9])], {}),
    ("Where", [np.array([True, False]), np.int64([1, 2]), np.int64([3, 4])], {}),
    ("Concat", [np.int64([[1]]), np.int64([[2]])], {"axis": -1}),
    ("Floor", [np.float32([1.5, -1.5])], {}),
    ("Round", [np.float32([0.5, 1.5, -2.5])], {}),
    ("Neg", [np.int64([1, -2])], {}),
    ("Reciprocal", [np.float32([2, 4])], {}),
    ("Equal", [np.int64([1, 2]), np.int64([1, 3])], {}),
    ("Xor", [np.array([True, False]), np.array([True, True])], {}),
    ("DequantizeLinear", [np.uint8([1, 2, 250]), np.float32(0.1), np.uint8(3)], {}),
    ("DequantizeLinear", [np.int32([[100], [-2]]), np.float32([0.1, 0.2])], {"axis": 0}),
]


@pytest.mark.parametrize(
    ("op", "arrays", "attributes"), INTEGERS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_folding_agrees_with_onnxruntime(op: str, arrays: list[np.ndarray], attributes: dict[str, object]):
    names = [f"k{i}" for i in range(len(arrays))]
    nodes = [
        helper.make_node(op, names, ["folded"], **attributes),
        helper.make_node("Cast", ["folded"], ["f"], to=FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    result = check(model_of(nodes, {"x": (FLOAT, [1])}, ["y"], dict(zip(names, arrays, strict=True))))
    assert operators(result) == ["Add"]


def test_what_cannot_be_computed_is_left_to_onnxruntime():
    nodes = [helper.make_node("Div", ["a", "b"], ["q"]), helper.make_node("Cast", ["q"], ["f"], to=FLOAT)]
    nodes += [helper.make_node("Add", ["x", "f"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, [1])}, ["y"], {"a": np.int64([1]), "b": np.int64([0])})
    assert operators(canonicalize(model)) == ["Div", "Cast", "Add"]


def flatten_by_shape(rest: list[int]) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]


@pytest.mark.parametrize(("rest", "expected"), [([192], [0, 192]), ([-1], [0, -1]), ([3, -1], [0, 3, -1])])
def test_a_symbolic_batch_stays_symbolic(rest: list[int], expected: list[int]):
    values = {"zero": np.int64(0), "axis": np.int64([0]), "rest": np.int64(rest)}
    model = model_of(flatten_by_shape(rest), {"x": (FLOAT, ["n", 3, 8, 8])}, ["y"], values)
    for batch in (1, 3):
        result = check(model, {"x": image(batch, 3, 8, 8)})
    assert operators(result) == ["Reshape"]
    assert expected in [array.tolist() for array in constants(result).values()]


def test_a_fixed_shape_is_folded_entirely():
    values = {"zero": np.int64(0), "axis": np.int64([0]), "rest": np.int64([-1])}
    model = model_of(flatten_by_shape([-1]), {"x": (FLOAT, [2, 3, 8, 8])}, ["y"], values)
    result = check(model)
    assert operators(result) == ["Reshape"]
    assert [2, -1] in [array.tolist() for array in constants(result).values()]


def test_an_unrelated_symbol_is_not_guessed():
    values = {"zero": np.int64(0), "axis": np.int64([0]), "rest": np.int64([-1])}
    nodes = flatten_by_shape([-1])
    nodes[0].input[0] = "other"
    inputs = {"x": (FLOAT, ["a", 4]), "other": (FLOAT, ["b"])}
    result = check(model_of(nodes, inputs, ["y"], values), {"x": image(3, 4), "other": image(6)})
    assert "Shape" in operators(result)


def test_a_wrong_declared_inner_shape_is_not_believed():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Reshape", ["b", "s"], ["y"]),
    ]
    model = model_of(nodes, {"x": (FLOAT, [2, 3]), "b": (FLOAT, [6])}, ["y"])
    model.graph.value_info.append(helper.make_tensor_value_info("a", FLOAT, [3, 2]))
    result = check(model)
    assert [2, 3] in [array.tolist() for array in constants(result).values()]


def test_arithmetic_on_shapes_keeps_the_batch_and_folds_the_rest():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "factors"], ["double"]),
        helper.make_node("Cast", ["double"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    model = model_of(nodes, {"x": (FLOAT, ["n", 3, 8, 8])}, ["y"], {"factors": np.int64([1, 1, 2, 3])})
    for batch in (1, 2):
        result = check(model, {"x": image(batch, 3, 8, 8)})
    assert operators(result) == ["Resize"]
    assert "resize-scales" in applied(result)


def test_padding_computed_from_the_shape_ends_in_the_convolution():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Div", ["hw", "eight"], ["p"]),
        helper.make_node("Concat", ["zeros", "p", "zeros", "p"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads", "fill"], ["padded"]),
        helper.make_node("Conv", ["padded", "w"], ["y"], auto_pad="VALID", strides=[2, 2]),
    ]
    values = {"two": np.int64([2]), "four": np.int64([4]), "eight": np.int64([8]), "zeros": np.int64([0, 0])}
    values |= {"fill": np.float32(0), "w": image(4, 3, 3, 3)}
    result = check(model_of(nodes, dict([X]), ["y"], values), batch=2)
    assert operators(result) == ["Conv"]
    assert applied(result)["pad-into-conv"] == 1


@pytest.mark.parametrize("case", ["fill", "channels", "negative", "read twice", "reflect", "output"])
def test_other_padding_stays(case: str):
    pads = {"channels": [0, 1, 1, 1, 0, 0, 1, 1], "negative": [0, 0, -1, 1, 0, 0, 1, 1]}.get(
        case, [0, 0, 1, 1] * 2
    )
    weight = image(4, 4 if case == "channels" else 3, 3, 3)
    mode = "reflect" if case == "reflect" else "constant"
    nodes = [
        helper.make_node("Pad", ["x", "pads", "fill"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"]),
        helper.make_node("Relu", ["p" if case == "read twice" else "y"], ["z"]),
    ]
    values = {"pads": np.int64(pads), "fill": np.float32(1 if case == "fill" else 0), "w": weight}
    outputs = ["y", "z", "p"] if case == "output" else ["y", "z"]
    assert "Pad" in operators(check(model_of(nodes, dict([X]), outputs, values)))


def branch(
    name: str, nodes: list[onnx.NodeProto], output: str, values: dict[str, np.ndarray]
) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, key) for key, array in values.items()]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)], tensors)


def conditional(condition: str, then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", [condition], ["y"], "choice", then_branch=then, else_branch=other)


@pytest.mark.parametrize("taken", [True, False])
def test_an_if_with_a_constant_condition_is_inlined(taken: bool):
    then = branch("then", [helper.make_node("Add", ["a", "k"], ["t"], "add")], "t", {"k": np.float32([1, 2])})
    other = branch(
        "other", [helper.make_node("Mul", ["a", "k"], ["t"], "add")], "t", {"k": np.float32([3, 4])}
    )
    nodes = [helper.make_node("Relu", ["x"], ["a"], "add"), conditional("c", then, other)]
    nodes += [helper.make_node("Relu", ["y"], ["z"])]
    result = check(model_of(nodes, {"x": (FLOAT, [2])}, ["z"], {"c": np.array(taken)}))
    assert operators(result) == ["Relu", "Add" if taken else "Mul", "Relu"]
    assert "t" in [name for node in result.model.graph.node for name in node.output]


def test_an_inlined_branch_may_reuse_names_and_return_an_inner_constant():
    inner = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Sub", ["t", "k"], ["r"])]
    then = branch("then", inner, "r", {"k": np.float32([1, 2])})
    other = branch("other", [helper.make_node("Identity", ["a"], ["q"])], "q", {})
    after = branch("after", [helper.make_node("Neg", ["x"], ["t"])], "t", {})
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("If", ["c"], ["y"], "first", then_branch=then, else_branch=other),
        helper.make_node("If", ["d"], ["z"], "second", then_branch=after, else_branch=then),
    ]
    model = model_of(
        nodes, {"x": (FLOAT, [2]), "d": (TensorProto.BOOL, [])}, ["y", "z"], {"c": np.array(True)}, opset=17
    )
    for flag in (True, False):
        result = check(model, {"x": image(2), "d": np.array(flag)})
    assert operators(result).count("If") == 1


def test_control_flow_that_depends_on_the_input_stays_and_runs():
    inner = [
        helper.make_node("Constant", [], ["two"], value_floats=[2.0, 2.0]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "two"], ["t"]),
        helper.make_node("Neg", ["t"], ["unused"]),
    ]
    then = branch("then", inner, "t", {})
    other = branch("other", [helper.make_node("Identity", ["a"], ["q"])], "q", {})
    nodes = [helper.make_node("Relu", ["x"], ["a"]), conditional("c", then, other)]
    model = model_of(nodes, {"x": (FLOAT, [2]), "c": (TensorProto.BOOL, [])}, ["y"], opset=18)
    for flag in (True, False):
        result = check(model, {"x": image(2), "c": np.array(flag)})
    assert result.opset == 17
    assert operators(result) == ["Relu", "If"]


def test_a_loop_body_is_brought_to_the_pinned_operator_set_too():
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Unsqueeze", ["state"], ["u"], axes=[0]),
            helper.make_node("Squeeze", ["u"], ["s"], axes=[0]),
            helper.make_node("Add", ["s", "outer"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [2]),
        ],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["outer"]),
        helper.make_node("Loop", ["m", "", "x"], ["y"], body=body),
    ]
    result = check(model_of(nodes, {"x": (FLOAT, [2])}, ["y"], {"m": np.int64(3)}, opset=11))
    assert result.opset == 17


def test_functions_are_inlined():
    function = helper.make_function(
        "mine",
        "Block",
        ["a"],
        ["b"],
        [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Block", ["x"], ["m"], domain="mine"),
        helper.make_node("Block", ["m"], ["y"], domain="mine"),
    ]
    model = model_of(nodes, {"x": (FLOAT, [2])}, ["y"], domains=["mine"])
    model.functions.append(function)
    assert operators(check(model)) == ["Relu", "Neg", "Relu", "Neg"]


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_batch_norm_becomes_scale_and_shift(rank: int):
    size = [2, 3, 4, 5, 2][:rank]
    values = {name: image(3) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2])}
    nodes = [helper.make_node("BatchNormalization", ["x", *values], ["y"], "bn", epsilon=1e-3)]
    result = check(model_of(nodes, {"x": (FLOAT, size)}, ["y"], values))
    assert operators(result) == ["Mul", "Add"]
    expected = values["gamma"] / np.sqrt(values["var"] + 1e-3)
    assert any(np.allclose(array.reshape(-1), expected) for array in constants(result).values())
    assert result.twins == {"y_scaled"}


def test_batch_norm_after_an_operator_of_unknown_shape():
    values = {name: image(4) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2, 3])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *values], ["y"]),
    ]
    model = model_of(nodes, {"x": (FLOAT, None)}, ["y"], values | {"w": image(4, 3, 1)})
    assert operators(check(model, {"x": image(1, 3, 5)})) == ["Conv", "Mul", "Add"]


@pytest.mark.parametrize("case", ["unknown rank", "training", "computed statistics"])
def test_batch_norm_stays_where_it_must(case: str):
    values = {name: image(3) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2])}
    training = {"training_mode": 1} if case == "training" else {}
    outputs = ["y", "m", "v"] if training else ["y"]
    inputs = {"x": (FLOAT, None if case == "unknown rank" else [2, 3, 4])}
    if case == "computed statistics":
        inputs["mean"] = (FLOAT, [3])
        values.pop("mean")
    names = ["gamma", "beta", "mean", "var"]
    nodes = [helper.make_node("BatchNormalization", ["x", *names], outputs, **training)]
    result = check(model_of(nodes, inputs, ["y"], values), {"x": image(2, 3, 4), "mean": image(3)})
    assert operators(result) == ["BatchNormalization"]


def test_sum_becomes_add_and_a_repeated_operand_is_fine():
    nodes = [helper.make_node("Sum", ["x", "x", "k"], ["y"]), helper.make_node("Sum", ["x"], ["z"])]
    result = check(model_of(nodes, {"x": (FLOAT, [2, 3])}, ["y", "z"], {"k": np.float32([1, 2, 3])}))
    assert operators(result) == ["Add", "Add", "Identity"]


def test_new_names_do_not_collide():
    values = {name: image(3) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2])}
    nodes = [
        helper.make_node("Relu", ["x"], ["y_scaled"], "bn_scaled"),
        helper.make_node("BatchNormalization", ["y_scaled", *values], ["y"], "bn"),
    ]
    model = model_of(nodes, {"x": (FLOAT, [1, 3, 2, 2])}, ["y"], values)
    assert operators(check(model)) == ["Relu", "Mul", "Add"]


def test_dead_code_goes_and_unused_inputs_stay():
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["u"], ["dead"])]
    result = check(model_of(nodes, {"x": (FLOAT, [2]), "u": (FLOAT, [2])}, ["y"], {"w": np.float32([1])}))
    assert operators(result) == ["Relu"]
    assert [v.name for v in result.model.graph.input] == ["x", "u"]
    assert not result.model.graph.initializer


def test_outputs_of_the_canonical_graph_are_what_onnxruntime_gives():
    model = convnet(opset=17, batch="n")
    feeds = {"x": image(2, 3, 16, 16)}
    np.testing.assert_allclose(
        run(canonicalize(model).model, feeds)[0], run(model, feeds)[0], rtol=1e-6, atol=1e-6
    )


def test_the_documentation_lists_every_rewrite():
    page = Path(__file__).parents[2] / "docs" / "dialect.md"
    assert table() in page.read_text(encoding="utf-8")
