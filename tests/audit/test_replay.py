"""Replay finds what it should: the same map again, and every thing that was changed, by its name."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from support.audits import PLAN, labelled_pictures, small_model
from support.formats import convnet

from onnxvis.audit.replay import AGREES, DISAGREES, IDENTICAL, UNREPEATABLE, Replay, replay
from onnxvis.audit.report import audit
from onnxvis.cli import main
from onnxvis.errors import UsageError


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("replay")
    labelled_pictures(root / "pictures")
    plan = dataclasses.replace(PLAN, methods=("grad-cam", "integrated-gradients", "occlusion"), metrics=())
    model = small_model(root)
    audit(model, [str(root / "pictures")], root / "out", plan)
    return root


@pytest.fixture
def copy(report: Path, tmp_path: Path) -> Path:
    """The report, its model and its pictures in a folder of the test's own, the old paths still recorded."""
    return Path(shutil.copytree(report, tmp_path / "copy"))


def differences(found: Replay, what: str) -> list[str]:
    return [d.text for r in found.results for d in r.differences if d.what == what]


def damaged(source: Path, target: Path, name: str = "w2") -> Path:
    """A copy of the model with one number of one weight changed."""
    model = onnx.load(source)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[3] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, target)
    return target


def test_the_same_maps_come_again(report: Path) -> None:
    found = replay(report / "out")
    maps = json.loads((report / "out" / "audit.json").read_text())["entries"]
    assert len(found.results) == found.in_all == sum(len(e["maps"]) for e in maps)
    assert found.agrees
    assert {r.outcome for r in found.results} <= {IDENTICAL, AGREES}
    assert max(r.largest for r in found.results if r.largest is not None) < 1e-4


def test_a_sample_is_part_of_all_and_the_seed_chooses_it(report: Path) -> None:
    first, again, other = (replay(report / "out", sample=3, seed=s) for s in (0, 0, 1))
    assert len(first.results) == 3 < first.in_all
    assert [r.manifest for r in first.results] == [r.manifest for r in again.results]
    assert [r.manifest for r in first.results] != [r.manifest for r in other.results]


def test_one_changed_weight_is_found_and_named(report: Path, tmp_path: Path) -> None:
    wrong = damaged(report / "model.onnx", tmp_path / "copy.onnx")
    found = replay(report / "out", model=wrong)
    assert all(r.outcome == DISAGREES for r in found.results)
    (text,) = set(differences(found, "model"))
    assert "of 6 weight tensors 1 changed (w2)" in text
    assert differences(found, "map")
    assert max(r.largest for r in found.results if r.largest) > 1e-3


def test_a_single_manifest_names_the_weight_while_the_recorded_model_is_there(report: Path, tmp_path: Path) -> None:
    manifest = next((report / "out").rglob("manifest.json"))
    found = replay(manifest, model=damaged(report / "model.onnx", tmp_path / "copy.onnx", "w3"))
    assert "1 changed (w3)" in differences(found, "model")[0]


def test_a_wrong_preprocessing_is_named(report: Path) -> None:
    found = replay(report / "out", sample=4, preprocessing="imagenet")
    assert all(r.outcome == DISAGREES for r in found.results)
    (text,) = set(differences(found, "preprocessing"))
    assert "mean [0.0] became [0.485, 0.456, 0.406]" in text
    assert len(differences(found, "answer")) == 4


def test_a_preprocessing_that_was_changed_beside_the_model_is_named(tmp_path: Path) -> None:
    onnx.save(convnet(size=32), tmp_path / "model.onnx")
    beside = tmp_path / "model.preprocessing.toml"
    beside.write_text("size = 32\nscale = 0.004\n")
    pictures = labelled_pictures(tmp_path / "pictures", ("a",), 1)
    command = ["explain", str(tmp_path / "model.onnx"), str(pictures), "-o", str(tmp_path / "out"), "-q"]
    assert main([*command, "--gradients", "onnx"]) == 0
    assert replay(tmp_path / "out").agrees
    beside.write_text("size = 32\nscale = 0.003\n")
    found = replay(tmp_path / "out")
    assert found.disagrees
    assert "scale 0.004 became 0.003" in differences(found, "preprocessing")[0]
    assert not differences(found, "map"), "the recorded preprocessing still gives the recorded map"


