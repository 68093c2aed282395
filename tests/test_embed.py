"""A file that explains itself: the same bits as before, and the map that `onnxvis explain` makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import zoo
from support.nets import CLASSES, SmallNet, noise
from typer.testing import CliRunner

import onnxvis
from onnxvis.embedding import METADATA_KEY, Embedded, embed, embeddable_methods
from onnxvis.errors import ConversionError, LayerError, ModelError, OutputError, UsageError

NET = SmallNet()
X = noise(3, 3, 32, 32)
Array = np.ndarray[Any, Any]


def run(model: onnx.ModelProto | Path, feeds: dict[str, Array]) -> dict[str, Array]:
    """Plain onnxruntime, with its usual optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def close(found: Array, expected: Array, tolerance: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float64) - expected).max() <= tolerance * np.abs(expected).max()


def classes(*values: int) -> Array:
    return np.array(values, np.int64)


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_grad_cam_of_a_trained_network(exporter: str) -> None:
    from onnxvis.demo import lite0, photo

    model = onnxvis.load(lite0(exporter))
    embedded = embed(model, "grad-cam", upsample=True)
    x = np.concatenate([model.prepare(photo(name)).tensor for name in ("chelsea.png", "coffee.png")])
    before, after = run(model.file.proto, {"image": x}), run(embedded.proto, {"image": x})
    np.testing.assert_array_equal(after["logits"], before["logits"])
    np.testing.assert_array_equal(after["explained_class"], before["logits"].argmax(axis=1))
    asked = run(embedded.proto, {"image": x, "class_index": classes(5, -1)})
    for row, name in enumerate(("chelsea.png", "coffee.png")):
        close(after["explanation"][row], onnxvis.explain(model, photo(name)).attribution)
    close(asked["explanation"][0], onnxvis.explain(model, photo("chelsea.png"), target=5).attribution)
    np.testing.assert_allclose(asked["explanation"][1], after["explanation"][1], rtol=1e-4, atol=1e-6)
    assert embedded.proto.ByteSize() - model.file.proto.ByteSize() < 20_000


@pytest.mark.parametrize("method", embeddable_methods())
def test_every_method_is_that_of_explain(method: str) -> None:
    model = onnxvis.load(NET.model())
    at_layer = "cam" in method
    embedded = embed(model, method, upsample=at_layer)
    found = run(embedded.proto, {"image": X, "class_index": classes(4, 0, 2)})
    assert found["explanation"].dtype == np.float32
    np.testing.assert_array_equal(found["explained_class"], [4, 0, 2])
    for row, target in enumerate((4, 0, 2)):
        close(found["explanation"][row], onnxvis.explain(model, X[row : row + 1], method, target).attribution, 2e-6)


def test_one_index_serves_a_batch_and_the_map_has_the_layers_own_size() -> None:
    nodes = [helper.make_node("MaxPool", ["features"], ["small"], "pool", kernel_shape=[4, 4], strides=[4, 4])]
    nodes += [helper.make_node("ReduceMean", ["small"], ["pooled"], "mean", axes=[2, 3], keepdims=0)]
    model = onnxvis.load(NET.model(middle=nodes))
    found = run(embed(model).proto, {"image": X, "class_index": classes(1)})
    assert found["explanation"].shape == (3, 8, 8)
    np.testing.assert_array_equal(found["explained_class"], [1, 1, 1])
    pooled = NET.features(X).reshape(3, 8, 8, 4, 8, 4).max(axis=(3, 5))
    close(found["explanation"], np.einsum("nkhw,k->nhw", pooled, NET.w2[1] / 64.0), 1e-5)


