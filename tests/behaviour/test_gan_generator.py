"""Opening generators: inputs, ranges, layouts, batches, layers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.gan import SIDE, UNITS, PaintedSquares, squares_model

from onnxvis.behaviour.gan.generator import open_generator
from onnxvis.errors import LayerError, ModelError, UsageError

MADE = PaintedSquares()


def expected(z):
    picture = MADE.picture(MADE.features(z.reshape(len(z), UNITS)))
    return np.moveaxis((picture + 1) * 127.5, 1, -1)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize("latent", ["flat", "map"])
def test_pictures_are_those_of_the_formula(layout, batch, latent):
    generator = open_generator(squares_model(layout=layout, batch=batch, latent=latent))
    found = generator.sample(range(7), seed=3)
    assert (generator.layout, generator.size, str(generator.range)) == (
        layout,
        (SIDE, SIDE),
        "-1 to 1: the graph ends in Tanh",
    )
    assert np.abs(found.pictures - expected(found.feeds["z"])).max() <= 0.51


def test_half_precision():
    generator = open_generator(squares_model(half=True))
    found = generator.sample(range(5))
    assert found.feeds["z"].dtype == np.float16
    assert generator.layer().dtype == "float16"
    assert np.abs(found.pictures - expected(found.feeds["z"])).max() <= 1.0


def test_a_number_and_a_seed_always_give_the_same_picture():
    generator = open_generator(squares_model())
    some = generator.sample([3, 40, 7], seed=1).pictures
    assert np.array_equal(generator.sample([40], seed=1).pictures[0], some[1])
    assert not np.array_equal(generator.sample([40], seed=2).pictures[0], some[1])
    streamed = np.concatenate([s.pictures for s in generator.stream(range(41), seed=1)])
    assert np.array_equal(streamed[[3, 40, 7]], some)


def test_latents_are_normal_and_cut_by_a_truncation():
    whole = open_generator(squares_model()).feeds(range(800), 0)["z"]
    assert abs(whole.mean()) < 0.05
    assert abs(whole.std() - 1) < 0.03
    cut = open_generator(squares_model(), truncation=0.5).feeds(range(800), 0)["z"]
    assert np.abs(cut).max() <= 0.5
    assert abs(cut.std() - 0.2876) < 0.01  # of a standard normal cut at 0.5
    kept = np.abs(whole) <= 0.5
    assert np.array_equal(cut[kept], whole[kept])
    with pytest.raises(UsageError, match="truncation"):
        open_generator(squares_model(), truncation=0)


def test_classes_are_drawn_or_given():
    generator = open_generator(squares_model(conditional=True))
    assert "3 classes, read off the table" in generator.describe()["inputs"][1]
    drawn = generator.feeds(range(300), 0)["class"]
    assert np.unique(drawn).tolist() == [0, 1, 2]
    fixed = open_generator(squares_model(conditional=True), inputs={"class": 2})
    found = fixed.sample(range(20))
    assert (found.feeds["class"] == 2).all()
    z = found.feeds["z"] + np.eye(UNITS)[2]
    assert np.abs(found.pictures - expected(z)).max() <= 0.51
    with pytest.raises(UsageError, match="classes 0 to 2, not 3"):
        open_generator(squares_model(conditional=True), inputs={"class": 3})
    with pytest.raises(UsageError, match=r"no input 'klass'.*'class'"):
        open_generator(squares_model(conditional=True), inputs={"klass": 1})


def painter(nodes, output="picture", elem_type=TensorProto.FLOAT, inputs=(), dims=("n", 4)):
    """z (N, 4) -> reshaped and spread to (N, 1, 4, 4) -> nodes -> output."""
    first = [
        helper.make_node("Reshape", ["z", "shape"], ["column"]),
        helper.make_node("Expand", ["column", "size"], ["map"]),
    ]
    stored = {
        "shape": np.array([0, 1, 4, 1], np.int64),
        "size": np.array([1, 1, 4, 4], np.int64),
        "half": np.array(0.5, np.float32),
        "low": np.array(0.0, np.float32),
        "high": np.array(255.0, np.float32),
        "byte": np.array([255.0], np.float32),
    }
    graph = helper.make_graph(
        [*first, *nodes],
        "painter",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, list(dims)), *inputs],
        [helper.make_tensor_value_info(output, elem_type, ["n", 1, 4, 4])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op_type, *inputs, to="picture"):
    return helper.make_node(op_type, list(inputs), [to])


@pytest.mark.parametrize(
    ("nodes", "limits"),
    [
        ([node("Sigmoid", "map")], (0, 1)),
        ([node("Tanh", "map", to="t"), node("Mul", "half", "t", to="m"), node("Add", "m", "half")], (0, 1)),
        ([node("Sigmoid", "map", to="s"), node("Sub", "high", "s")], (254, 255)),
        ([node("Sigmoid", "map", to="s"), node("Mul", "s", "byte", to="b"), node("Identity", "b")], (0, 255)),
        ([node("Clip", "map", "low", "high")], (0, 255)),
        ([node("Tanh", "map", to="t"), node("Div", "t", "half")], (-2, 2)),
    ],
)
def test_the_range_is_read_off_the_end_of_the_graph(nodes, limits):
    found = open_generator(painter(nodes)).range
    assert (found.low, found.high) == pytest.approx(limits)


def test_gray_pictures_become_rgb_and_a_range_can_be_said():
    with pytest.raises(UsageError, match=r"value range.*'map'.*--range"):
        open_generator(painter([node("Identity", "map")]))
    generator = open_generator(painter([node("Identity", "map")]), value_range="-2,2")
    found = generator.sample([0])
    gray = np.clip((found.feeds["z"][0] + 2) / 4 * 255, 0, 255)
    assert np.abs(found.pictures[0, :, 0, :] - gray[:, None]).max() <= 0.5
    assert str(generator.range) == "-2 to 2: as given"
    with pytest.raises(UsageError, match="LOW,HIGH"):
        open_generator(squares_model(), value_range="bright")


def test_bytes_come_as_they_are():
    model = painter([node("Abs", "map", to="a"), helper.make_node("Cast", ["a"], ["picture"], to=2)], elem_type=2)
    found = open_generator(model).sample([4])
    assert np.array_equal(found.pictures[0, :, 0, 0], np.abs(found.feeds["z"][0]).astype(np.uint8))


def test_what_is_no_generator_is_named():
    model = squares_model()
    model.graph.node[0].CopyFrom(helper.make_node("RandomNormalLike", ["z"], ["seed"]))
    with pytest.raises(ModelError, match=r"random numbers itself.*RandomNormalLike"):
        open_generator(model)
    classifier = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "c",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
    )
    opset = [helper.make_opsetid("", 17)]
    with pytest.raises(ModelError, match="no batch of pictures"):
        open_generator(helper.make_model(classifier, opset_imports=opset, ir_version=8))
    with pytest.raises(UsageError, match=r"shape of input 'z'.*--latent-shape"):
        open_generator(painter([node("Tanh", "map")], dims=("n", "z")))
    found = open_generator(painter([node("Tanh", "map")], dims=("n", "z")), latent_shape=[4])
    assert found.feeds([0], 0)["z"].shape == (1, 4)
    with pytest.raises(UsageError, match=r"no output 'pic'.*'picture'"):
        open_generator(squares_model(), output="pic")


def test_other_inputs_are_noise_or_values():
    noise = helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["n", 1, 4, 4])
    psi = helper.make_tensor_value_info("psi", TensorProto.FLOAT, [1])
    nodes = [node("Mul", "map", "psi", to="m"), node("Add", "m", "noise", to="a"), node("Tanh", "a")]
    model = painter(nodes, inputs=[noise, psi])
    with pytest.raises(UsageError, match="value for input 'psi'"):
        open_generator(model)
    generator = open_generator(model, inputs={"psi": 0.5}, value_range="tanh")
    assert [s.kind for s in generator.sources] == ["latent", "noise", "fixed"]
    found = generator.sample(range(40), tensors=("a",))
    z = np.repeat(found.feeds["z"].reshape(-1, 1, 4, 1), 4, axis=3)
    np.testing.assert_allclose(found.tensors["a"], z * 0.5 + found.feeds["noise"], atol=1e-6)


def test_a_batch_that_gives_other_pictures_is_not_used():
    model = squares_model()
    wrong = helper.make_node("ReduceMean", ["features"], ["mean"], axes=[0], keepdims=1)
    model.graph.node.insert(3, wrong)
    mix = next(n for n in model.graph.node if n.name == "mix")
    model.graph.node.insert(4, helper.make_node("Add", ["features", "mean"], ["leaking"]))
    mix.input[0] = "leaking"
    generator = open_generator(model)
    assert generator.batch == 1
    assert "one by one" in generator.batch_note
    z = generator.feeds([5], 0)["z"]
    doubled = MADE.picture(2 * MADE.features(z))
    pictures = generator.sample(range(6)).pictures
    assert np.abs(np.moveaxis(pictures[5], -1, 0) - (doubled[0] + 1) * 127.5).max() <= 0.51


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_layers_have_their_units_where_they_are(layout):
    generator = open_generator(squares_model(layout=layout))
    layer = generator.layer("features")
    assert (layer.units, layer.size, layer.unit_axis) == (UNITS, (SIDE, SIDE), 1 if layout == "NCHW" else 3)
    found = generator.sample(range(4), tensors=("features",))
    np.testing.assert_allclose(layer.units_first(found.tensors["features"]), MADE.features(found.feeds["z"]), atol=1e-6)
    assert np.array_equal(layer.in_layout(layer.units_first(found.tensors["features"])), found.tensors["features"])
    assert generator.layer().tensor == "features"
    with pytest.raises(LayerError, match=r"no feature map called 'featured'.*'features'"):
        generator.layer("featured")


def test_a_transposed_map_keeps_its_units():
    model = squares_model()
    relu = next(n for n in model.graph.node if n.name == "relu")
    place = list(model.graph.node).index(relu) + 1
    model.graph.node.insert(place, helper.make_node("Transpose", ["features"], ["last"], perm=[0, 2, 3, 1]))
    model.graph.node.insert(place + 1, helper.make_node("Abs", ["last"], ["strong"]))
    model.graph.node.insert(place + 2, helper.make_node("Transpose", ["strong"], ["first"], perm=[0, 3, 1, 2]))
    next(n for n in model.graph.node if n.name == "mix").input[0] = "first"
    onnx.checker.check_model(model)
    generator = open_generator(model)
    assert generator.layer("strong").unit_axis == 3
    assert generator.layer("strong").units == UNITS
