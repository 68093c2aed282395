"""Replay sets a model up as it was: the output that was explained, its other inputs, the size of each picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from support.audits import labelled_pictures
from support.formats import convnet

from onnxvis import load
from onnxvis.audit.replay import IDENTICAL, UNREPEATABLE, replay
from onnxvis.audit.report import AuditPlan, audit
from onnxvis.explaining import explain
from onnxvis.explanation import Explanation


def two_heads(path: Path) -> Path:
    """Two heads of ten and of four classes on one trunk; the reasons for both read alike but for the names."""
    model = convnet(size=32, batch="n")
    rng = np.random.default_rng(5)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((4, 8)).astype(np.float32), "w9"))
    model.graph.node.append(helper.make_node("Gemm", ["f", "w9"], ["second"], "fc9", transB=1))
    model.graph.output.append(helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, None))
    onnx.save(model, path)
    return path


def explained(path: Path, folder: Path, **options: Any) -> Path:
    picture = labelled_pictures(folder / "pictures", ("a",), 1) / "a" / "p0.png"
    found = explain(load(path, preprocessing="unit", gradients="onnx", **options), picture, "grad-cam")
    assert isinstance(found, Explanation)
    return found.save(folder / "out") / "manifest.json"


def edited(manifest: Path, change: Any) -> Path:
    data = json.loads(manifest.read_text(encoding="utf-8"))
    change(data)
    manifest.write_text(json.dumps(data), encoding="utf-8")
    return manifest


def texts(path: Path, what: str, **options: Any) -> list[str]:
    return [d.text for r in replay(path, **options).results for d in r.differences if d.what == what]


def test_the_explained_output_is_recorded_and_taken(tmp_path: Path) -> None:
    manifest = explained(two_heads(tmp_path / "m.onnx"), tmp_path, output="second")
    recorded = json.loads(manifest.read_text())["provenance"]["explained"]
    assert (recorded["tensor"], recorded["output"], recorded["kind"]) == ("second", "second", "classifier")
    edited(manifest, lambda m: m.update(explained="worded otherwise by a later version"))
    assert replay(manifest).results[0].outcome == IDENTICAL


def test_a_manifest_of_before_finds_its_output_by_the_reason(tmp_path: Path) -> None:
    manifest = explained(two_heads(tmp_path / "m.onnx"), tmp_path, output="second")
    edited(manifest, lambda m: m["provenance"].pop("explained"))
    assert replay(manifest).results[0].outcome == IDENTICAL
    edited(manifest, lambda m: m.update(explained="no such reason"))
    assert "no output of the model is explained for the recorded reason" in texts(manifest, "output")[0]


def test_another_explained_tensor_is_named(tmp_path: Path) -> None:
    manifest = explained(two_heads(tmp_path / "m.onnx"), tmp_path, output="second")
    onnx.save(convnet(size=32, batch="n"), tmp_path / "single.onnx")
    (text,) = texts(manifest, "output", model=tmp_path / "single.onnx")
    assert text == "'second' was explained then, 'logits' is now, and it has no output 'second'"


def gated(path: Path) -> Path:
    """The logits times a number that is a second input."""
    model = convnet(size=32, batch="n")
    (last,) = (n for n in model.graph.node if n.name == "fc")
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Mul", ["before", "gain"], ["logits"], "gate"))
    model.graph.input.append(helper.make_tensor_value_info("gain", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    return path


def test_values_of_other_inputs_are_recorded_and_given_again(tmp_path: Path) -> None:
    manifest = explained(gated(tmp_path / "m.onnx"), tmp_path, inputs={"gain": np.array([2.5], np.float32)})
    assert json.loads(manifest.read_text())["provenance"]["explained"]["inputs"]["gain"]["values"] == [2.5]
    assert replay(manifest).results[0].outcome == IDENTICAL
    edited(manifest, lambda m: m["provenance"]["explained"]["inputs"]["gain"].pop("values"))
    (result,) = replay(manifest).results
    assert result.outcome == UNREPEATABLE
    assert "the model's input 'gain' was given an array of [1]" in result.differences[0].text


@pytest.mark.parametrize("spec", [{"resize": "none"}, {"resize": "shortest", "resize_to": 24}])
def test_pictures_of_many_sizes_in_a_network_of_free_size(tmp_path: Path, spec: dict[str, Any]) -> None:
    model = convnet(size=32, batch="n")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"free{axis}"
    onnx.save(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for k, size in enumerate(((40, 30), (26, 52), (40, 30))):
        noise = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize(size)
        noise.save(tmp_path / "pictures" / f"{k}.png")
    opened = load(tmp_path / "m.onnx", preprocessing={**spec, "scale": 1 / 255}, gradients="onnx")
    plan = AuditPlan(("grad-cam", "occlusion"), options={"window": 8}, metrics=())
    result = audit(opened, [str(tmp_path / "pictures")], tmp_path / "out", plan)
    assert len({tuple(e["maps"][0]["shape"]) for e in result.data["entries"]}) == 2
    found = replay(tmp_path / "out")
    assert [(r.outcome, r.differences) for r in found.results if r.outcome != IDENTICAL] == []
