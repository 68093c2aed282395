"""Batches, layouts, sizes and types: the answer is the one of the images one by one, or a loop, never wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.nets import CLASSES, Array, SmallNet, as_batch, noise
from support.references import relative_error

import onnxvis
from onnxvis.errors import ModelError, PreprocessingError, UsageError

NET = SmallNet()
OCCLUSION = {"window": (9, 12), "stride": (5, 7)}
GAP = helper.make_node("GlobalAveragePool", ["features"], ["gap"], "gap")


def baked(*dims: int, name: str = "shape") -> dict[str, Array]:
    return {name: np.array(dims, np.int64)}


def reshaped(batch: int) -> onnx.ModelProto:
    """The batch size stands in a constant of a Reshape."""
    middle = [GAP, helper.make_node("Reshape", ["gap", "shape"], ["pooled"], "reshape")]
    return NET.model([batch, 3, 32, 32], middle=middle, constants=baked(batch, 8))


def measured(batch: int) -> onnx.ModelProto:
    """The batch size is measured by a Shape node: free in the file, a constant after folding."""
    middle = [
        GAP,
        helper.make_node("Shape", ["gap"], ["dims"], "shape_of"),
        helper.make_node("Gather", ["dims", "first"], ["rows"], "gather"),
        helper.make_node("Concat", ["rows", "rest"], ["shape"], "concat", axis=0),
        helper.make_node("Reshape", ["gap", "shape"], ["pooled"], "reshape"),
    ]
    more = baked(0, name="first") | baked(-1, name="rest")
    return NET.model([batch, 3, 32, 32], middle=middle, constants=more)


def trap(batch: int | str, *, features_out: bool = False) -> onnx.ModelProto:
    """``Reshape [1, 8, -1]`` and a mean: three images give one answer, without an error."""
    middle = [
        helper.make_node("Reshape", ["features", "shape"], ["flat"], "trap"),
        helper.make_node("ReduceMean", ["flat"], ["pooled"], "mean", axes=[2], keepdims=0),
    ]
    model = NET.model([batch, 3, 32, 32], middle=middle, constants=baked(1, 8, -1))
    if features_out:
        model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    return model


def hidden_trap() -> onnx.ModelProto:
    """As the trap, but the pooled values of the images are mixed up: shapes are right, numbers are not."""
    middle = [
        helper.make_node("Reshape", ["features", "shape"], ["flat"], "trap"),
        helper.make_node("Transpose", ["flat"], ["turned"], "turn", perm=[1, 0, 2]),
        helper.make_node("Reshape", ["turned", "back"], ["again"], "untrap"),
        helper.make_node("ReduceMean", ["again"], ["pooled"], "mean", axes=[2], keepdims=0),
    ]
    more = baked(8, -1, 1024) | baked(-1, 8, 1024, name="back")
    return NET.model([1, 3, 32, 32], middle=middle, constants=more)


BATCHES: dict[str, tuple[onnx.ModelProto, str]] = {
    "free": (NET.model(), "free"),
    "fixed 1": (NET.model([1, 3, 32, 32]), "freed"),
    "fixed 4": (NET.model([4, 3, 32, 32]), "freed"),
    "reshape 1": (reshaped(1), "repaired or looped"),
    "reshape 4": (reshaped(4), "repaired or looped"),
    "shape 1": (measured(1), "freed"),
    "shape 4": (measured(4), "freed"),
    "trap": (trap(1), "repaired or looped"),
    "trap, declared free": (trap("N"), "repaired or looped"),
    "trap, two outputs": (trap(1, features_out=True), "repaired or looped"),
    "hidden trap": (hidden_trap(), "repaired or looped"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_give_what_images_give(name: str) -> None:
    proto, kind = BATCHES[name]
    images = as_batch(5, 3, 32, 32)
    x = np.concatenate(images)
    targets = [4, 0, 1, 2, 3]
    model = onnxvis.load(proto, output="logits")
    cams = onnxvis.explain(model, images, "grad-cam", targets, float64=True, batch_size=4)
    expected = [NET.grad_cam(x, t)[i] for i, t in enumerate(targets)]
    if name != "hidden trap":  # whose logits are not the network's, even for one image
        for cam, layer_map, logits, target in zip(cams, expected, NET.reference(x), targets, strict=True):
            assert relative_error(cam.layer_map, layer_map) < 1e-6
            assert cam.score == pytest.approx(logits[target], abs=1e-5)
    plan = model.engine.batch_plan(images[0]).kind
    assert plan in kind.split(" or ")
    single = onnxvis.load(proto, output="logits")
    for method, options in (("grad-cam", {}), ("saliency", {}), ("occlusion", OCCLUSION)):
        found = onnxvis.explain(model, images, method, targets, batch_size=4, **options)
        assert all(one.parity is None or one.parity.passed for one in found)
        for image, target, one in zip(images, targets, found, strict=True):
            alone = onnxvis.explain(single, image, method, target, **options)
            assert relative_error(one.attribution, alone.attribution) < 2e-5
            assert one.score == pytest.approx(alone.score, abs=1e-5)
    note = " ".join(onnxvis.explain(model, images[0], "occlusion", 0).notes)
    assert ("one by one" in note) == (plan == "looped")


@pytest.mark.parametrize("layer", [None, "conv"])
def test_a_single_image_never_meets_the_trap(layer: str | None) -> None:
    """The finite differences run two points at once: they must not share a batch on such a file."""
    cam = onnxvis.explain(onnxvis.load(trap(1)), noise(1, 3, 32, 32), "grad-cam", 2, layer=layer)
    assert cam.parity.gradient.error < 0.03


def nhwc() -> onnx.ModelProto:
    turn = helper.make_node("Transpose", ["image"], ["x"], "turn", perm=[0, 3, 1, 2])
    return NET.model(["N", 32, 32, 3], before=[turn])


def test_channels_last() -> None:
    x = noise(2, 3, 32, 32)
    last, first = onnxvis.load(nhwc()), onnxvis.load(NET.model())
    assert (last.layout, first.layout) == ("NHWC", "NCHW")
    for method, options in (("grad-cam", {}), ("saliency", {}), ("occlusion", OCCLUSION | {"baseline": "mean"})):
        turned = [one[None] for one in np.moveaxis(x, 1, -1)]
        found = onnxvis.explain(last, turned, method, 1, **options)
        expected = onnxvis.explain(first, [one[None] for one in x], method, 1, **options)
        for a, b in zip(found, expected, strict=True):
            assert a.attribution.shape == b.attribution.shape
            assert relative_error(a.attribution, b.attribution) < 1e-5


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_any_number_of_channels(channels: int) -> None:
    net = SmallNet(channels)
    model, x = onnxvis.load(net.model(["N", channels, 32, 32])), noise(1, channels, 32, 32)
    cam = onnxvis.explain(model, x, "grad-cam", 2, float64=True)
    assert relative_error(cam.layer_map, net.grad_cam(x, 2)[0]) < 1e-6
    saliency = onnxvis.explain(model, x, "saliency", 2, float64=True)
    assert saliency.attribution.shape == (channels, 32, 32)
    probe = x.astype(np.float64)
    probe[0, channels - 1, 7, 9] += 1e-6
    change = (net.reference(probe) - net.reference(x))[0, 2] / 1e-6
    assert saliency.attribution[channels - 1, 7, 9] == pytest.approx(change, rel=1e-3, abs=1e-7)
    occlusion = onnxvis.explain(model, x, "occlusion", 2, window=32)
    drop = (net.reference(x) - net.reference(np.zeros_like(x)))[0, 2]
    np.testing.assert_allclose(occlusion.attribution, drop, atol=1e-5)
    for one in (cam, saliency, occlusion):
        assert one.overlay().size == (32, 32)


@pytest.mark.parametrize("size", [(32, 32), (41, 27), (9, 64)])
def test_free_height_and_width(size: tuple[int, int]) -> None:
    model, x = onnxvis.load(NET.model(["N", 3, "H", "W"])), noise(1, 3, *size)
    cam = onnxvis.explain(model, x, "grad-cam", 5, float64=True)
    assert relative_error(cam.layer_map, NET.grad_cam(x, 5)[0]) < 1e-6
    assert cam.attribution.shape == size


@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid", "LogSoftmax"])
def test_the_logit_is_explained(activation: str) -> None:
    node = helper.make_node(activation, ["logits"], ["p"], "last")
    model, x = onnxvis.load(NET.model(after=[node], output="p")), noise(1, 3, 32, 32)
    assert model.logits.tensor == "logits"
    cam = onnxvis.explain(model, x, "grad-cam", 2, float64=True)
    assert cam.score == pytest.approx(NET.reference(x)[0, 2], abs=1e-5)
    assert relative_error(cam.layer_map, NET.grad_cam(x, 2)[0]) < 1e-6
    top = model.predict(x).top[0]
    logits = NET.reference(x)[0]
    softmax = np.exp(logits) / np.exp(logits).sum()
    expected = 1 / (1 + np.exp(-logits)) if activation == "Sigmoid" else softmax
    assert top.index == logits.argmax()
    assert top.probability == pytest.approx(expected.max(), abs=1e-5)


def with_type(kind: int) -> onnx.ModelProto:
    before = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "range"], ["x"], "div"),
    ]
    constants = {"range": np.float32(255)}
    return NET.model(before=before, kind=kind, constants=constants)


def test_a_whole_number_input() -> None:
    model = onnxvis.load(with_type(TensorProto.UINT8), preprocessing={"resize": "none", "layout": "NCHW"})
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    x = picture.transpose(2, 0, 1)[None] / 255.0
    cam = onnxvis.explain(model, picture, "grad-cam", 3, float64=True)
    assert relative_error(cam.layer_map, NET.grad_cam(x, 3)[0]) < 1e-6
    scaled = onnxvis.explain(onnxvis.load(NET.model()), x.astype(np.float32), "saliency", 3, float64=True)
    saliency = onnxvis.explain(model, picture, "saliency", 3, float64=True)
    assert relative_error(saliency.attribution, scaled.attribution / 255) < 1e-5
    drop = NET.reference(x) - NET.reference(np.full_like(x, 128 / 255))
    found = onnxvis.explain(model, picture, "occlusion", 3, window=32, baseline=127.6)
    np.testing.assert_allclose(found.attribution, drop[0, 3], atol=1e-5)
    with pytest.raises(UsageError, match="0 to 255"):
        onnxvis.explain(model, picture, "occlusion", 3, baseline=-1)


def test_a_half_precision_input() -> None:
    x = noise(1, 3, 32, 32).astype(np.float16)
    model = onnxvis.load(with_type(TensorProto.FLOAT16))
    exact = x.astype(np.float64) / 255
    cam = onnxvis.explain(model, x, "grad-cam", 3, float64=True)
    assert relative_error(cam.layer_map, NET.grad_cam(exact, 3)[0]) < 1e-5
    assert onnxvis.explain(model, x, "saliency", 3).attribution.any()


@pytest.mark.parametrize("gain", [2.0, np.float32(2), np.array(2.0), np.array(2, np.int64)], ids=repr)
def test_several_inputs(gain: Any) -> None:
    more = [helper.make_tensor_value_info("gain", TensorProto.FLOAT, [])]
    proto = NET.model(before=[helper.make_node("Mul", ["image", "gain"], ["x"], "mul")], more_inputs=more)
    images = as_batch(2, 3, 32, 32)
    model = onnxvis.load(proto, inputs={"gain": gain})
    assert model.image_input.name == "image"
    for image, cam in zip(images, onnxvis.explain(model, images, "grad-cam", 1, float64=True), strict=True):
        assert relative_error(cam.layer_map, NET.grad_cam(2 * image, 1)[0]) < 1e-6
    saliency = onnxvis.explain(model, images[0], "saliency", 1)
    assert saliency.parity.passed
    with pytest.raises(ModelError, match="gain"):
        onnxvis.load(proto)
    with pytest.raises(ModelError, match="no input 'zoom'"):
        onnxvis.load(proto, inputs={"zoom": 1.0})
    with pytest.raises(ModelError, match="does not fit"):
        onnxvis.load(proto, inputs={"gain": "loud"})


def test_an_ambiguous_layout_is_refused() -> None:
    net = SmallNet(13)
    turn = helper.make_node("Transpose", ["image"], ["x"], "turn", perm=[0, 3, 1, 2])
    proto = net.model(["N", 32, 32, 13], before=[turn])
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 13)).astype(np.uint8)
    with pytest.raises(PreprocessingError, match="layout"):
        onnxvis.explain(onnxvis.load(proto, preprocessing={"resize": "none"}), picture)
    model = onnxvis.load(proto, preprocessing={"resize": "none", "layout": "NHWC", "scale": 1 / 255})
    cam = onnxvis.explain(model, picture, "grad-cam", 0, float64=True)
    expected = net.grad_cam(picture.transpose(2, 0, 1)[None] / 255, 0)[0]
    assert relative_error(cam.layer_map, expected) < 1e-5
    assert len(model.predict(picture, top=9).top) == CLASSES
