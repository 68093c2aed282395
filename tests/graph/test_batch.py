"""Writing edits into a graph: every form in which a file can hold the constant."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.formats import FLOAT, model_of, run

from onnxvis.errors import ModelError
from onnxvis.graph.batch import fixed_batch, free_batch
from onnxvis.graph.batch_edits import Edit, KeepRow, RepeatRow, SetElement, SetToRows

RNG = np.random.default_rng(0)


def images(count: int, *shape: int) -> np.ndarray:
    return RNG.standard_normal((count, *shape)).astype(np.float32)


def answers(model: onnx.ModelProto, edits: tuple[Edit, ...], x: np.ndarray) -> np.ndarray:
    """The freed graph on all images at once; checks that the original is left as it was."""
    before = model.SerializeToString()
    freed = free_batch(model, "x", edits)
    assert model.SerializeToString() == before
    assert fixed_batch(freed, "x") == 0
    return run(freed, {"x": x})[0]


def one_by_one(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.concatenate([run(model, {"x": one[None]})[0] for one in x])


def reshape(shape: np.ndarray | list[onnx.NodeProto], opset: int = 17) -> onnx.ModelProto:
    """``y = Reshape(Relu(x), shape)`` with the shape an initializer, or made by nodes."""
    nodes = [] if isinstance(shape, np.ndarray) else shape
    constants = {"shape": shape} if isinstance(shape, np.ndarray) else {}
    body = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Reshape", ["r", "shape"], ["y"], "flatten")]
    return model_of([*nodes, *body], {"x": (FLOAT, [1, 3, 2, 2])}, ["y"], constants, opset)


LITERAL = SetElement("y", "Reshape", 1, 2, 0, -1)
COMPUTED = SetToRows("y", "Reshape", 1, 2, 0, 0, 0)


@pytest.mark.parametrize("edit", [LITERAL, COMPUTED], ids=["literal", "computed"])
@pytest.mark.parametrize("form", ["initializer", "Constant", "value_ints", "Concat of constants"])
def test_a_shape_is_rewritten_wherever_it_is_kept(edit: Edit, form: str) -> None:
    shape = np.array([1, 12], np.int64)
    one, twelve = (numpy_helper.from_array(shape[i : i + 1], f"c{i}") for i in range(2))
    makers = {
        "initializer": shape,
        "Constant": [helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(shape))],
        "value_ints": [helper.make_node("Constant", [], ["shape"], value_ints=[1, 12])],
        "Concat of constants": [
            helper.make_node("Constant", [], ["c0"], value=one),
            helper.make_node("Constant", [], ["c1"], value=twelve),
            helper.make_node("Concat", ["c0", "c1"], ["shape"], axis=0),
        ],
    }
    model, x = reshape(makers[form]), images(5, 3, 2, 2)
    np.testing.assert_array_equal(answers(model, (edit,), x), one_by_one(model, x))


def test_a_shared_constant_is_rewritten_for_the_named_node_only() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"], "first"),
        helper.make_node("ReduceMax", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Reshape", ["m", "shape"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = model_of(nodes, {"x": (FLOAT, [1, 4])}, ["y"], {"shape": np.array([1, 4], np.int64)})
    freed = free_batch(model, "x", [SetElement("a", "Reshape", 1, 2, 0, -1)])
    second = next(node for node in freed.graph.node if node.name == "second")
    assert second.input[1] == "shape"
    x = images(3, 4)
    np.testing.assert_array_equal(run(freed, {"x": x})[0], x + x.max(axis=0))


def test_a_number_is_computed_from_the_rows_of_the_nodes_own_input() -> None:
    # [N, 2, 6] -> [N * 4, 3]: four rows for each image
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, [1, 2, 6])}, ["y"], {"shape": np.array([4, 3], np.int64)})
    x = images(3, 2, 6)
    edit = SetToRows("y", "Reshape", 1, 2, 0, 0, 0, times=4)
    np.testing.assert_array_equal(answers(model, (edit,), x), x.reshape(12, 3))
    back = model_of(nodes, {"x": (FLOAT, [4, 3])}, ["y"], {"shape": np.array([1, 2, 6], np.int64)})
    edit = SetToRows("y", "Reshape", 1, 3, 0, 0, 0, times=1, per=4)
    np.testing.assert_array_equal(answers(back, (edit,), x.reshape(12, 3)), x)


@pytest.mark.parametrize("named_axes", [False, True])
def test_sizes_of_a_resize(named_axes: bool) -> None:
    sizes = [5, 7] if named_axes else [1, 2, 5, 7]
    attributes = {"axes": [2, 3]} if named_axes else {}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", **attributes)
    model = model_of([node], {"x": (FLOAT, [1, 2, 3, 4])}, ["y"], {"sizes": np.array(sizes, np.int64)}, opset=18)
    x = images(3, 2, 3, 4)
    got = answers(model, (SetToRows("y", "Resize", 3, 4, 0, 0, 0),), x)
    np.testing.assert_allclose(got, one_by_one(model, x), rtol=1e-6)


def test_a_row_is_repeated_for_each_image_and_keeps_its_type() -> None:
    token = images(1, 1, 3)
    nodes = [helper.make_node("Concat", ["token", "x"], ["y"], axis=1)]
    edit = RepeatRow("y", "Concat", 0, 3, 0, 1, 0)
    model = model_of(nodes, {"x": (FLOAT, [1, 2, 3])}, ["y"], {"token": token})
    x = images(4, 2, 3)
    np.testing.assert_array_equal(answers(model, (edit,), x), np.concatenate([np.repeat(token, 4, 0), x], axis=1))
    half = model_of(nodes, {"x": (TensorProto.FLOAT16, [1, 2, 3])}, ["y:FLOAT16"], {"token": token.astype(np.float16)})
    np.testing.assert_array_equal(answers(half, (edit,), x), one_by_one(half, x))


def test_equal_rows_become_one() -> None:
    bias = np.repeat(images(1, 3), 4, axis=0)
    model = model_of([helper.make_node("Add", ["x", "bias"], ["y"])], {"x": (FLOAT, [4, 3])}, ["y"], {"bias": bias})
    x = images(7, 3)
    np.testing.assert_array_equal(answers(model, (KeepRow("y", "Add", 1, 0),), x), x + bias[:1])


def test_ends_kept_in_an_attribute_of_an_old_operator_set() -> None:
    node = helper.make_node("Slice", ["x"], ["y"], axes=[0, 1], starts=[0, 1], ends=[1, 3])
    model = model_of([node], {"x": (FLOAT, [1, 3])}, ["y"], opset=9)
    x = images(5, 3)
    edit = SetElement("y", "Slice", 2, 2, 0, (1 << 63) - 1)
    np.testing.assert_array_equal(answers(model, (edit,), x), x[:, 1:])


def test_what_states_the_old_batch_is_dropped_and_the_rest_stays() -> None:
    model = reshape(np.array([1, 12], np.int64))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [1, 12]))
    model.graph.value_info.append(helper.make_tensor_value_info("r", FLOAT, [1, 3, 2, 2]))
    freed = free_batch(model, "x", (LITERAL,))
    dims = freed.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, 2, 2]
    for value in (freed.graph.output[0], freed.graph.value_info[0]):
        assert value.type.tensor_type.elem_type == FLOAT
        assert not value.type.tensor_type.HasField("shape")


def test_a_file_of_ir_version_3_whose_constants_are_inputs() -> None:
    model = reshape(np.array([1, 12], np.int64), opset=9)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
    x = images(3, 3, 2, 2)
    freed = free_batch(model, "x", (LITERAL,))
    assert freed.ir_version >= 4
    session_feeds = {"x": x, "shape": np.array([1, 12], np.int64)}
    np.testing.assert_array_equal(run(freed, session_feeds)[0], np.maximum(x, 0).reshape(3, 12))


def test_a_node_that_the_file_does_not_have_is_named() -> None:
    with pytest.raises(ModelError, match="Reshape that makes 'elsewhere'"):
        free_batch(reshape(np.array([1, 12], np.int64)), "x", [SetElement("elsewhere", "Reshape", 1, 2, 0, -1)])


def test_fixed_batch_reads_the_declaration() -> None:
    model = reshape(np.array([1, 12], np.int64))
    assert fixed_batch(model, "x") == 1
    assert fixed_batch(free_batch(model, "x"), "x") == 0
    assert fixed_batch(model, "no such input") == 0
