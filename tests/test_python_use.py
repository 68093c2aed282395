"""What is passed from Python: types that people have at hand, wrong ones, copies, other processes."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.formats import convnet

import onnxvis
from onnxvis.cli import main
from onnxvis.errors import ModelError, OnnxvisError, PictureError, UsageError

RNG = np.random.default_rng(3)
X = RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)
PICTURE = RNG.integers(0, 256, (20, 24, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> onnxvis.Model:
    return onnxvis.load(convnet(size=16), preprocessing="unit")


def test_a_torch_tensor_counts_as_the_array_that_it_holds(model: onnxvis.Model) -> None:
    for tensor, array in ((torch.from_numpy(X), X), (torch.from_numpy(PICTURE), PICTURE)):
        found, wanted = (onnxvis.explain(model, given).attribution for given in (tensor, array))
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(PictureError, match="Tensor cannot be read as an array"):
        onnxvis.explain(model, torch.from_numpy(X).requires_grad_())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied_and_sent_to_another_process(again: Any) -> None:
    model = onnxvis.load(convnet(size=16), preprocessing="unit", labels=["a", "b"], gradients="onnx")
    wanted = onnxvis.explain(model, PICTURE)
    other = again(model)
    found = onnxvis.explain(other, PICTURE)
    np.testing.assert_array_equal(found.attribution, wanted.attribution)
    assert (other.labels, other.preprocessing, other.sha256) == (model.labels, model.preprocessing, model.sha256)
    assert found.parity is not None
    assert "onnx" in found.parity.sentence()


def test_threads_share_a_model(model: onnxvis.Model) -> None:
    wanted = {name: onnxvis.explain(model, PICTURE, method=name).attribution for name in ("grad-cam", "saliency")}
    fresh, found = onnxvis.load(convnet(size=16), preprocessing="unit"), []

    def work(name: str) -> None:
        found.append((name, onnxvis.explain(fresh, PICTURE, method=name).attribution))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("grad-cam", "saliency") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    for name, values in found:
        np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "wrong", [{"method": None}, {"method": ["cam"]}, {"layer": 5}, {"batch_size": 2.5}, {"batch_size": "8"}]
)
def test_wrong_types_are_named(model: onnxvis.Model, wrong: dict[str, Any]) -> None:
    with pytest.raises(OnnxvisError, match=r"not|by"):
        onnxvis.explain(model, PICTURE, **wrong)


def test_what_is_no_model() -> None:
    for wrong in (None, 5, object()):
        with pytest.raises(ModelError, match="is not a model"):
            onnxvis.load(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="name: array"):
        onnxvis.load(convnet(size=16), inputs=5)  # type: ignore[arg-type]


def test_a_float_picture_and_a_batch_are_told_what_to_do(model: onnxvis.Model) -> None:
    with pytest.raises(PictureError, match=r"\(H, W, C\) of uint8"):
        onnxvis.explain(model, PICTURE / 255)
    with pytest.raises(PictureError, match="several: a list"):
        onnxvis.explain(model, np.concatenate([X, X]))


def test_labels_that_do_not_fit_the_classes_are_remarked(
    model: onnxvis.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = len(model.predict(PICTURE, top=1000).top)  # type: ignore[union-attr]
    names = [f"thing {i}" for i in range(classes)]
    fitting = onnxvis.load(convnet(size=16), preprocessing="unit", labels=names)
    assert fitting.labels_note == ""
    assert not any("labels" in note for note in onnxvis.explain(fitting, PICTURE).notes)
    more = onnxvis.load(convnet(size=16), preprocessing="unit", labels=["background", *names])
    assert f"{classes + 1} classes and the model has {classes}: one of them may lack" in more.labels_note
    assert more.labels_note in onnxvis.explain(more, PICTURE).notes
    (tmp_path / "labels.txt").write_text("\n".join([*names, "more", "and more"]))
    (tmp_path / "m.onnx").write_bytes(convnet(size=16).SerializeToString())
    assert main(["inspect", str(tmp_path / "m.onnx"), "--layers", "1"]) == 0
    assert f"the labels name {classes + 2} classes and the model has {classes};" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("occlusion", "score", np.zeros(3)),
        ("score-cam", "mask", ["input"]),
        ("integrated-gradients", "quadrature", None),
        ("integrated-gradients", "steps", 10**12),
        ("rise", "cells", 10**12),
    ],
)
def test_an_option_of_the_wrong_kind_or_size_is_named(
    model: onnxvis.Model, method: str, option: str, value: Any
) -> None:
    with pytest.raises(UsageError, match=f"{method} {option} is "):
        onnxvis.explain(model, PICTURE, method=method, **{option: value})


def test_a_network_of_tables_is_refused_in_words() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] row) => (float[N, 2] scores)
        <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { scores = MatMul(row, w) }"""
    )
    with pytest.raises(ModelError, match="is no picture"):
        onnxvis.explain(onnxvis.load(model, preprocessing="unit"), PICTURE)
