"""Several images at once give what they give one by one, on graphs that were exported for a fixed number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from support import zoo
from support.fixed_batch import LOOPED, REPAIRED, feature_map, graph, unequal_rows
from support.formats import FLOAT, convnet, half, model_of, quantized, run
from support.graphs import Builder

import onnxvis
from onnxvis.errors import ModelError
from onnxvis.graph.batch import free_batch
from onnxvis.graph.cut import needed_nodes
from onnxvis.runtime import batching
from onnxvis.runtime.batching import compare, sample_images
from onnxvis.runtime.engine import Engine

Array = np.ndarray[Any, Any]
FREED = [("expand", 1), ("old_bias", 1)]  # a batch of one broadcasts by itself


def pictures(count: int, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def engine(model: onnx.ModelProto | Path, **options: Any) -> Engine:
    return onnxvis.load(model, provider="cpu", **options).engine


def singles(e: Engine, x: Array, tensors: tuple[str, ...] = ()) -> dict[str, Array]:
    rows = [e.forward(x[i : i + 1], tensors) for i in range(len(x))]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def assert_close(found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = 1e-5) -> None:
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        error = np.abs(found[name].astype(np.float64) - array).max() / max(np.abs(array).max(), 1e-30)
        assert error <= tolerance, (name, error)


# --- forward -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 4])  # 3 is as many as are tried at once
@pytest.mark.parametrize("name", REPAIRED)
def test_baked_constants_are_rewritten_and_batches_are_exact(name: str, batch: int) -> None:
    e = engine(graph(name, batch))
    x = pictures(5)
    plan = e.batch_plan(x[:1])
    assert plan.kind == ("freed" if (name, batch) in FREED else "repaired"), plan.reason
    assert plan.fixed == batch
    assert f"fixes the batch at {batch}" in plan.reason
    assert_close(e.forward(x), singles(e, x))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", LOOPED)
def test_what_cannot_be_repaired_is_looped_and_the_node_named(name: str, batch: int) -> None:
    e = engine(graph(name, batch))
    x = pictures(5)
    plan = e.batch_plan(x[:1])
    assert plan.kind == "looped"
    assert LOOPED[name][1] in plan.reason
    assert plan.reason.endswith("images run one by one")
    assert_close(e.forward(x), singles(e, x), 0)


def test_the_naive_way_returns_garbage_without_a_word() -> None:
    model, x = graph("yolox", 1), pictures(3)
    naive = run(free_batch(model, "image"), {"image": x})[0]
    right = np.concatenate([run(model, {"image": one[None]})[0] for one in x])
    assert naive.shape == right.shape
    assert np.abs(naive - right).max() > 0.1
    e = engine(model)
    np.testing.assert_allclose(next(iter(e.forward(x).values())), right, rtol=2e-6)
    assert e.batch_plan(x[:1]).edits


def test_rows_that_differ_within_the_batch_have_no_answer_for_one_image() -> None:
    e = engine(unequal_rows(4))
    assert "another value for each place in the batch" in e.batch_plan(pictures(1)).reason


def test_a_file_that_declares_a_free_batch_and_has_one_baked_in() -> None:
    model = graph("flatten", 1)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    e = engine(model)
    plan = e.batch_plan(pictures(1))
    assert (plan.kind, plan.fixed) == ("repaired", 0)
    assert "leaves the batch free, but" in plan.reason
    x = pictures(3)
    assert_close(e.forward(x), singles(e, x))


def test_a_state_that_comes_through_another_input_is_repeated() -> None:
    b, x = feature_map(1)
    rows = b.node("Transpose", b.node("Reshape", x, b.constant(np.array([1, 6, 64]))), perm=[0, 2, 1])
    model = b.model(b.node("Concat", "token", rows, axis=1))
    model.graph.input.append(helper.make_tensor_value_info("token", FLOAT, [1, 1, 6]))
    token = pictures(1, (1, 6), seed=3)
    e = engine(model, inputs={"token": token})
    x = pictures(3)
    assert e.batch_plan(x[:1]).kind == "repaired"
    found = e.forward(x)
    assert_close(found, singles(e, x))
    np.testing.assert_array_equal(next(iter(found.values()))[:, 0], np.repeat(token[:, 0], 3, axis=0))


def test_whole_number_inputs() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=1),
        helper.make_node("Reshape", ["f", "shape"], ["y"]),
    ]
    constants = {"shape": np.array([1, -1], np.int64)}
    model = model_of(nodes, {"x": (onnx.TensorProto.UINT8, [1, 3, 4, 4])}, ["y"], constants)
    e = engine(model)
    x = np.random.default_rng(0).integers(0, 255, (3, 3, 4, 4), dtype=np.uint8)
    assert e.batch_plan(x[:1]).kind == "repaired"
    np.testing.assert_array_equal(e.forward(x)["y"], x.reshape(3, -1))


def test_nothing_is_searched_until_a_batch_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    search = batching.find_edits
    monkeypatch.setattr(batching, "find_edits", lambda *a: calls.append(1) or search(*a))
    e = engine(graph("flatten", 1))
    e.forward(pictures(1))
    freed = engine(convnet(batch=1))
    freed.forward(pictures(3, (3, 16, 16)))
    assert calls == []
    for _ in range(2):
        e.forward(pictures(3))
    assert calls == [1]


@settings(max_examples=20, deadline=None)
@given(
    st.permutations(range(4)),
    st.permutations(range(1, 4)),
    st.integers(0, 2),
    st.sampled_from([1, 2, 3, 4]),
)
def test_any_way_through_baked_reshapes_is_exact(order: list[int], kept: list[int], merge: int, batch: int) -> None:
    """Transpose, merge two axes, split them again, scale by place, transpose back."""
    perm = order if batch > 1 else [0, *kept]
    dims = [batch, 2, 3, 4]
    b = Builder(dims)
    turned = [dims[i] for i in perm]
    x = b.node("Transpose", "image", perm=perm)
    joined = [*turned[:merge], turned[merge] * turned[merge + 1], *turned[merge + 2 :]]
    x = b.node("Reshape", x, b.constant(np.array(joined)))
    x = b.node("Reshape", x, b.constant(np.array(turned)))
    x = b.node("Transpose", x, perm=[perm.index(i) for i in range(4)])
    x = b.node("Mul", x, b.weight(1, 2, 3, 4))
    e = engine(b.model(b.node("Reshape", x, b.constant(np.array([batch, 24])))))
    images = pictures(3, (2, 3, 4))
    assert e.batch_plan(images[:1]).kind == "repaired"
    assert_close(e.forward(images), singles(e, images))


# --- number formats -------------------------------------------------------------------------------------


def baked_convnet() -> onnx.ModelProto:
    """The small network with its Flatten written as dynamo writes it."""
    model = convnet()
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("one_row")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 8], np.int64), "one_row"))
    return model


@pytest.mark.parametrize(("form", "tolerance"), [("qdq", 2e-2), ("qoperator", 2e-2), ("half", 1e-2)])
def test_quantized_and_half_precision_files(form: Any, tolerance: float) -> None:
    model = half(baked_convnet()) if form == "half" else quantized(baked_convnet(), form)
    e = engine(model)
    x = pictures(3, (3, 16, 16))
    plan = e.batch_plan(x[:1])
    assert plan.kind == "repaired", plan.reason
    assert_close(e.forward(x), singles(e, x), tolerance)


def test_dynamic_quantization_depends_on_the_batch() -> None:
    e = engine(quantized(convnet(batch="n"), "dynamic"))
    x = pictures(3, (3, 16, 16))
    plan = e.batch_plan(x[:1])
    assert plan.kind == "looped"
    assert "DynamicQuantizeLinear" in plan.reason
    assert "neighbors" in plan.reason
    assert_close(e.forward(x), singles(e, x), 0)


# --- tails and gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", REPAIRED)
def test_a_tail_takes_any_number_of_rows_without_the_picture(name: str, batch: int) -> None:
    model = graph(name, batch)
    e = engine(model)
    x, output = pictures(5), model.graph.output[0].name
    layer = next(n.output[0] for n in model.graph.node if n.op_type == "Relu")
    activation = e.forward(x, (layer,))[layer]
    whole = e.forward(x)[output]
    assert_close({output: e.tail({layer: activation}, output)}, {output: whole})
    assert_close({output: e.tail({layer: activation[:1]}, output)}, {output: whole[:1]})
    freed = free_batch(model, "image", e.batch_plan(x[:1]).edits)
    assert "image" not in {i for n in needed_nodes(freed.graph, [layer], [output]) for i in n.input}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", [*REPAIRED, "strided_gather"])
def test_gradients_of_a_batch_are_those_of_its_images(name: str, batch: int) -> None:
    model = graph(name, batch)
    x, output = pictures(3), model.graph.output[0].name
    e, alone = engine(model), engine(model)
    answer = singles(e, x)[output]
    cotangent = np.random.default_rng(1).standard_normal(answer.shape)
    rows = len(answer) // 3
    found = e.gradients({"image": x}, output, [cotangent], ("image",), float64=True)
    for i in range(3):
        seed = cotangent[i * rows : (i + 1) * rows]
        one = alone.gradients({"image": x[i : i + 1]}, output, [seed], ("image",), float64=True)
        np.testing.assert_allclose(found.grads[0]["image"][i], one.grads[0]["image"][0], rtol=1e-9, atol=1e-12)
    looped = any("image by image" in note for note in found.notes)
    assert looped == (e.batch_plan(x[:1]).kind == "looped")


def test_gradients_agree_with_finite_differences_on_a_repaired_batch() -> None:
    model = graph("class_token", 1)
    x, output = pictures(2).astype(np.float32), model.graph.output[0].name
    e = engine(model)
    e.batch_plan(x[:1])
    seed = pictures(2, (5,), seed=5)
    gradient = e.gradients({"image": x}, output, [seed], ("image",), float64=True).grads[0]["image"]
    direction, step = pictures(2, seed=6), 1e-3
    moved = [(e.forward((x + s * step * direction).astype(np.float32))[output] * seed).sum(1) for s in (1, -1)]
    expected = (moved[0] - moved[1]).astype(np.float64) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), expected, rtol=2e-2)


# --- the judge ------------------------------------------------------------------------------------------


def test_the_comparison_looks_at_every_output() -> None:
    alone = {"a": np.ones((3, 2), np.float32), "b": np.full((3, 2), 1e-3, np.float32), "c": np.zeros(3, np.int64)}
    assert compare(alone, alone, 3, 1e-5) is None
    small = alone | {"b": alone["b"] * 1.1}
    assert "'b'" in str(compare(small, alone, 3, 1e-5))
    assert "[1, 2]" in str(compare(alone | {"a": alone["a"][:1]}, alone, 3, 1e-5))
    assert "'a'" in str(compare(alone | {"a": alone["a"] * np.nan}, alone, 3, 1e-5))
    assert compare(alone | {"c": alone["c"] + 1}, alone, 3, 1e-5) is None


def test_the_sample_images_differ_and_keep_their_type() -> None:
    flat = np.zeros((1, 3, 4, 4), np.float32)
    images = sample_images(flat, 3)
    assert images.dtype == np.float32
    assert len({image.tobytes() for image in images}) == 3
    assert sample_images(np.full((1, 3, 4, 4), 255, np.uint8), 4).dtype == np.uint8


def test_check_shows_the_kind_and_the_reason() -> None:
    from onnxvis.check import check

    found = {f.name: f for f in check(onnxvis.load(graph("flatten", 1), provider="cpu")).findings}["batch"]
    assert (found.ok, found.value) == (True, "repaired")
    assert "Reshape" in found.remark
    found = {f.name: f for f in check(onnxvis.load(graph("strided_gather", 1), provider="cpu")).findings}["batch"]
    assert (found.ok, found.value) == (False, "looped")
    assert "node_Gather4" in found.remark


# --- exported networks ----------------------------------------------------------------------------------

SLOW = pytest.mark.slow
LARGE = ("alexnet", "vgg11_bn")  # their pools need 224 pixels in the legacy exporter
QUICK = {("shufflenet_v2_x1_0", "legacy"), ("squeezenet1_1", "dynamo"), ("mobilenet_v3_small", "dynamo")}
ALL = [(name, exporter) for name in zoo.NAMES for exporter in ("legacy", "dynamo")]
KINDS = {("convnext_tiny", "dynamo"): "looped", ("mnasnet1_0", "dynamo"): "freed"}
KINDS |= {("shufflenet_v2_x1_0", "legacy"): "repaired"}


@pytest.mark.parametrize(("name", "exporter"), [pytest.param(*p, marks=() if p in QUICK else SLOW) for p in ALL])
def test_networks_exported_with_a_batch_of_one(name: str, exporter: Any) -> None:
    size = 224 if name in LARGE else 96 if name == "inception_v3" else 64
    e = engine(zoo.export(name, exporter, 17 if exporter == "legacy" else 18, size))
    x = zoo.image(size, 3)
    plan = e.batch_plan(x[:1])
    usual = "freed" if exporter == "legacy" else "repaired"
    assert plan.kind == KINDS.get((name, exporter), usual), plan.reason
    assert_close(e.forward(x), singles(e, x))
    if plan.kind == "looped":
        assert "node 'node_as_strided' (Gather) loses the batch axis" in plan.reason


def test_an_error_names_the_input_that_nobody_fed() -> None:
    b, x = feature_map(1)
    model = b.model(b.node("Add", x, "more"))
    model.graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1, 6, 1, 1]))
    with pytest.raises(ModelError, match="more"):
        engine(model)
