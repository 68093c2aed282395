"""`onnxvis check` tries everything on the file and says what it found."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from support.formats import convnet, saved_by_onnxruntime

import onnxvis
from onnxvis.check import check
from onnxvis.methods import method_names
from onnxvis.preprocessing import Prepared

ONLY_FOR_OTHER_FILES = ["scouter"]
"""Methods that read what an ordinary classifier does not have."""


@pytest.fixture(scope="module")
def model() -> onnxvis.Model:
    return onnxvis.load(convnet(size=16))


def test_every_method_is_tried_and_the_report_is_plain_data(model: onnxvis.Model) -> None:
    report = check(model)
    assert [trial.method for trial in report.methods] == list(method_names())
    assert report.usable
    assert [t.method for t in report.methods if not t.works] == ONLY_FOR_OTHER_FILES
    data = json.loads(json.dumps(report.to_dict()))
    assert data["model"]["sha256"] == model.sha256
    assert {f["name"]: f["ok"] for f in data["findings"]}["torch conversion"] is True


def test_a_real_input_is_named(model: onnxvis.Model) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    report = check(model, Prepared.from_array(x, model.image_input.shape))
    assert report.findings[0].value == "<array>"


def test_what_does_not_work_says_why_and_the_rest_still_runs() -> None:
    blocked = saved_by_onnxruntime(convnet(size=16), "ALL")
    if not any(node.domain.startswith("com.microsoft.nchwc") for node in blocked.graph.node):
        pytest.skip("onnxruntime on this machine saves no blocked layout")
    report = check(onnxvis.load(blocked))
    trials = {trial.method: trial for trial in report.methods}
    assert not trials["saliency"].works
    assert "ORT_ENABLE_EXTENDED" in trials["saliency"].reason
    assert trials["occlusion"].works
    assert report.usable


def test_a_model_without_a_picture_is_refused() -> None:
    proto = convnet(size=16)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    with pytest.raises(onnxvis.ModelError, match="no input that could take a picture"):
        onnxvis.load(proto)


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_any_declared_batch(batch: int | str) -> None:
    report = check(onnxvis.load(convnet(size=16, batch=batch)))
    assert all(finding.ok is not False for finding in report.findings), report.findings
    assert [t.method for t in report.methods if not t.works] == ONLY_FOR_OTHER_FILES
