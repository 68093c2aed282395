"""Malformed graphs give one ModelError, whatever is wrong with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from support.formats import FLOAT, convnet

from onnxvis.errors import ModelError
from onnxvis.graph.canonical import canonicalize


def _undefined(m: ModelProto) -> None:
    m.graph.node[1].input[0] = "nowhere"


def _twice(m: ModelProto) -> None:
    m.graph.node[1].output[0] = m.graph.node[0].output[0]


def _clash(m: ModelProto) -> None:
    m.graph.node[1].output[0] = "w1"


def _cycle(m: ModelProto) -> None:
    m.graph.node[0].input[0] = "r2"


def _self_loop(m: ModelProto) -> None:
    m.graph.node[1].input[0] = "r1"


def _unknown_attribute(m: ModelProto) -> None:
    m.graph.node[1].attribute.append(helper.make_attribute("slope", 1.0))


def _wrong_type(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("group", 1.5))


def _no_type(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(AttributeProto(name="group", i=1))


def _attribute_twice(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(m.graph.node[0].attribute[0])


def _missing_attribute(m: ModelProto) -> None:
    del m.graph.node[2].attribute[:]


def _missing_input(m: ModelProto) -> None:
    del m.graph.node[0].input[1:]


def _empty_input(m: ModelProto) -> None:
    m.graph.node[0].input[0] = ""


def _too_many_inputs(m: ModelProto) -> None:
    m.graph.node[1].input.append("x")


def _no_outputs(m: ModelProto) -> None:
    del m.graph.output[:]


def _output_from_nowhere(m: ModelProto) -> None:
    m.graph.output[0].name = "nowhere"


def _node_without_output(m: ModelProto) -> None:
    del m.graph.node[1].output[:]


def _no_operator(m: ModelProto) -> None:
    m.graph.node[1].op_type = ""


def _short_data(m: ModelProto) -> None:
    m.graph.initializer[0].raw_data = b"1234"


def _negative_extent(m: ModelProto) -> None:
    m.graph.initializer[0].dims[0] = -8


def _unknown_element_type(m: ModelProto) -> None:
    m.graph.initializer[0].data_type = 1234


def _no_element_type(m: ModelProto) -> None:
    m.graph.initializer[0].data_type = 0


def _initializer_twice(m: ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


def _unnamed_initializer(m: ModelProto) -> None:
    m.graph.initializer[3].name = ""
    m.graph.node[3].input[2] = "b1"


def _input_twice(m: ModelProto) -> None:
    m.graph.input.append(m.graph.input[0])


def _external(m: ModelProto) -> None:
    m.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _inner_undefined(m: ModelProto) -> None:
    outputs = [helper.make_tensor_value_info("t", FLOAT, None)]
    body = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["t"])], "body", [], outputs)
    m.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    m.graph.node.append(helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body))


def _sparse(m: ModelProto) -> None:
    values, indices = numpy_helper.from_array(np.float32([1]), "s"), numpy_helper.from_array(np.int64([2]))
    m.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def _recursive_function(m: ModelProto) -> None:
    call = helper.make_node("F", ["a"], ["b"], domain="mine")
    m.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [call], [helper.make_opsetid("mine", 1)]))
    m.opset_import.append(helper.make_opsetid("mine", 1))
    m.graph.node.append(helper.make_node("F", ["x"], ["q"], domain="mine"))
    m.graph.output[0].name = "q"


BREAKAGES = [value for name, value in sorted(globals().items()) if name.startswith("_") and callable(value)]


@pytest.mark.parametrize("damage", BREAKAGES, ids=lambda f: f.__name__)
def test_each_damage_gives_one_clear_error(damage: Callable[[ModelProto], None]):
    model = convnet(opset=17)
    damage(model)
    with pytest.raises(ModelError) as caught:
        canonicalize(model)
    assert len(str(caught.value)) < 600


def test_the_message_names_the_node_and_the_tensor():
    model = convnet(opset=17)
    _undefined(model)
    with pytest.raises(ModelError, match=r"Relu node 'relu1' reads the tensor 'nowhere', which is not defined"):
        canonicalize(model)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_damage_never_gives_another_exception(data: st.DataObject):
    raw = bytearray(convnet(opset=17, size=8).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    model = ModelProto()
    try:
        model.ParseFromString(bytes(raw))
    except DecodeError:
        return
    with contextlib.suppress(ModelError):
        canonicalize(model)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rewired_graphs_never_give_another_exception(data: st.DataObject):
    model = convnet(opset=data.draw(st.sampled_from([9, 13, 17, 20])), size=8)
    graph = model.graph
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output] + ["x", "", "nowhere"]
    kinds = [
        "Relu",
        "Reshape",
        "Split",
        "Concat",
        "BatchNormalization",
        "Pad",
        "Resize",
        "If",
        "Constant",
        "Shape",
        "Gather",
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        node = graph.node[data.draw(st.integers(0, len(graph.node) - 1))]
        change = data.draw(st.sampled_from(["input", "kind", "drop", "attribute"]))
        if change == "input" and node.input:
            node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
        elif change == "kind":
            node.op_type = data.draw(st.sampled_from(kinds))
        elif change == "drop" and node.input:
            del node.input[-1]
        else:
            name = data.draw(st.sampled_from(["axis", "axes", "pads", "to", "split", "num_outputs", "mode"]))
            node.attribute.append(helper.make_attribute(name, data.draw(st.sampled_from([0, -7, 9]))))
    with contextlib.suppress(ModelError):
        canonicalize(model)
