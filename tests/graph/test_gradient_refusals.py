"""What the gradient table refuses, by name; quantizers and special graphs by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_nodes import build, run_onnxruntime, single
from support.slopes import onnx_gradients

from onnxvis.errors import ConversionError, LayerError
from onnxvis.graph.gradient import build_vjp, differentiable_operators, missing_rules

X = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)


def chain(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None, opset: int = 17) -> onnx.ModelProto:
    return build(list(nodes), {"x": X}, ["y"], constants, opset=opset)


def test_an_unknown_operator_is_named_with_its_node() -> None:
    grid = np.zeros((1, 3, 3, 2), np.float32)
    model = single("GridSample", {"x": X, "g": grid}, constants=("g",))
    with pytest.raises(ConversionError, match=r"GridSample node 'the_node' .* no rule"):
        build_vjp(model, "y", ["x"])
    assert missing_rules(model) == ["GridSample"]


def test_an_operator_beside_the_way_is_no_obstacle() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("GridSample", ["y", "g"], ["z"]),
    ]
    model = build(nodes, {"x": X}, ["y", "z"], {"g": np.zeros((1, 3, 3, 2), np.float32)})
    seed = np.ones_like(X)
    np.testing.assert_array_equal(onnx_gradients(model, {"x": X}, "y", ["x"], seed)[0], (X > 0).astype(np.float32))


def test_the_derivative_by_a_computed_weight_is_refused() -> None:
    model = build([helper.make_node("Conv", ["x", "w"], ["y"], "c")], {"x": X, "w": X}, ["y"])
    with pytest.raises(ConversionError, match=r"Conv node 'c' .* the shape of its weight is not known"):
        build_vjp(model, "y", ["w"])
    weight = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2, 4, 4])
    model.graph.input[1].CopyFrom(weight)
    with pytest.raises(ConversionError, match=r"by input number 2 \('w'\) is not known"):
        build_vjp(model, "y", ["w"])


@pytest.mark.parametrize("op_type", ["Floor", "Sign", "Round"])
def test_a_step_has_no_derivative(op_type: str) -> None:
    with pytest.raises(ConversionError, match="does not depend differentiably on 'x'"):
        build_vjp(chain(helper.make_node(op_type, ["x"], ["y"])), "y", ["x"])


def test_a_class_number_has_no_derivative() -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(ConversionError, match="does not depend differentiably"):
        build_vjp(chain(*nodes), "y", ["x"])


def test_training_mode_is_refused() -> None:
    vectors = {name: np.ones(2, np.float32) for name in "sbmv"}
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y", "a", "b2"], "bn", training_mode=1)
    with pytest.raises(ConversionError, match=r"BatchNormalization node 'bn' .* training mode"):
        build_vjp(chain(node, constants=vectors), "y", ["x"])


def test_an_old_operator_set_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"operator set 13 or newer.*stayed at 11"):
        build_vjp(chain(helper.make_node("Relu", ["x"], ["y"]), opset=11), "y", ["x"])
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])
    with pytest.raises(ConversionError, match="ScatterElements is needed in a form that operator set 13 does not have"):
        build_vjp(chain(pool, opset=13), "y", ["x"])


def test_an_unknown_tensor_is_refused() -> None:
    with pytest.raises(LayerError, match="no tensor 'z'"):
        build_vjp(chain(helper.make_node("Relu", ["x"], ["y"])), "y", ["z"])


def test_a_tensor_that_does_not_matter_has_gradient_zero() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    model = build(nodes, {"x": X}, ["y", "z"])
    found = onnx_gradients(model, {"x": X}, "y", ["x", "z"], np.ones_like(X))
    assert (found[1] == 0).all()
    assert found[1].shape == X.shape


def test_names_that_the_graph_has_already_are_left_alone() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["onnxvis/Mul_1"], "onnxvis/Mul_2"),
        helper.make_node("Mul", ["onnxvis/Mul_1", "x"], ["y"], "onnxvis/Mul_3"),
    ]
    (found,) = onnx_gradients(chain(*nodes), {"x": X}, "y", ["x"], np.ones_like(X))
    np.testing.assert_allclose(found, 3 * X * X, rtol=1e-6)


def test_a_tensor_that_is_used_several_times_collects_all_its_gradients() -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"]),
        helper.make_node("Mul", ["a", "x"], ["b"]),
        helper.make_node("Add", ["b", "a"], ["y"]),
    ]
    found = onnx_gradients(chain(*nodes), {"x": X}, "y", ["x", "a"], np.ones_like(X))
    np.testing.assert_allclose(found[0], 4 * X + 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], X + 1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantizers_pass_gradients_and_saturation_stops_them(per_channel: bool) -> None:
    scale = np.array([0.02, 0.005], np.float32) if per_channel else np.array(0.01, np.float32)
    zero = np.full(scale.shape, 100, np.uint8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("Transpose", ["q"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["y"], axis=1),
    ]
    model = chain(*nodes, constants={"s": scale, "z": zero})
    seed = np.random.default_rng(2).standard_normal(X.shape).astype(np.float32)
    (found,) = onnx_gradients(model, {"x": X}, "y", ["x"], seed)
    steps = np.rint(X / scale.reshape(-1, 1, 1)) + 100
    inside = (steps >= 0) & (steps <= 255)
    assert 0.1 < inside.mean() < 0.95
    np.testing.assert_allclose(found, np.where(inside, seed.transpose(0, 1, 3, 2), 0), rtol=1e-5)


def test_a_pool_whose_last_window_would_begin_outside() -> None:
    # onnx's own shape inference counts that window, onnxruntime does not.
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1}
    nodes = [helper.make_node("MaxPool", ["x"], ["p"], **pool), helper.make_node("Conv", ["p", "w"], ["y"])]
    weight = np.random.default_rng(1).standard_normal((3, 2, 2, 2)).astype(np.float32)
    model = chain(*nodes, constants={"w": weight})
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape))
    (value,) = run_onnxruntime(model, {"x": X}, ["y"])
    seed = np.ones_like(value)
    (found,) = onnx_gradients(model, {"x": X}, "y", ["x"], seed)
    eps = 1e-2
    (moved,) = run_onnxruntime(model, {"x": X + eps * found}, ["y"])
    assert (moved - value).sum() / eps == pytest.approx(float((found * found).sum()), rel=1e-3)


def test_the_table_covers_what_networks_use() -> None:
    known = set(differentiable_operators())
    assert len(known) > 90
    assert {"Conv", "Gemm", "MaxPool", "Resize", "LayerNormalization", "HardSwish", "DepthToSpace"} <= known
