"""Reading attention out of a file: by its metadata, by its structure, for any target."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from support.scouter import CLASSES, classifier, digits, opened, untrained

import onnxvis
from onnxvis.behaviour.scouter import HeadSettings, evaluate
from onnxvis.check import check
from onnxvis.cli.console import run as run_cli
from onnxvis.errors import ModelError, TargetError, UsageError
from onnxvis.explanation import Explanation
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.labels import Labels
from onnxvis.methods.scouter import METADATA_KEY, find_slot_attention
from onnxvis.model import Model
from onnxvis.target import is_several, resolve

Array = np.ndarray[Any, Any]
FORMS = {
    "positive": HeadSettings(dim=16),
    "negative": HeadSettings("negative", dim=16),
    "two slots": HeadSettings("negative", slots=2, dim=16, normalize=True, key_layers=2),
}
DIGIT = np.asarray(digits().pictures[7])


def answers(proto: onnx.ModelProto) -> tuple[Array, Array]:
    """Logits ``(K,)`` and attention ``(K, h, w)`` of the digit, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    x = (DIGIT.astype(np.float64) / 255).astype(np.float32)[None, None]
    logits, attention = session.run(["logits", "attention"], {"image": x})
    return logits[0].astype(np.float64), attention[0].astype(np.float64)


def explained(model: Model, target: Any, **options: Any) -> Explanation:
    found = onnxvis.explain(model, DIGIT, "scouter", target, **options)
    assert isinstance(found, Explanation)
    return found


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("by", ["metadata", "structure"])
def test_the_map_is_the_files_own_attention(name: str, by: str) -> None:
    proto, sign = untrained(FORMS[name]), FORMS[name].sign
    logits, attention = answers(proto)
    if by == "structure":
        del proto.metadata_props[:]
        model = onnxvis.load(proto, preprocessing={"scale": 1 / 255, "channel_order": "gray"}, provider="cpu")
    else:
        model = onnxvis.load(proto, provider="cpu")
    for index in range(3):
        found = explained(model, index, map="attention")
        assert found.layer_map is not None
        assert np.allclose(found.layer_map, sign * attention[index], rtol=1e-5, atol=1e-6)
        assert np.array_equal(found.attribution, upsample_bilinear(found.layer_map, (16, 16)))
        assert found.score == pytest.approx(logits[index], rel=1e-5)
        assert found.signed == (sign < 0)
        assert any(f"recognized by {'its metadata' if by == 'metadata' else 'structure'}" in n for n in found.notes)


@pytest.mark.parametrize("name", FORMS)
def test_areas_are_those_of_the_files_attention(name: str) -> None:
    samples = digits(12)
    model = onnxvis.load(untrained(FORMS[name]), provider="cpu")
    found = evaluate(model, samples)
    x = np.stack([np.asarray(p, np.float32)[None] / np.float32(255) for p in samples.pictures])
    session = onnxruntime.InferenceSession(untrained(FORMS[name]).SerializeToString())
    logits, attention = session.run(["logits", "attention"], {"image": x})
    areas = attention.astype(np.float64).mean(axis=(2, 3)) / FORMS[name].slots
    rows = np.arange(12)
    assert found.area_all == pytest.approx(areas.mean(), rel=1e-5)
    assert found.area_label == pytest.approx(areas[rows, samples.labels].mean(), rel=1e-5)
    assert found.area_predicted == pytest.approx(areas[rows, logits.argmax(1)].mean(), rel=1e-5)
    assert found.area_least == pytest.approx(areas[rows, logits.argmin(1)].mean(), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == samples.labels).mean())


@pytest.mark.parametrize("name", FORMS)
def test_contributions_sum_to_the_score(name: str) -> None:
    model = onnxvis.load(untrained(FORMS[name]), provider="cpu")
    for target in (0, "least", "top1 - least", "zero - two"):
        found = explained(model, target)  # what is shown where nothing is asked for
        assert np.array_equal(found.attribution, explained(model, target, map="contribution").attribution)
        assert found.layer_map is not None
        assert float(found.layer_map.astype(np.float64).sum()) == pytest.approx(found.score, rel=1e-4, abs=1e-6)
        assert found.units == "contribution to the logit"


def test_a_contrast_is_the_difference_of_two_maps() -> None:
    proto = untrained(FORMS["positive"])
    _, attention = answers(proto)
    found = explained(onnxvis.load(proto, provider="cpu"), "two - zero", map="attention")
    assert found.layer_map is not None
    assert np.allclose(found.layer_map, attention[2] - attention[0], atol=1e-6)
    assert found.signed


def test_least_is_the_class_with_the_lowest_logit() -> None:
    logits, labels = np.array([0.5, -2.0, 3.0, 1.0]), Labels(("a", "b", "c", "d"), "given")
    assert [s.index for s in resolve("least", logits, labels)] == [1]
    assert [s.index for s in resolve("least1", logits, labels)] == [1]
    assert [s.index for s in resolve("LEAST-3", logits, labels)] == [1, 0, 3]
    contrast = resolve("top1 - least2", logits, labels)[0]
    assert (contrast.name, contrast.cotangent.tolist()) == ("c - a", [-1, 0, 1, 0])
    assert not is_several("least")
    assert not is_several("least1")
    assert is_several("least2")
    with pytest.raises(TargetError, match="asks for 5 classes"):
        resolve("least5", logits, labels)