def test_the_layer_can_be_chosen_and_the_tail_differentiated() -> None:
    nodes = [
        helper.make_node("MaxPool", ["features"], ["small"], "pool", kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("HardSwish", ["small"], ["bent"], "bend"),
        helper.make_node("ReduceMean", ["bent"], ["pooled"], "mean", axes=[2, 3], keepdims=0),
    ]
    model = onnxvis.load(NET.model(middle=nodes))
    for layer in ("features", "conv"):
        found = run(embed(model, layer=layer, upsample=True).proto, {"image": X[:1], "class_index": classes(3)})
        close(found["explanation"][0], onnxvis.explain(model, X[:1], "grad-cam", 3, layer=layer).attribution, 2e-6)
    with pytest.raises(LayerError):
        embed(model, "cam", layer="features")


@pytest.mark.parametrize("on_request", [False, True])
@pytest.mark.parametrize("index", [CLASSES, 2**40, -3, -CLASSES])
def test_an_index_that_no_class_has_fails_the_run(index: int, on_request: bool) -> None:
    proto = embed(onnxvis.load(NET.model()), on_request=on_request).proto
    with pytest.raises(Exception, match="out of data bounds"):
        run(proto, {"image": X, "class_index": classes(index)})


def test_scores_for_each_step_of_a_sequence_that_come_first_are_no_class_scores() -> None:
    """As text recognizers write them, (steps, N, classes): refused, in a file and in a run."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 8, 8] image) => (float[8, 1, 5] scores)
        <float[4, 3, 3, 3] w = {"""
        + ", ".join(str((i % 7) / 7) for i in range(108))
        + """},
         float[4, 5] v = {"""
        + ", ".join(str((i % 5) / 5) for i in range(20))
        + """}>
        { c = Conv <pads = [1, 1, 1, 1]> (image, w)  r = Relu(c)  m = ReduceMean <axes = [2], keepdims = 0> (r)
          t = Transpose <perm = [2, 0, 1]> (m)  scores = MatMul(t, v) }"""
    )
    opened = onnxvis.load(model)
    with pytest.raises(ModelError, match="a class index needs one score for each class"):
        embed(opened, layer="r")
    with pytest.raises(ModelError, match="export the model with the batch first"):
        onnxvis.explain(opened, np.zeros((1, 3, 8, 8), np.float32), method="occlusion")


def test_a_softmax_at_the_end_is_left_alone_and_its_input_explained() -> None:
    proto = NET.model(after=[helper.make_node("Softmax", ["logits"], ["p"], "sm")], output="p")
    model = onnxvis.load(proto)
    embedded = embed(model)
    found = run(embedded.proto, {"image": X, "class_index": classes(2)})
    close(found["explanation"], NET.grad_cam(X, 2), 1e-5)
    assert embedded.record["logits"] == "logits"


def test_the_picture_may_have_its_channels_last() -> None:
    before = [helper.make_node("Transpose", ["image"], ["x"], "t", perm=[0, 3, 1, 2])]
    model = onnxvis.load(NET.model(["N", 24, 40, 3], before=before))
    x = noise(2, 24, 40, 3)
    found = run(embed(model, upsample=True).proto, {"image": x, "class_index": classes(2)})
    close(found["explanation"], NET.grad_cam(x.transpose(0, 3, 1, 2), 2), 1e-5)
    found = run(embed(model, "saliency").proto, {"image": x, "class_index": classes(2)})
    expected = onnxvis.explain(model, x[:1], "saliency", 2).attribution
    close(found["explanation"][0], expected.transpose(1, 2, 0), 1e-5)


# --- other formats -----------------------------------------------------------------------------------


def half() -> onnx.ModelProto:
    proto = NET.model(kind=TensorProto.FLOAT16)
    for i, tensor in enumerate(proto.graph.initializer):
        wide = numpy_helper.to_array(tensor)
        proto.graph.initializer[i].CopyFrom(numpy_helper.from_array(wide.astype(np.float16), tensor.name))
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


@pytest.mark.parametrize("method", ["grad-cam", "saliency"])
def test_a_half_precision_file_keeps_its_types_and_gets_a_float32_map(method: str) -> None:
    model = onnxvis.load(half())
    embedded = embed(model, method)
    x = X.astype(np.float16)
    before, after = run(model.file.proto, {"image": x}), run(embedded.proto, {"image": x, "class_index": classes(1)})
    assert before["logits"].dtype == np.float16
    np.testing.assert_array_equal(after["logits"], before["logits"])
    assert after["explanation"].dtype == np.float32
    expected = np.stack([onnxvis.explain(model, one[None], method, 1).attribution for one in x])
    close(after["explanation"], expected, 2e-3)
    # The weights of the tail are read as they are stored, not stored a second time.
    assert embedded.proto.ByteSize() < model.file.proto.ByteSize() + 12_000


def old_file(version: int, ir_version: int = 6) -> onnx.ModelProto:
    proto = NET.model()
    proto.opset_import[0].version = version
    proto.ir_version = ir_version
    if ir_version < 4:
        for tensor in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return proto


