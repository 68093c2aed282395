"""What a model says about itself, and files that are not models."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.formats import saved_by_onnxruntime
from support.nets import CLASSES, SmallNet, noise

import onnxvis
from onnxvis.errors import ModelError, PictureError, PreprocessingError

NET = SmallNet()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(NET.model(), path)
    return path


def test_what_it_says(file: Path) -> None:
    model = onnxvis.load(file)
    assert model.name == "net"
    assert model.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.opset == 17
    assert str(model.image_input) == "image float32[N, 3, 32, 32]"
    assert model.layout == "NCHW"
    assert model.logits.tensor == "logits"
    assert model.head.cam_layer == "features"
    assert model.shapes["features"] == (1, 8, 32, 32)
    assert model.layer("relu") == "features"
    assert model.describe()["sha256"] == model.sha256
    assert model.gradient_refusal() is None


def test_predictions_are_those_of_the_network() -> None:
    labels = [f"class {c}" for c in "abcdef"]
    model, x = onnxvis.load(NET.model(), labels=labels), noise(5, 3, 32, 32)
    logits = NET.reference(x)
    for row, answer in zip(logits, model.predict([one[None] for one in x], top=3, batch_size=2), strict=True):
        order = np.argsort(-row)[:3]
        assert [c.index for c in answer.top] == list(order)
        assert [c.label for c in answer.top] == [labels[i] for i in order]
        np.testing.assert_allclose([c.logit for c in answer.top], row[order], atol=1e-5)
        softmax = np.exp(row) / np.exp(row).sum()
        np.testing.assert_allclose([c.probability for c in answer.top], softmax[order], atol=1e-5)
    assert len(model.predict(x[:1], top=99).top) == CLASSES


def test_bytes_path_and_graph_are_the_same_model(file: Path) -> None:
    x = noise(1, 3, 32, 32)
    maps = [
        onnxvis.explain(onnxvis.load(source), x, "grad-cam", 1).attribution
        for source in (file, str(file), file.read_bytes(), onnx.load(file))
    ]
    for other in maps[1:]:
        np.testing.assert_array_equal(maps[0], other)


def test_external_weights(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    onnx.save(onnx.load(file), folder / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    x = noise(2, 3, 32, 32)
    for method in ("grad-cam", "saliency", "occlusion"):
        whole, split = (
            onnxvis.explain(onnxvis.load(p), [one[None] for one in x], method, 1) for p in (file, folder / "net.onnx")
        )
        for a, b in zip(whole, split, strict=True):
            np.testing.assert_allclose(a.attribution, b.attribution, atol=1e-6)
    model = onnxvis.load(folder / "net.onnx")
    digest = hashlib.sha256((folder / "w.bin").read_bytes()).hexdigest()
    assert model.describe()["external_data"] == {"w.bin": digest}
    data = (folder / "w.bin").read_bytes()
    (folder / "w.bin").write_bytes(data[:-1])
    with pytest.raises(ModelError, match="too short"):
        onnxvis.load(folder / "net.onnx")
    (folder / "w.bin").unlink()
    with pytest.raises(ModelError, match="missing"):
        onnxvis.load(folder / "net.onnx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x80\x02pickle", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"not a model at all", "not an ONNX model"),
        (b"\x08\x00\x00\x00ORTM", "onnxruntime's own"),
    ],
)
def test_files_that_are_not_models(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        onnxvis.load(path)


def test_a_truncated_file_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for part in (0.1, 0.5, 0.9, 0.999):
        with pytest.raises(ModelError):
            onnxvis.load(data[: int(part * len(data))]).predict(noise(1, 3, 32, 32))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        onnxvis.load(tmp_path / "no.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        onnxvis.load(tmp_path)


def test_weights_that_are_not_numbers() -> None:
    net = SmallNet()
    net.w1[0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match=r"'w1' holds 1 NaN"):
        onnxvis.load(net.model())


def test_nothing_is_guessed(tmp_path: Path) -> None:
    model = onnxvis.load(NET.model())
    with pytest.raises(PreprocessingError, match="does not guess"):
        onnxvis.explain(model, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(PictureError, match="does not fit"):
        onnxvis.explain(model, noise(1, 3, 33, 32))
    with pytest.raises(PictureError, match="NaN"):
        onnxvis.explain(model, np.full((1, 3, 32, 32), np.nan, np.float32))


def test_an_unknown_operator_is_named() -> None:
    node = helper.make_node("Sparkle", ["image"], ["x"], "custom", domain="com.example")
    proto = NET.model(before=[node])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match="Sparkle"):
        onnxvis.load(proto).predict(noise(1, 3, 32, 32))


def test_a_file_that_onnxruntime_optimized_fully() -> None:
    """Blocked layouts have no derivative here, but covering parts of the picture still works."""
    net = SmallNet(width=16)
    proto = saved_by_onnxruntime(net.model([1, 3, 32, 32]), "ALL")
    x = noise(1, 3, 32, 32)
    model = onnxvis.load(proto)
    expected = onnxvis.explain(onnxvis.load(net.model()), x, "occlusion", 1, window=9)
    found = onnxvis.explain(model, x, "occlusion", 1, window=9)
    np.testing.assert_allclose(found.attribution, expected.attribution, atol=1e-5)
    if any(node.domain == "com.microsoft.nchwc" for node in proto.graph.node):
        with pytest.raises(ModelError, match="occlusion"):
            onnxvis.explain(model, x, "saliency", 1)
