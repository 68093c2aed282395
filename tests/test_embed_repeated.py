"""Explanations in the file that run the network many times, and those that are made only on request."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support import zoo
from support.nets import SmallNet, noise

import onnxvis
from onnxvis.embedding import REPEATED, Embedded, embed
from onnxvis.errors import UsageError

NET = SmallNet()
X = noise(3, 3, 32, 32)
Array = np.ndarray[Any, Any]
OPTIONS: dict[str, dict[str, Any]] = {"integrated-gradients": {"steps": 12, "baseline": 0.25}, "score-cam": {}}


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, **feeds: Array) -> dict[str, Array]:
    opened = session(model)
    return dict(zip([value.name for value in opened.get_outputs()], opened.run(None, feeds), strict=True))


def classes(*values: int) -> Array:
    return np.array(values, np.int64)


def close(found: Array, expected: Array, tolerance: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float64) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("method", REPEATED)
def test_the_map_is_that_of_explain(method: str, always: bool) -> None:
    model = onnxvis.load(NET.model())
    embedded = embed(model, method, on_request=not always, upsample=method == "score-cam", **OPTIONS[method])
    found = run(embedded.proto, image=X, class_index=classes(4, 0, 2))
    np.testing.assert_array_equal(found["logits"], run(model.file.proto, image=X)["logits"])
    for row, target in enumerate((4, 0, 2)):
        expected = onnxvis.explain(model, X[row : row + 1], method, target, **OPTIONS[method])
        close(found["explanation"][row], expected.attribution, 2e-6)
    if not always:
        top = run(embedded.proto, image=X, class_index=classes(-1))
        np.testing.assert_array_equal(top["explained_class"], top["logits"].argmax(axis=1))


def test_integrated_gradients_in_the_file_are_complete() -> None:
    model = onnxvis.load(NET.model())
    proto = embed(model, "integrated-gradients", steps=64, baseline=-0.5).proto
    found = run(proto, image=X, class_index=classes(1))
    low = run(model.file.proto, image=np.full_like(X[:1], -0.5))["logits"][0, 1]
    np.testing.assert_allclose(found["explanation"].sum(axis=(1, 2, 3)), found["logits"][:, 1] - low, rtol=2e-2)


def test_score_cam_by_its_definition_in_float64() -> None:
    found = run(embed(onnxvis.load(NET.model()), "score-cam").proto, image=X[:1], class_index=classes(2))
    activation = NET.features(X[:1])[0].astype(np.float64)
    low, high = (f(activation, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    masks = (activation - low) / (high - low)
    scores = np.array([NET.reference((X[:1] * mask).astype(np.float32))[0, 2] for mask in masks])
    rise = scores - NET.reference(np.zeros_like(X[:1]))[0, 2]
    weights = np.exp(rise - rise.max()) / np.exp(rise - rise.max()).sum()
    close(found["explanation"][0], np.einsum("k,khw->hw", weights, activation), 1e-5)


def test_channels_last_and_whole_numbers() -> None:
    before = [helper.make_node("Transpose", ["image"], ["x"], "t", perm=[0, 3, 1, 2])]
    model = onnxvis.load(NET.model(["N", 24, 40, 3], before=before))
    x = noise(2, 24, 40, 3)
    found = run(embed(model, "score-cam", upsample=True).proto, image=x, class_index=classes(2))
    close(found["explanation"][0], onnxvis.explain(model, x[:1], "score-cam", 2).attribution, 1e-5)
    found = run(embed(model, "integrated-gradients", steps=5).proto, image=x, class_index=classes(2))
    expected = onnxvis.explain(model, x[:1], "integrated-gradients", 2, steps=5).attribution
    close(found["explanation"][0], expected.transpose(1, 2, 0), 1e-5)

    before = [helper.make_node("Cast", ["image"], ["x"], "c", to=TensorProto.FLOAT)]
    proto = NET.model(before=before)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model = onnxvis.load(proto, preprocessing="none")
    whole = np.random.default_rng(0).integers(0, 9, (32, 32, 3), np.uint8)
    found = run(embed(model, "score-cam").proto, image=whole.transpose(2, 0, 1)[None], class_index=classes(2))
    close(found["explanation"][0], onnxvis.explain(model, whole, "score-cam", 2).attribution, 1e-5)


# --- on request --------------------------------------------------------------------------------------


def own_part(embedded: Embedded, source: onnx.ModelProto) -> list[bytes]:
    return [node.SerializeToString() for node in embedded.proto.graph.node[: len(source.graph.node)]]


@pytest.mark.parametrize("method", ["grad-cam", "saliency", "integrated-gradients"])
def test_nothing_is_computed_until_a_class_is_asked_for(method: str) -> None:
    source = NET.model()
    embedded = embed(onnxvis.load(source), method, on_request=True)
    assert own_part(embedded, source) == [node.SerializeToString() for node in source.graph.node]
    made = {name for node in source.graph.node for name in node.output}
    after = embedded.proto.graph.node[len(source.graph.node) :]
    assert not made & {name for node in after for name in node.input}
    idle = run(embedded.proto, image=X)
    assert idle["explanation"].size == 0
    assert idle["explained_class"].size == 0
    asked = run(embedded.proto, image=X, class_index=classes(3))
    np.testing.assert_array_equal(asked["logits"], idle["logits"])
    assert asked["explanation"].shape[0] == 3
    always = run(embed(onnxvis.load(source), method, on_request=False).proto, image=X, class_index=classes(3))
    close(asked["explanation"], always["explanation"], 5e-6)


def test_what_only_the_other_form_of_the_graph_has_is_in_the_branch_too() -> None:
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
    found = run(embed(model, layer="features", on_request=True).proto, image=X[:1], class_index=classes(5))
    close(found["explanation"][0], onnxvis.explain(model, X[:1], "grad-cam", 5, layer="features").attribution, 1e-5)


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_a_quantized_file_keeps_its_bits_on_request(form: Any) -> None:
    from support.formats import convnet, quantized

    model = onnxvis.load(quantized(convnet(), form))
    name = model.image_input.name
    x = noise(*model.example_shape())
    before = run(model.file.proto, **{name: x})
    for method in ("grad-cam", "integrated-gradients"):
        options: dict[str, Any] = {"steps": 3} if method in REPEATED else {}
        after = run(embed(model, method, on_request=True, **options).proto, **{name: x}, class_index=classes(1))
        for output, value in before.items():
            np.testing.assert_array_equal(after[output], value)
        assert np.isfinite(after["explanation"]).all()


def test_score_cam_in_a_file_that_takes_float16() -> None:
    from support.formats import convnet, half

    model = onnxvis.load(half(convnet(), keep_io_types=False))
    x = noise(*model.example_shape()).astype(np.float16)
    assert model.image_input.dtype == "float16"
    found = run(embed(model, "score-cam").proto, **{model.image_input.name: x}, class_index=classes(1))
    wanted = onnxvis.explain(model, x.astype(np.float32), method="score-cam", target=1).layer_map
    assert wanted is not None
    np.testing.assert_allclose(found["explanation"][0], wanted, atol=2e-2 * float(np.abs(wanted).max()))


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_networks_of_both_exporters(name: str, exporter: Any) -> None:
    path = zoo.export(name, exporter, 18 if exporter == "dynamo" else 17, 96, dynamic_batch=True)
    model = onnxvis.load(path)
    x = zoo.image(96, batch=2, seed=1)
    before = run(model.file.proto, **{zoo.INPUT: x})
    after = run(embed(model, "grad-cam", on_request=True).proto, **{zoo.INPUT: x}, class_index=classes(7))
    np.testing.assert_array_equal(after["logits"], before["logits"])
    expected = onnxvis.explain(model, x[:1], "grad-cam", 7, allow_unverified=True).layer_map
    assert expected is not None
    close(after["explanation"][0], expected, 1e-4)  # the branch is another copy, which onnxruntime may fuse otherwise
    after = run(embed(model, "integrated-gradients", steps=12).proto, **{zoo.INPUT: x}, class_index=classes(7))
    np.testing.assert_array_equal(after["logits"], before["logits"])
    expected = onnxvis.explain(
        model, x[:1], "integrated-gradients", 7, steps=12, allow_unverified=True, float64=True
    ).attribution
    a, b = after["explanation"][0].astype(np.float64), expected.astype(np.float64)
    assert (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) > 0.999


def test_the_class_input_may_be_required() -> None:
    proto = embed(onnxvis.load(NET.model()), class_input="required").proto
    assert [value.name for value in session(proto).get_inputs()] == ["image", "class_index"]
    optional = embed(onnxvis.load(NET.model())).proto
    assert [value.name for value in session(optional).get_inputs()] == ["image"]
    with pytest.raises(UsageError, match="optional or required"):
        embed(onnxvis.load(NET.model()), class_input="perhaps")


def test_options_that_do_not_fit_are_refused() -> None:
    model = onnxvis.load(NET.model())
    with pytest.raises(UsageError, match=r"no option 'steps'.*It takes none"):
        embed(model, "grad-cam", steps=3)
    with pytest.raises(UsageError, match=r"no option 'samples'.*baseline, steps, quadrature"):
        embed(model, "integrated-gradients", samples=3)
    with pytest.raises(UsageError, match="baseline of integrated-gradients is a number"):
        embed(model, "integrated-gradients", baseline="blur")
    with pytest.raises(UsageError, match="already as large as the picture"):
        embed(model, "integrated-gradients", upsample=True)
    with pytest.raises(UsageError, match="steps"):
        embed(model, "integrated-gradients", steps=0)
