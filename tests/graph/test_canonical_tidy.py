"""The rewrites that hold at every operator set: tidying, inlining, BatchNormalization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.formats import FLOAT, applied, array_of, check, constants_of, convnet, model_of, operators, run

from onnxvis.graph.canonical import REWRITES, canonicalize
from onnxvis.graph.canonical.describe import table


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
    model.graph.initializer.append(numpy_helper.from_array(array_of(1, 3, 16, 16), "x"))
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


def branch(name: str, nodes: list[onnx.NodeProto], output: str, values: dict[str, np.ndarray]) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, key) for key, array in values.items()]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)], tensors)


def conditional(condition: str, then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", [condition], ["y"], "choice", then_branch=then, else_branch=other)


@pytest.mark.parametrize("taken", [True, False])
def test_an_if_with_a_constant_condition_is_inlined(taken: bool):
    then = branch("then", [helper.make_node("Add", ["a", "k"], ["t"], "add")], "t", {"k": np.float32([1, 2])})
    other = branch("other", [helper.make_node("Mul", ["a", "k"], ["t"], "add")], "t", {"k": np.float32([3, 4])})
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
        result = check(model, {"x": array_of(2), "d": np.array(flag)})
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
        result = check(model, {"x": array_of(2), "c": np.array(flag)})
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


def test_a_wrong_declared_shape_of_a_loop_state_is_not_believed():
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Shape", ["state"], ["s"]),
            helper.make_node("Expand", ["one", "s"], ["e"]),
            helper.make_node("Concat", ["state", "e"], ["next"], axis=0),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["m", "", "x"], ["y"], body=body)]
    values = {"m": np.int64(3), "one": np.float32([1])}
    result = check(model_of(nodes, {"x": (FLOAT, [2])}, ["y"], values))
    assert run(result.model, {"x": array_of(2)})[0].shape == (16,)


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
    values = {name: array_of(3) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2])}
    nodes = [helper.make_node("BatchNormalization", ["x", *values], ["y"], "bn", epsilon=1e-3)]
    result = check(model_of(nodes, {"x": (FLOAT, size)}, ["y"], values))
    assert operators(result) == ["Mul", "Add"]
    expected = values["gamma"] / np.sqrt(values["var"] + 1e-3)
    assert any(np.allclose(array.reshape(-1), expected) for array in constants_of(result).values())
    assert result.twins == {"y_scaled"}


def test_batch_norm_after_an_operator_of_unknown_shape():
    values = {name: array_of(4) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2, 3])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *values], ["y"]),
    ]
    model = model_of(nodes, {"x": (FLOAT, None)}, ["y"], values | {"w": array_of(4, 3, 1)})
    assert operators(check(model, {"x": array_of(1, 3, 5)})) == ["Conv", "Mul", "Add"]


@pytest.mark.parametrize("case", ["unknown rank", "training", "computed statistics"])
def test_batch_norm_stays_where_it_must(case: str):
    values = {name: array_of(3) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2])}
    training = {"training_mode": 1} if case == "training" else {}
    outputs = ["y", "m", "v"] if training else ["y"]
    inputs = {"x": (FLOAT, None if case == "unknown rank" else [2, 3, 4])}
    if case == "computed statistics":
        inputs["mean"] = (FLOAT, [3])
        values.pop("mean")
    names = ["gamma", "beta", "mean", "var"]
    nodes = [helper.make_node("BatchNormalization", ["x", *names], outputs, **training)]
    result = check(model_of(nodes, inputs, ["y"], values), {"x": array_of(2, 3, 4), "mean": array_of(3)})
    assert operators(result) == ["BatchNormalization"]


def test_sum_becomes_add_and_a_repeated_operand_is_fine():
    nodes = [helper.make_node("Sum", ["x", "x", "k"], ["y"]), helper.make_node("Sum", ["x"], ["z"])]
    result = check(model_of(nodes, {"x": (FLOAT, [2, 3])}, ["y", "z"], {"k": np.float32([1, 2, 3])}))
    assert operators(result) == ["Add", "Add", "Identity"]


def test_new_names_do_not_collide():
    values = {name: array_of(3) for name in ("gamma", "beta", "mean")} | {"var": np.float32([0.5, 1, 2])}
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
    feeds = {"x": array_of(2, 3, 16, 16)}
    np.testing.assert_allclose(run(canonicalize(model).model, feeds)[0], run(model, feeds)[0], rtol=1e-6, atol=1e-6)


def test_the_documentation_lists_every_rewrite():
    page = Path(__file__).parents[2] / "docs" / "dialect.md"
    assert table() in page.read_text(encoding="utf-8")
