"""Random weights: every place where exporters keep them, in every number format, and nothing else touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.formats import FLOAT, convnet, feeds_of, half, model_of, quantized, run

from onnxvis.errors import ModelError, UsageError
from onnxvis.graph.randomize import randomize, weight_layers
from onnxvis.graph.shift_input import shift_input


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = helper.get_attribute_value(node.attribute[0])
    return {k: numpy_helper.to_array(v) if isinstance(v, TensorProto) else np.asarray(v) for k, v in found.items()}


def everything(model: onnx.ModelProto) -> list[str]:
    return [name for layer in weight_layers(model) for name in layer.tensors]


def changed(a: onnx.ModelProto, b: onnx.ModelProto) -> set[str]:
    first, second = stored(a), stored(b)
    assert first.keys() == second.keys()
    return {name for name in first if first[name].tobytes() != second[name].tobytes()}


def test_layers_from_the_logits_down_with_their_biases() -> None:
    layers = weight_layers(convnet(), "logits")
    assert [(layer.name, layer.operator, set(layer.tensors), layer.parameters) for layer in layers] == [
        ("fc", "Gemm", {"w3", "b3"}, 90),
        ("conv2", "Conv", {"w2", "b2"}, 584),
        ("conv1", "Conv", {"w1", "b1"}, 224),
    ]
    assert [layer.name for layer in weight_layers(convnet(), "r1")] == ["conv1"]


@pytest.mark.parametrize("how", ["permute", "redraw"])
def test_only_the_named_tensors_change_and_the_argument_does_not(how: str) -> None:
    model = convnet()
    before = model.SerializeToString(deterministic=True)
    other = randomize(model, ["w2", "b2"], seed=3, how=how)
    assert model.SerializeToString(deterministic=True) == before
    assert changed(model, other) == {"w2", "b2"}
    feeds = feeds_of(model)
    assert not np.allclose(run(model, feeds)[0], run(other, feeds)[0])
    assert randomize(model, ["w2", "b2"], seed=3, how=how).SerializeToString() == other.SerializeToString()
    assert changed(other, randomize(model, ["b2", "w2"], seed=4, how=how)) == {"w2", "b2"}


def test_a_tensor_becomes_the_same_whatever_else_is_changed() -> None:
    """So that cascading and independent tests, and their stages, speak of the same random layers."""
    model = convnet()
    alone, together = randomize(model, ["w1"], seed=1), randomize(model, everything(model), seed=1)
    np.testing.assert_array_equal(stored(alone)["w1"], stored(together)["w1"])


def test_permuting_keeps_every_number_and_redrawing_their_mean_and_range() -> None:
    model = convnet()
    names = everything(model)
    permuted, redrawn = (randomize(model, names, how=how) for how in ("permute", "redraw"))
    for name in names:
        old = stored(model)[name]
        np.testing.assert_array_equal(np.sort(stored(permuted)[name], axis=None), np.sort(old, axis=None))
        new = stored(redrawn)[name]
        assert old.min() <= new.min() <= new.max() <= old.max()
        if old.size > 200:
            assert abs(new.mean() - old.mean()) < 5 * old.std() / old.size**0.5
            assert new.std() == pytest.approx(old.std(), rel=0.25)


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_quantized_weights_keep_their_scales(form: Any) -> None:
    model = quantized(convnet(), form)
    layers = weight_layers(model, "logits")
    assert len(layers) == 3
    other = randomize(model, everything(model))
    kinds = {stored(model)[name].dtype.kind for name in changed(model, other)}
    assert kinds <= ({"i", "u"} if form != "dynamic" else {"i", "u", "f"})  # the biases of dynamic files are floats
    scales = {name for name in stored(model) if "scale" in name or "zero_point" in name}
    assert scales
    assert not scales & changed(model, other)
    feeds = feeds_of(model)
    before, after = run(model, feeds)[0], run(other, feeds)[0]
    assert np.isfinite(after).all()
    assert np.abs(before - after).max() > 0.1 * np.abs(before).max()


def test_half_precision_stays_half() -> None:
    model = half(convnet())
    other = randomize(model, everything(model))
    assert len(changed(model, other)) == 6
    assert all(stored(other)[n].dtype == np.float16 for n in changed(model, other))
    assert np.isfinite(run(other, feeds_of(model))[0]).all()


def test_weights_behind_other_nodes_and_in_constants() -> None:
    """Constant -> Transpose -> MatMul, a float64 initializer behind Cast, BatchNormalization, a bias by Add."""
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32))
    constants = {
        "head64": rng.standard_normal((5, 4)),
        "bias": rng.standard_normal(5).astype(np.float32),
        "one": np.array([0.5], np.float32),
        "mean3": np.array([0.1, 0.2, 0.3], np.float32).reshape(1, 3, 1, 1),
        **{f"bn{k}": rng.uniform(0.5, 1.5, 4).astype(np.float32) for k in range(4)},
    }
    nodes = [
        helper.make_node("Sub", ["x", "mean3"], ["centered"], "prepare"),
        helper.make_node("Constant", [], ["kernel"], value=kernel),
        helper.make_node("Conv", ["centered", "kernel"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "bn0", "bn1", "bn2", "bn3"], ["n"], "bn"),
        helper.make_node("Mul", ["n", "one"], ["m"], "half"),
        helper.make_node("GlobalAveragePool", ["m"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Cast", ["head64"], ["head32"], to=FLOAT),
        helper.make_node("Transpose", ["head32"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "head"], ["mm"], "matmul"),
        helper.make_node("Add", ["bias", "mm"], ["logits"], "add"),
    ]
    model = model_of(nodes, {"x": (FLOAT, ["n", 3, 8, 8])}, ["logits"], constants)
    layers = weight_layers(model, "logits")
    assert [(layer.name, set(layer.tensors)) for layer in layers] == [
        ("matmul", {"head64", "bias"}),
        ("conv", {"kernel", "bn0", "bn1", "bn2", "bn3"}),
    ]
    assert changed(model, randomize(model, everything(model))) == set(everything(model))


def test_a_shared_weight_is_random_for_both() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w"], ["b"], "second"),
    ]
    model = model_of(nodes, {"x": (FLOAT, [1, 3, 4, 4])}, ["b"], {"w": weight})
    layers = weight_layers(model)
    assert sum(len(layer.tensors) for layer in layers) == 1


def test_shape_arithmetic_is_no_weight() -> None:
    """Whole numbers that are multiplied or reshaped by are not learned."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Mul", ["s", "twos"], ["s2"]),
        helper.make_node("Div", ["s2", "twos"], ["s3"]),
        helper.make_node("Reshape", ["c", "s3"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((2, 3, 1, 1)).astype(np.float32)
    constants = {"w": weight, "twos": np.array([2, 2, 2, 2], np.int64)}
    model = model_of(nodes, {"x": (FLOAT, [1, 3, 4, 4])}, ["y"], constants)
    assert everything(model) == ["w"]


def test_refusals() -> None:
    with pytest.raises(UsageError, match="permute"):
        randomize(convnet(), ["w1"], how="shuffle")
    with pytest.raises(ModelError, match="stores no tensor"):
        randomize(convnet(), ["w9"])
    outside = convnet()
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="another file"):
        randomize(outside, [outside.graph.initializer[0].name])


def test_a_shifted_network_answers_the_shifted_picture_alike() -> None:
    model = convnet()
    feeds = feeds_of(model)
    shifted = shift_input(model, "x", 1.0)
    answers = run(shifted, {"x": feeds["x"] + np.float32(1.0)})
    np.testing.assert_allclose(answers[0], run(model, feeds)[0], rtol=1e-4, atol=1e-5)
    assert [v.name for v in shifted.graph.input] == ["x"]
    assert len(model.graph.node) == len(shifted.graph.node) - 1
    with pytest.raises(ModelError, match="no input"):
        shift_input(model, "y", 1.0)