def edit_manifests(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    for path in folder.rglob("manifest.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")


def test_an_edited_manifest_does_not_pass(copy: Path) -> None:
    edit_manifests(copy / "out", lambda m: m["preprocessing"].update(scale=0.005))
    found = replay(copy / "out", sample=2)
    assert found.disagrees
    assert "than the report: scale" in differences(found, "preprocessing")[0]
    assert differences(found, "answer")
    edit_manifests(copy / "out", lambda m: m["map"].update(sha256="0" * 64))
    assert "audit.json" in " ".join(differences(replay(copy / "out", sample=1), "file"))


def test_moved_pictures_and_model_are_found_again(copy: Path, report: Path, tmp_path: Path) -> None:
    def elsewhere(manifest: dict[str, Any]) -> None:
        manifest["picture"]["path"] = "/nowhere/at/all.png"
        manifest["provenance"]["model"]["path"] = "/nowhere/model.onnx"

    edit_manifests(copy / "out", elsewhere)
    found = replay(copy / "out", sample=2)
    assert {r.outcome for r in found.results} == {UNREPEATABLE}
    assert "--model" in differences(found, "run")[0]
    found = replay(copy / "out", sample=2, model=copy / "model.onnx")
    assert "--pictures" in differences(found, "run")[0]
    shutil.move(copy / "pictures", tmp_path / "moved")
    for number, path in enumerate(sorted((tmp_path / "moved").rglob("*.png"))):
        path.rename(path.with_name(f"renamed-{number}.png"))
    found = replay(copy / "out", model=copy / "model.onnx", pictures=tmp_path / "moved")
    assert found.agrees


def test_a_changed_picture_is_named(copy: Path) -> None:
    edit_manifests(
        copy / "out", lambda m: m["picture"].update(path=str(copy / m["picture"]["path"].split("replay0/")[1]))
    )
    for path in (copy / "pictures").rglob("*.png"):
        image = np.asarray(Image.open(path)).copy()
        image[:12, :12] = 255
        Image.fromarray(image).save(path)
    found = replay(copy / "out", sample=3)
    assert all(r.outcome == DISAGREES for r in found.results)
    assert len(differences(found, "picture")) == 3


def test_changed_and_missing_files_are_named(copy: Path) -> None:
    paths = sorted((copy / "out").rglob("attribution.npy"))
    values = np.load(paths[0])
    np.save(paths[0], values * 1.5)
    paths[1].unlink()
    paths[2].write_bytes(b"damaged")
    found = replay(copy / "out")
    texts = " ".join(differences(found, "file"))
    assert "was changed after it was written" in texts
    assert "is missing" in texts
    assert "is damaged" in texts
    assert found.count(DISAGREES) == 3


def test_other_versions_are_stated_but_do_not_disagree(copy: Path) -> None:
    edit_manifests(copy / "out", lambda m: m["provenance"]["versions"].update(onnxruntime="1.0.0"))
    found = replay(copy / "out", sample=1)
    assert found.agrees
    assert "onnxruntime 1.0.0 then" in differences(found, "versions")[0]


def test_every_method_of_explain_can_be_repeated(tmp_path: Path) -> None:
    onnx.save(convnet(size=32, batch="n"), tmp_path / "model.onnx")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {k}" for k in range(10)))
    picture = labelled_pictures(tmp_path / "pictures", ("a",), 1) / "a" / "p0.png"
    command = ["explain", str(tmp_path / "model.onnx"), str(picture), "-m", "all", "--preprocessing", "unit", "-q"]
    command += [
        "--labels",
        str(labels),
        "--gradients",
        "onnx",
        "-t",
        "top1",
        "-t",
        "class 1 - class 2",
        "-O",
        "window=16",
    ]
    command += ["-O", "masks=40", "-O", "steps=8", "-O", "samples=4"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    found = replay(tmp_path / "out", labels=str(labels))
    bad = [(r.title, r.differences) for r in found.results if r.outcome not in (IDENTICAL, AGREES)]
    assert bad == []
    assert len({r.title.split(" of ")[0] for r in found.results}) >= 17


@pytest.mark.parametrize("text", ["", "{", "[]", '{"method": "grad-cam"}', '{"method": 3, "target": null}'])
def test_what_is_no_manifest_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    found = replay(path)
    assert found.results[0].outcome == UNREPEATABLE
    assert found.results[0].differences[0].what == "manifest"


def test_a_tolerance_that_is_no_number_is_refused(report: Path) -> None:
    for wrong in (float("nan"), -1.0):
        with pytest.raises(UsageError, match="tolerance"):
            replay(report / "out", tolerance=wrong)


def test_a_folder_without_manifests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json"):
        replay(tmp_path)


def test_exit_codes(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(report / "out")
    assert main(["replay", out, "--sample", "2", "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["agrees"] is True
    assert main(["replay", out, "--sample", "1", "--preprocessing", "imagenet"]) == 3
    assert main(["replay", out, "--sample", "1", "--model", str(tmp_path / "none.onnx")]) == 2
    assert main(["replay", str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr()
    assert "disagrees" in said.out
    assert "preprocessing: the one given now" in said.out


def test_pictures_of_an_archive_are_audited_and_found_again(tmp_path: Path) -> None:
    folder = labelled_pictures(tmp_path / "pictures")
    packed = tmp_path / "in" / "photos.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    plan = dataclasses.replace(PLAN, methods=("grad-cam",), metrics=(), options={})
    result = audit(small_model(tmp_path), [str(packed)], tmp_path / "out", plan)
    assert [entry["truth"]["index"] for entry in result.data["entries"]] == [0, 0, 1, 1]
    assert sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / "out" / "maps").iterdir()) == ["p0", "p0", "p1", "p1"]
    assert {r.outcome for r in replay(tmp_path / "out").results} == {IDENTICAL}
    moved = packed.rename(tmp_path / "moved.zip")
    assert "nobody answers" in differences(replay(tmp_path / "out", sample=1), "run")[0]
    for now in (moved, folder):
        assert replay(tmp_path / "out", pictures=now).agrees