@pytest.mark.parametrize(("version", "ir_version"), [(11, 6), (9, 3)])
def test_an_old_file_is_rewritten_as_a_whole_and_says_so(version: int, ir_version: int) -> None:
    model = onnxvis.load(old_file(version, ir_version))
    embedded = embed(model)
    assert any("canonical form as a whole" in note for note in embedded.notes)
    found = run(embedded.proto, {"image": X, "class_index": classes(2)})
    np.testing.assert_array_equal(found["logits"], run(model.file.proto, {"image": X})["logits"])
    close(found["explanation"], NET.grad_cam(X, 2), 1e-5)


def test_an_old_half_precision_file_is_refused_with_the_reason() -> None:
    proto = half()
    proto.opset_import[0].version = 11
    with pytest.raises(ConversionError, match=r"operator set 11 does not have.*Nothing is embedded"):
        embed(onnxvis.load(proto))


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
@pytest.mark.parametrize("method", ["grad-cam", "saliency"])
def test_a_quantized_file_keeps_its_bits(form: Any, method: str) -> None:
    from support.formats import convnet, quantized

    model = onnxvis.load(quantized(convnet(), form))
    name = model.image_input.name
    embedded = embed(model, method)
    if method == "saliency":
        assert any("operator set 13 became 17" in note for note in embedded.notes)
    x = noise(*model.example_shape())
    before, after = run(model.file.proto, {name: x}), run(embedded.proto, {name: x, "class_index": classes(1)})
    for output, value in before.items():
        np.testing.assert_array_equal(after[output], value)
    explained = onnxvis.explain(model, x, method, 1, allow_unverified=True)
    expected = explained.attribution if explained.layer_map is None else explained.layer_map
    # What onnxruntime fuses rounds by a quantum differently from the canonical form.
    a, b = after["explanation"][0].astype(np.float64), expected.astype(np.float64)
    assert a.shape == b.shape
    assert 1 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) < 1e-2


def test_outputs_that_would_lose_their_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxvis.embedding as module

    original = module.attach

    def meddling(base: onnx.ModelProto, *rest: Any) -> Any:
        attached = original(base, *rest)
        next(n for n in attached.model.graph.node if n.name == "fc").attribute.append(
            helper.make_attribute("alpha", 1.5)
        )
        return attached

    monkeypatch.setattr(module, "attach", meddling)
    with pytest.raises(ConversionError, match="would not keep their bits: output 'logits' differs"):
        embed(onnxvis.load(NET.model()))
    with pytest.raises(ConversionError, match="would not keep their bits: output 'logits' differs"):
        embed(onnxvis.load(NET.model()), allow_rounding=True)


def test_rounding_of_a_half_precision_network_is_refused_unless_allowed() -> None:
    from support.formats import half as half_of

    from onnxvis.demo import lite0, photo

    whole = onnxvis.load(lite0("legacy"))
    model = onnxvis.load(half_of(onnx.load(lite0("legacy"))))
    with pytest.raises(ConversionError, match=r"differs by .* of its largest value.*--allow-rounding"):
        embed(model)
    embedded = embed(model, allow_rounding=True, upsample=True)
    assert any("change by rounding" in note for note in embedded.notes)
    x = whole.prepare(photo()).tensor
    found = run(embedded.proto, {"image": x.astype(model.image_input.dtype)})["explanation"][0].astype(np.float64)
    expected = onnxvis.explain(whole, photo()).attribution.astype(np.float64)
    assert (found * expected).sum() / np.sqrt((found**2).sum() * (expected**2).sum()) > 0.999


