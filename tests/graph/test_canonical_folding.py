"""Constants and shapes computed ahead of time, and what must not be computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.formats import FLOAT, applied, array_of, check, constants_of, model_of, operators

from onnxvis.graph.canonical import canonicalize, fold_constants

RNG = np.random.default_rng(0)
X = ("x", (FLOAT, ["n", 3, 8, 8]))


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
    expected = (values["q"].astype(float) - values["z"][:, None]) * values["s"][:, None] * values["i"][:, None]
    np.testing.assert_allclose(constants_of(result)["w"], expected.T, rtol=1e-6)


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


@pytest.mark.parametrize(("op", "arrays", "attributes"), INTEGERS, ids=lambda v: v if isinstance(v, str) else "")
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
        result = check(model, {"x": array_of(batch, 3, 8, 8)})
    assert operators(result) == ["Reshape"]
    assert expected in [array.tolist() for array in constants_of(result).values()]


def test_a_fixed_shape_is_folded_entirely():
    values = {"zero": np.int64(0), "axis": np.int64([0]), "rest": np.int64([-1])}
    model = model_of(flatten_by_shape([-1]), {"x": (FLOAT, [2, 3, 8, 8])}, ["y"], values)
    result = check(model)
    assert operators(result) == ["Reshape"]
    assert [2, -1] in [array.tolist() for array in constants_of(result).values()]


def test_an_unrelated_symbol_is_not_guessed():
    values = {"zero": np.int64(0), "axis": np.int64([0]), "rest": np.int64([-1])}
    nodes = flatten_by_shape([-1])
    nodes[0].input[0] = "other"
    inputs = {"x": (FLOAT, ["a", 4]), "other": (FLOAT, ["b"])}
    result = check(model_of(nodes, inputs, ["y"], values), {"x": array_of(3, 4), "other": array_of(6)})
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
    assert [2, 3] in [array.tolist() for array in constants_of(result).values()]


def test_arithmetic_on_shapes_keeps_the_batch_and_folds_the_rest():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "factors"], ["double"]),
        helper.make_node("Cast", ["double"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    model = model_of(nodes, {"x": (FLOAT, ["n", 3, 8, 8])}, ["y"], {"factors": np.int64([1, 1, 2, 3])})
    for batch in (1, 2):
        result = check(model, {"x": array_of(batch, 3, 8, 8)})
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
    values |= {"fill": np.float32(0), "w": array_of(4, 3, 3, 3)}
    result = check(model_of(nodes, dict([X]), ["y"], values), batch=2)
    assert operators(result) == ["Conv"]
    assert applied(result)["pad-into-conv"] == 1


@pytest.mark.parametrize("case", ["fill", "channels", "negative", "read twice", "reflect", "output"])
def test_other_padding_stays(case: str):
    pads = {"channels": [0, 1, 1, 1, 0, 0, 1, 1], "negative": [0, 0, -1, 1, 0, 0, 1, 1]}.get(case, [0, 0, 1, 1] * 2)
    weight = array_of(4, 4 if case == "channels" else 3, 3, 3)
    mode = "reflect" if case == "reflect" else "constant"
    nodes = [
        helper.make_node("Pad", ["x", "pads", "fill"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"]),
        helper.make_node("Relu", ["p" if case == "read twice" else "y"], ["z"]),
    ]
    values = {"pads": np.int64(pads), "fill": np.float32(1 if case == "fill" else 0), "w": weight}
    outputs = ["y", "z", "p"] if case == "output" else ["y", "z"]
    assert "Pad" in operators(check(model_of(nodes, dict([X]), outputs, values)))