def plain_attention(attention_output: bool = True) -> onnx.ModelProto:
    """Somebody else's attention classifier: the image (1, 2, 3, 4) is the features, and each of 3 classes has a row."""
    chance = np.random.default_rng(2)
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["f"]),
        helper.make_node("MatMul", ["q", "f"], ["products"]),
        helper.make_node("Sigmoid", ["products"], ["a"]),
        helper.make_node("Transpose", ["f"], ["ft"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "ft"], ["u"]),
        helper.make_node("Sigmoid", ["u"], ["gate"]),
        helper.make_node("Mul", ["u", "gate"], ["gated"]),
        helper.make_node("ReduceSum", ["gated", "last"], ["scores"], keepdims=0),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    arrays = {
        "flat": np.array([0, 2, 12], np.int64),
        "q": chance.standard_normal((3, 2)).astype(np.float32),
        "last": np.array([2], np.int64),
    }
    kind = onnx.TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info("probabilities", kind, [1, 3])]
    if attention_output:
        outputs.append(helper.make_tensor_value_info("a", kind, [1, 3, 12]))
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("image", kind, [1, 2, 3, 4])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("attention_output", [True, False])
def test_attention_of_other_makers_is_found(attention_output: bool) -> None:
    proto = plain_attention(attention_output)
    model = onnxvis.load(proto, provider="cpu", output="probabilities")
    found = find_slot_attention(model)
    assert (found.attention, found.classes, found.rows, found.columns, found.sign) == ("a", 3, 3, 4, 0)
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    weights = numpy_helper.to_array(proto.graph.initializer[1]).astype(np.float64)
    expected = 1 / (1 + np.exp(-weights @ x.reshape(2, 12)))
    shown = onnxvis.explain(model, x, "scouter", 1)
    assert isinstance(shown, Explanation)
    assert shown.layer_map is not None
    assert np.allclose(shown.layer_map, expected[1].reshape(3, 4), rtol=1e-5)
    with pytest.raises(UsageError, match="which features are attended"):
        onnxvis.explain(model, x, "scouter", 1, map="contribution")


class TorchSlots(torch.nn.Module):
    """A slot classifier as its makers would write it: einsum, a recurrent layer, log-softmax, two slots per class."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.nn.ReLU())
        self.first = torch.nn.Parameter(torch.randn(1, 8, 16))
        self.keys, self.update = torch.nn.Linear(16, 16), torch.nn.GRU(16, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = self.features(x).flatten(2).transpose(1, 2)
        keys, slots = self.keys(values), self.first.expand(len(x), -1, -1)
        for _ in range(2):
            attention = torch.sigmoid(torch.einsum("bid,bjd->bij", slots, keys) / 4)
            attended = torch.einsum("bjd,bij->bid", values, attention) / 16
            slots = self.update(attended.reshape(1, -1, 16), slots.reshape(1, -1, 16))[0].reshape(len(x), -1, 16)
        return torch.log_softmax(-attended.sum(2).view(-1, 4, 2).sum(2), 1), attention


def test_a_torch_export_with_a_recurrent_layer_is_recognized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = TorchSlots().eval(), torch.randn(1, 3, 16, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), str(tmp_path / "o.onnx"), dynamo=False, opset_version=17, input_names=["image"],
            output_names=["y", "extra"],
        )  # fmt: skip
    proto = onnx.load(tmp_path / "o.onnx")
    del proto.graph.output[1]  # the attention is not an output
    shown = onnxvis.explain(onnxvis.load(proto, provider="cpu"), x.numpy(), "scouter", 2)
    assert isinstance(shown, Explanation)
    assert shown.layer_map is not None
    expected = net(x)[1].detach().numpy()[0].reshape(4, 2, 8, 10).sum(1)
    assert np.allclose(shown.layer_map, -expected[2], atol=1e-5)
    assert any("e is -1 because no logit is above 0" in note for note in shown.notes)


def test_an_ordinary_classifier_is_refused_before_it_runs() -> None:
    with pytest.raises(ModelError, match="carries no slot attention"):
        onnxvis.explain(opened(classifier()), DIGIT, "scouter")
    assert {t.method: t.works for t in check(opened(classifier())).methods}["scouter"] is False


@pytest.mark.parametrize(
    ("change", "word"),
    [(lambda text: "{", "damaged"), (lambda text: text.replace("scouter/values", "elsewhere"), "does not have")],
)
def test_damaged_metadata_are_an_error(change: Any, word: str) -> None:
    proto = untrained(FORMS["positive"])
    entry = next(e for e in proto.metadata_props if e.key == METADATA_KEY)
    entry.value = change(entry.value)
    with pytest.raises(ModelError, match=word):
        explained(onnxvis.load(proto, provider="cpu"), 0)


def test_other_methods_work_on_the_file_too() -> None:
    model = onnxvis.load(untrained(FORMS["positive"]), provider="cpu")
    found = onnxvis.explain(model, DIGIT, "saliency", "one")
    assert isinstance(found, Explanation)
    assert found.parity is not None
    assert found.parity.passed
    assert np.abs(found.attribution).max() > 0
    assert model.labels.names == CLASSES


def test_the_command_says_what_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    onnx.save(untrained(FORMS["negative"]), tmp_path / "s.onnx")
    Image.fromarray(DIGIT).save(tmp_path / "d.png")
    told = ["explain", str(tmp_path / "s.onnx"), str(tmp_path / "d.png"), "-m", "scouter", "-t", "top1", "-t", "least2"]
    assert run_cli([*told, "-o", str(tmp_path / "o"), "--quiet"]) == 0
    maps = sorted(p.parent.name for p in (tmp_path / "o").rglob("attribution.npy"))
    assert maps == sorted(CLASSES)
    assert all(np.load(p).max() <= 0 for p in (tmp_path / "o").rglob("attribution.npy"))