def test_what_exists_only_in_the_dialect_is_computed_again() -> None:
    rng = np.random.default_rng(4)
    vectors = {name: (np.abs(rng.standard_normal(8)) + 0.5).astype(np.float32) for name in ("s", "b", "m", "v")}
    middle = [
        helper.make_node("BatchNormalization", ["features", "s", "b", "m", "v"], ["bn"], "bn"),
        helper.make_node("Mish", ["bn"], ["mish"], "mish"),
        helper.make_node("ReduceMean", ["mish", "axes"], ["pooled"], "mean", keepdims=0),
    ]
    proto = NET.model(middle=middle, constants={**vectors, "axes": np.array([2, 3], np.int64)})
    proto.opset_import[0].version = 18
    model = onnxvis.load(proto)
    embedded = embed(model, layer="features")
    assert any("compute again" in note for note in embedded.notes)
    found = run(embedded.proto, {"image": X[:1], "class_index": classes(5)})
    close(found["explanation"][0], onnxvis.explain(model, X[:1], "grad-cam", 5, layer="features").attribution, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet", "densenet121", "shufflenet_v2_x1_0"])
def test_networks_of_both_exporters(name: str, exporter: Any) -> None:
    path = zoo.export(name, exporter, 18 if exporter == "dynamo" else 17, 96, dynamic_batch=True)
    model = onnxvis.load(path)
    x = zoo.image(96, batch=2, seed=1)
    found = run(embed(model, upsample=True).proto, {zoo.INPUT: x, "class_index": classes(7)})
    np.testing.assert_array_equal(found["logits"], run(model.file.proto, {zoo.INPUT: x})["logits"])
    for row in range(2):
        expected = onnxvis.explain(model, x[row : row + 1], "grad-cam", 7, allow_unverified=True).attribution
        close(found["explanation"][row], expected, 1e-5)


# --- refusals, the file, the command line ------------------------------------------------------------


def test_refusals() -> None:
    model = onnxvis.load(NET.model())
    with pytest.raises(UsageError, match=r"'occlusion' cannot be put into a file.*grad-cam"):
        embed(model, "occlusion")
    with pytest.raises(UsageError, match="already as large as the picture"):
        embed(model, "saliency", upsample=True)
    with pytest.raises(UsageError, match="does not work at a layer"):
        embed(model, "saliency", layer="features")
    with pytest.raises(ModelError, match="already has a tensor 'class_index'"):
        embed(onnxvis.load(embed(model).proto, output="logits"))
    conv = [helper.make_node("Conv", ["features", "k"], ["logits"], "out")]
    dense = NET.model(constants={"k": np.ones((CLASSES, 8, 1, 1), np.float32)})
    del dense.graph.node[2:]
    dense.graph.node.extend(conv)
    with pytest.raises(ModelError, match="one score for each class"):
        embed(onnxvis.load(dense))


def test_a_tail_without_a_rule_is_refused_by_name() -> None:
    middle = [
        helper.make_node("GridSample", ["features", "grid"], ["moved"], "warp"),
        helper.make_node("ReduceMean", ["moved"], ["pooled"], "mean", axes=[2, 3], keepdims=0),
    ]
    proto = NET.model([1, 3, 32, 32], middle=middle, constants={"grid": np.zeros((1, 4, 4, 2), np.float32)})
    with pytest.raises(ConversionError, match="GridSample node 'warp'"):
        embed(onnxvis.load(proto), layer="features")


def test_the_file_says_what_was_added(tmp_path: Path) -> None:
    source = NET.model()
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES]))
    embedded = embed(onnxvis.load(source), upsample=True)
    path = embedded.save(tmp_path / "new" / "explained.onnx")
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    record = json.loads(next(e.value for e in proto.metadata_props if e.key == METADATA_KEY))
    assert record["method"] == "grad-cam"
    assert record["layer"] == "features"
    assert record["upsampled"] is True
    assert record["onnxvis"] == onnxvis.__version__
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(OutputError):
        Embedded(proto, record, ()).save(path / "below" / "a-file.onnx")


_FIVE_LINES = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnxvis", "torch", "onnx"):
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Blocker())

import numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1])
x = np.load(sys.argv[2])
logits, cam, who = session.run(["logits", "explanation", "explained_class"], {"image": x})
np.savez(sys.argv[3], logits=logits, cam=cam, who=who)
"""


def test_five_lines_with_onnxruntime_and_numpy_alone(tmp_path: Path) -> None:
    path = embed(onnxvis.load(NET.model()), upsample=True).save(tmp_path / "explained.onnx")
    np.save(tmp_path / "x.npy", X)
    arguments = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", _FIVE_LINES, *arguments], check=True, cwd=tmp_path, capture_output=True)
    found = np.load(tmp_path / "out.npz")
    close(found["logits"], NET.reference(X), 1e-5)
    for row in range(3):
        close(found["cam"][row], NET.grad_cam(X[row : row + 1], int(found["who"][row]))[0], 1e-5)


def test_the_command(tmp_path: Path) -> None:
    from onnxvis.cli.app import app

    source, target = tmp_path / "net.onnx", tmp_path / "explained.onnx"
    source.write_bytes(NET.model().SerializeToString())
    arguments = ["embed", str(source), "--method", "layer-cam", "--layer", "features", "--out"]
    done = CliRunner().invoke(app, [*arguments, str(target)])
    assert done.exit_code == 0, done.output
    assert "keep their bits" in done.output
    assert run(target, {"image": X})["explanation"].shape == (3, 32, 32)
    refused = CliRunner().invoke(app, [*arguments, str(source)])
    assert isinstance(refused.exception, UsageError)
    assert source.read_bytes() == NET.model().SerializeToString()
