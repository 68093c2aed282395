"""Look-ups in graphs of every style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import Builder
from support.shapes import feeds_of, measure_shapes, run_all

from onnxvis.errors import LayerError, ModelError
from onnxvis.graph.index import GraphIndex


def _diamond() -> tuple[onnx.ModelProto, dict[str, str]]:
    b = Builder([1, 3, 8, 8])
    names = {"stem": b.conv(b.name, 3, 4)}
    names["left"] = b.node("Relu", names["stem"])
    names["right"] = b.node("Sigmoid", names["stem"])
    names["join"] = b.node("Mul", names["left"], names["right"])
    names["out"] = b.node("GlobalAveragePool", names["join"])
    return b.model(names["out"]), names


def test_who_makes_and_who_reads() -> None:
    model, t = _diamond()
    index = GraphIndex(model)
    assert index.inputs == ("image",)
    assert index.outputs == (t["out"],)
    assert index.tensors == ("image", *(n.output[0] for n in model.graph.node))
    producer = index.producer(t["join"])
    assert producer is not None
    assert producer.op_type == "Mul"
    assert index.producer("image") is None
    assert [n.op_type for n in index.consumers(t["stem"])] == ["Relu", "Sigmoid"]
    assert index.node(f"node_{t['left']}").op_type == "Relu"
    assert index.node(t["left"]).op_type == "Relu"
    assert index.data_inputs(index.node(t["stem"])) == ("image",)
    assert index.ancestors(t["left"]) == {t["left"], t["stem"], "image", "c0"}
    assert index.descendants(t["left"]) == {t["left"], t["join"], t["out"]}
    with pytest.raises(LayerError, match="Did you mean"):
        index.node("node_Relu9")


def test_between_needs_only_what_lies_between() -> None:
    model, t = _diamond()
    index = GraphIndex(model)
    assert [n.op_type for n in index.between([t["stem"]], [t["join"]])] == ["Relu", "Sigmoid", "Mul"]
    assert [n.op_type for n in index.between([t["stem"]], [t["left"]])] == ["Relu"]
    assert index.between([t["join"]], [t["join"]]) == []


def test_cut_tensors_are_on_every_path() -> None:
    model, t = _diamond()
    index = GraphIndex(model)
    assert index.cut_tensors("image", t["out"]) == ("image", t["stem"], t["join"], t["out"])
    assert index.cut_tensors(t["left"], t["right"]) == ()
    # Removing any one of them separates input from output; the others do not.
    for name in index.tensors:
        rest = {id(n) for n in index.between([name], [t["out"]])}
        first = id(index.node(t["stem"]))
        separates = name in ("image", t["out"]) or first not in rest
        assert separates == (name in index.cut_tensors("image", t["out"]))


def test_shape_arithmetic_is_constant_once_shapes_are_known() -> None:
    b = Builder([1, 3, 8, 8])
    x = b.conv(b.name, 3, 4)
    size = b.node("Slice", b.node("Shape", b.name), b.constant([2]), b.constant([4]))
    half = b.node("Div", b.node("Cast", size, to=TensorProto.INT64), b.constant(np.array([2])))
    flat = b.node("Reshape", x, b.node("Concat", b.constant([-1]), half, axis=0))
    model = b.model(flat)
    shapes = measure_shapes(model)
    assert not GraphIndex(model).is_constant(half)
    index = GraphIndex(model, shapes)
    assert index.constant(half).tolist() == [4, 4]  # type: ignore[union-attr]
    assert index.data_inputs(index.node(flat)) == (x,)
    assert index.cut_tensors("image", flat) == ("image", x, flat)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attrs"),
    [
        ("Identity", [np.arange(6.0)], {}),
        ("Cast", [np.arange(6.0)], {"to": TensorProto.INT64}),
        ("Transpose", [np.arange(24.0).reshape(2, 3, 4)], {"perm": [2, 0, 1]}),
        ("Reshape", [np.arange(24.0).reshape(2, 3, 4), np.array([0, -1])], {}),
        ("Flatten", [np.arange(24.0).reshape(2, 3, 4)], {"axis": -1}),
        ("Squeeze", [np.ones((1, 3, 1)), np.array([-1])], {}),
        ("Unsqueeze", [np.ones((3, 2)), np.array([0, 3])], {}),
        ("Concat", [np.ones((1, 2)), np.zeros((3, 2))], {"axis": 0}),
        ("Gather", [np.arange(12.0).reshape(3, 4), np.array([[2, -1]])], {"axis": 1}),
        ("Slice", [np.arange(10), np.array([-1]), np.array([-99]), np.array([0]), np.array([-3])], {}),
        ("Slice", [np.arange(10), np.array([1]), np.array([99]), np.array([0]), np.array([4])], {}),
        ("Div", [np.array([-7, 7, 6]), np.array([2, -2, 4])], {}),
        ("Div", [np.array([7.0]), np.array([2.0])], {}),
        ("Expand", [np.ones((3, 1)), np.array([2, 1, 4])], {}),
        ("ConstantOfShape", [np.array([2, 3])], {}),
        ("Range", [np.array(2), np.array(11), np.array(3)], {}),
        ("ReduceProd", [np.arange(1, 7).reshape(2, 3)], {"axes": [1], "keepdims": 0}),
        ("Where", [np.array([True, False]), np.ones(2), np.zeros(2)], {}),
        ("Max", [np.array([1.0, 5.0]), np.array([2.0]), np.array([0.0, 9.0])], {}),
        (
            "DequantizeLinear",
            [
                np.array([[3, -4], [5, 6]], np.int8),
                np.array([0.5, 2.0], np.float32),
                np.array([1, -1], np.int8),
            ],
            {"axis": 0},
        ),
        (
            "DequantizeLinear",
            [np.array([3, 200], np.uint8), np.array(0.25, np.float32), np.array(128, np.uint8)],
            {},
        ),
    ],
)
def test_constants_are_evaluated_as_onnxruntime_does(op_type: str, inputs: list[Any], attrs: dict[str, Any]) -> None:
    b = Builder([1])
    stored = [b.constant(np.asarray(i, np.float32) if np.asarray(i).dtype == np.float64 else i) for i in inputs]
    made = b.node(op_type, *stored, **attrs)
    model = b.model(made, b.node("Identity", b.name))
    value = GraphIndex(model).constant(made)
    expected = run_all(model, feeds_of(model))[made]
    assert value is not None
    assert value.dtype == expected.dtype
    np.testing.assert_array_equal(value, expected)


def test_constants_in_nodes_and_sparse_tensors() -> None:
    b = Builder([1])
    a = b.node("Constant", value_floats=[1.0, 2.0])
    c = b.node("Constant", value_int=7)
    d = b.node("Constant", value=numpy_helper.from_array(np.eye(2, dtype=np.float16)))
    model = b.model(b.node("Identity", b.name))
    values = numpy_helper.from_array(np.array([3.0, 4.0], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 5], np.int64), "sparse_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    index = GraphIndex(model)
    np.testing.assert_array_equal(index.constant(a), [1.0, 2.0])  # type: ignore[arg-type]
    assert index.constant(c) == 7
    assert index.constant(d).dtype == np.float16  # type: ignore[union-attr]
    np.testing.assert_array_equal(index.constant("sparse"), [[0, 3, 0], [0, 0, 4]])  # type: ignore[arg-type]
    assert index.constant("image") is None


def test_external_weights_that_were_not_loaded(tmp_path: Path) -> None:
    b = Builder([1, 3, 8, 8])
    x = b.conv(b.name, 3, 4)
    turned = b.node("Transpose", "c0", perm=[1, 0, 2, 3])
    y = b.node("Conv", x, b.node("Transpose", turned, perm=[1, 0, 2, 3]))
    model = b.model(x)
    del y
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, size_threshold=0)
    index = GraphIndex(onnx.load(str(tmp_path / "m.onnx"), load_external_data=False))
    assert index.is_constant("c0")
    assert index.is_constant(turned)
    assert index.constant("c0") is None
    assert index.constant(turned) is None
    assert index.constant_shape("c0") == (4, 3, 3, 3)
    assert index.data_inputs(index.node(x)) == ("image",)


def test_unsorted_nodes_are_put_in_order_and_cycles_refused() -> None:
    model, t = _diamond()
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(model.graph.node))
    order = [n.output[0] for n in GraphIndex(shuffled).nodes]
    assert order.index(t["stem"]) < order.index(t["left"]) < order.index(t["join"]) < order.index(t["out"])
    shuffled.graph.node[-1].input[0] = t["out"]
    with pytest.raises(ModelError, match="cycle"):
        GraphIndex(shuffled)


def test_initializers_listed_as_inputs_are_not_inputs() -> None:
    b = Builder([1, 3, 8, 8])
    model = b.model(b.conv(b.name, 3, 4))
    model.graph.input.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, [4, 3, 3, 3]))
    assert GraphIndex(model).inputs == ("image",)


def test_bodies_read_from_outside_and_hide_their_tensors() -> None:
    b = Builder([1])
    doubled = b.node("Add", b.name, b.name)
    bodies = []
    for op_type in ("Relu", "Neg"):
        node = helper.make_node(op_type, [doubled], [f"inner_{op_type}"])
        out = helper.make_tensor_value_info(f"inner_{op_type}", TensorProto.FLOAT, [1])
        bodies.append(helper.make_graph([node], op_type, [], [out]))
    chosen = b.node("If", b.constant(np.array(True)), then_branch=bodies[0], else_branch=bodies[1])
    index = GraphIndex(b.model(chosen))
    owner = index.hidden_in("inner_Neg")
    assert owner is not None
    assert owner.op_type == "If"
    assert index.hidden_in(doubled) is None
    assert doubled in index.ancestors(chosen)
    assert not index.is_constant(chosen)
    assert [n.op_type for n in index.consumers(doubled)] == ["If"]
