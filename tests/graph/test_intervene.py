"""The edited graph against numpy: neutral bits, forced values, every layout, every reader."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from support.nets import SmallNet, noise

from onnxvis.errors import ConversionError, LayerError, UsageError
from onnxvis.graph.intervene import MASK, VALUE, bake, intervene

ODD = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, -3.5, 65504.0], np.float32)


def passing(rank=4, kind=TensorProto.FLOAT, opset=17, ir_version=8):
    """x -> Identity -> "layer" -> Identity -> "y"; "layer" is an output too."""
    shape = [None] * rank
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["layer"], "a"), helper.make_node("Identity", ["layer"], ["y"], "b")],
        "pass",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, shape) for name in ("y", "layer")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def run(model, feeds, outputs=None):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, feeds)


def bits(array):
    return array.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[array.itemsize])


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_neutral_mask_passes_every_bit(kind, hard):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    x = np.resize(ODD, (2, 4, 3, 2)).astype(dtype)
    edited = intervene(passing(kind=kind), "layer", 4, kind, hard=hard)
    zero = np.zeros((1, 4, 1, 1), dtype)
    for feeds in ({}, {MASK: zero, VALUE: np.full_like(zero, np.nan)}, {MASK: zero, VALUE: zero + dtype.type(np.inf)}):
        for answer in run(edited.model, {"x": x, **feeds}):
            assert np.array_equal(bits(answer), bits(x))


@pytest.mark.parametrize("hard", [False, True])
def test_a_full_mask_gives_the_value_whatever_was_there(hard):
    x = np.resize(ODD, (1, 8, 2, 2))
    value = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1) - 3
    edited = intervene(passing(), "layer", 4, hard=hard)
    answer = run(edited.model, {"x": x, MASK: np.ones((1, 8, 1, 1), np.float32), VALUE: value}, ["y"])[0]
    assert np.array_equal(bits(answer), bits(np.broadcast_to(value, x.shape).copy()))


def sides(shape):
    """Shapes that broadcast to ``shape``: each axis whole or 1."""
    return st.tuples(*(st.sampled_from([1, n]) for n in shape))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_masks_and_values_broadcast_over_rows_units_and_places(data):
    shape = (2, 3, 4, 5)
    parts = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0])
    mask = data.draw(hnp.arrays(np.float32, data.draw(sides(shape)), elements=parts))
    value = data.draw(hnp.arrays(np.float32, data.draw(sides(shape)), elements=st.floats(-5, 5, width=32)))
    x = noise(*shape, seed=data.draw(st.integers(0, 99)))
    answer = BROADCAST.run(["y"], {"x": x, MASK: mask, VALUE: value})[0]
    m, v = np.broadcast_to(mask, shape), np.broadcast_to(value, shape)
    expected = x.astype(np.float64) * (1 - m.astype(np.float64)) + m.astype(np.float64) * v
    np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-6)
    assert np.array_equal(answer[m == 0], x[m == 0])
    assert np.array_equal(answer[m == 1], v[m == 1])


BROADCAST = ort.InferenceSession(intervene(passing(), "layer", 4).model.SerializeToString())


def test_units_in_the_last_axis_and_layers_without_places():
    x = noise(2, 3, 3, 4)
    mask = np.array([0, 1, 0, 0], np.float32)
    last = run(intervene(passing(), "layer", 4).model, {"x": x, MASK: mask.reshape(1, 1, 1, 4)}, ["y"])[0]
    assert np.array_equal(last, np.where(mask > 0, 0, x))
    flat = noise(5, 4)
    answer = run(intervene(passing(2), "layer", 2).model, {"x": flat, MASK: mask[None]}, ["y"])[0]
    assert np.array_equal(answer, np.where(mask > 0, 0, flat))


def test_one_row_of_activations_answers_many_masks():
    x, masks = noise(1, 3, 2, 2), np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    answer = run(intervene(passing(), "layer", 4).model, {"x": x, MASK: masks}, ["y"])[0]
    assert np.array_equal(answer, np.where(masks > 0, 0, x))


def test_every_reader_sees_it_the_outputs_and_the_bodies_too():
    body = helper.make_graph(
        [helper.make_node("Neg", ["layer"], ["inner"], "neg")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    model = passing()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    node = helper.make_node("If", ["yes"], ["z"], "if", then_branch=body, else_branch=body)
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    x = noise(1, 2, 2, 2)
    mask = np.array([1, 0], np.float32).reshape(1, 2, 1, 1)
    edited = intervene(model, "layer", 4)
    y, layer, z = run(edited.model, {"x": x, MASK: mask}, ["y", "layer", "z"])
    expected = np.where(mask > 0, 0, x)
    assert np.array_equal(y, expected)
    assert np.array_equal(layer, expected)
    assert np.array_equal(z, -expected)
    assert [n.name for n in model.graph.node] == ["a", "b", "if"]


def test_the_tensor_before_can_still_be_read():
    edited = intervene(passing(), "layer", 4)
    edited.model.graph.output.add().name = edited.before
    x = noise(1, 2, 2, 2)
    assert np.array_equal(run(edited.model, {"x": x, MASK: np.ones((1, 2, 1, 1), np.float32)}, [edited.before])[0], x)


def test_twice_on_one_graph_and_under_taken_names():
    once = intervene(passing(), "layer", 4)
    twice = intervene(once.model, "y", 4)
    assert (twice.mask, twice.value) == (f"{MASK}_2", f"{VALUE}_2")
    x, half = noise(1, 2, 2, 2), np.full((1, 1, 1, 1), 0.5, np.float32)
    answer = run(twice.model, {"x": x, MASK: half, twice.mask: half}, ["y"])[0]
    assert np.array_equal(answer, x / 4)


def test_without_defaults_they_are_inputs_like_all_others():
    session = ort.InferenceSession(intervene(passing(), "layer", 4, defaults=False).model.SerializeToString())
    assert [i.name for i in session.get_inputs()] == ["x", MASK, VALUE]
    session = ort.InferenceSession(intervene(passing(), "layer", 4).model.SerializeToString())
    assert [i.name for i in session.get_overridable_initializers()] == [MASK, VALUE]


def test_files_whose_weights_are_inputs():
    net = SmallNet()
    model = net.model([2, 3, 8, 8])
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
    )
    edited = intervene(model, "features", 4)
    assert edited.model.ir_version == 4
    x = noise(2, 3, 8, 8)
    mask = np.zeros((1, net.width, 1, 1), np.float32)
    mask[:, 2] = 1
    changed = run(edited.model, {"image": x, MASK: mask})[0]
    features = net.features(x)
    features[:, 2] = 0
    expected = features.mean(axis=(2, 3)) @ net.w2.T.astype(np.float64) + net.b2
    np.testing.assert_allclose(changed, expected, atol=1e-5)
    assert np.array_equal(run(edited.model, {"image": x})[0], run(model, {"image": x})[0])


@pytest.mark.parametrize("hard", [False, True])
def test_baked_for_good_is_the_intervention(hard):
    net = SmallNet()
    model, x = net.model([2, 3, 8, 8]), noise(2, 3, 8, 8)
    mask = np.zeros((1, net.width, 1, 8), bool)
    mask[:, [1, 4], :, 3:] = True
    value = np.full((1, net.width, 1, 1), 0.25, np.float32)
    baked = bake(model, "features", mask, value)
    assert [i.name for i in baked.graph.input] == ["image"]
    edited = intervene(model, "features", 4, hard=hard)
    forced = run(edited.model, {"image": x, MASK: mask.astype(np.float32), VALUE: value})[0]
    assert np.array_equal(bits(run(baked, {"image": x})[0]), bits(forced))


def test_what_cannot_be_intervened_on_is_named():
    with pytest.raises(LayerError, match="'x' is an input or a constant"):
        intervene(passing(), "x", 4)
    with pytest.raises(LayerError, match=r"no tensor 'layr'.*'layer'"):
        intervene(passing(), "layr", 4)
    with pytest.raises(ConversionError, match=r"operator set 8.*canonical"):
        intervene(passing(opset=8), "layer", 4)
    with pytest.raises(ConversionError, match="INT8"):
        intervene(passing(kind=TensorProto.INT8), "layer", 4, TensorProto.INT8)
    with pytest.raises(UsageError, match="bool mask"):
        bake(passing(), "layer", np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1), np.float32))


def test_the_bodies_of_control_flow_are_named():
    body = helper.make_graph(
        [helper.make_node("Identity", ["layer"], ["inner"])], "b", [], [onnx.ValueInfoProto(name="inner")]
    )
    model = passing()
    model.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=body))
    with pytest.raises(LayerError, match="inside the body"):
        intervene(model, "inner", 4)
