"""An audit with boxes and masks; noise as the control on every picture; one writer a folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.audits import PLAN, labelled_pictures, small_model

from onnxvis.audit.metrics import measure, summarize
from onnxvis.audit.objects import read_objects
from onnxvis.audit.report import AuditResult, audit
from onnxvis.audit.report_outline import outline_of_boxes, outline_of_mask
from onnxvis.audit.report_words import LEAST_PICTURES, findings
from onnxvis.cli import audit as command_module
from onnxvis.cli import main
from onnxvis.errors import OutputError, PictureError, ResultExistsError, UsageError
from onnxvis.explaining import explain
from onnxvis.single_writer import single_writer

MINUS = "\N{MINUS SIGN}"
WHERE = ("pointing-game", "energy-pointing-game", "localization-iou")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    labelled_pictures(root / "pictures", each=4)
    boxes = {
        "class 0/p0.png": [4, 3, 30, 30],
        "class 0/p1.png": [[0, 0, 10, 10], [20, 9, 48, 36]],
        "gone.png": [0, 0, 1, 1],
    }
    (root / "boxes.json").write_text(json.dumps(boxes))
    masks = root / "masks" / "class 1"
    masks.mkdir(parents=True)
    for number, size in enumerate(((36, 48), (36, 48), (5, 5))):
        drawn = np.zeros(size, np.uint8)
        drawn[1 : 4 + 8 * number, 2:30] = 255
        Image.fromarray(drawn).save(masks / f"p{number}.png")
    return root


@pytest.fixture(scope="module")
def done(root: Path) -> AuditResult:
    plan = dataclasses.replace(
        PLAN,
        metrics=("insertion", *WHERE),
        objects=read_objects(root / "boxes.json", root / "masks"),
        targets=("top1",),
    )
    return audit(small_model(root), [str(root / "pictures")], root / "out", plan)


def values(entry: dict[str, Any], method: str) -> dict[str, Any]:
    (row,) = (row for row in entry["metrics"] if row["method"] == method and row["target"] == 0)
    return {name: found["value"] for name, found in row["values"].items()}


def test_metrics_of_localization_are_those_of_measure(root: Path, done: AuditResult) -> None:
    model = small_model(root)
    entries = {f"{Path(e['path']).parent.name}/{e['name']}": e for e in done.data["entries"]}
    mask = np.asarray(Image.open(root / "masks" / "class 1" / "p1.png")) > 0
    stated = {"class 0/p1.png": np.array([[0, 0, 10, 10], [20, 9, 48, 36]]), "class 1/p1.png": mask}
    for name, where in stated.items():
        made: Any = explain(model, root / "pictures" / name, "grad-cam")
        expected = measure(model, [made], WHERE, masks=[where])[0]
        found = values(entries[name], "grad-cam")
        assert {n: found[n] for n in WHERE} == pytest.approx({n: m.value for n, m in expected.items()}, rel=1e-5)
    assert values(entries["class 0/p3.png"], "grad-cam")["pointing-game"] is None
    assert entries["class 0/p3.png"]["objects"] is None
    table = {m["name"]: m for m in done.data["metrics"]}
    assert {row["method"]: row["n"] for row in table["pointing-game"]["methods"]} == {
        "grad-cam": 4, "occlusion": 4, "random": 4,
    }  # fmt: skip


def test_what_cannot_be_used_is_a_failure_of_that_picture_alone(done: AuditResult) -> None:
    failed = [(e["name"], p) for e in done.data["entries"] for p in e["problems"]]
    assert [(name, p["method"]) for name, p in failed] == [("p2.png", "objects")]
    assert "does not fit a picture of 36 x 48" in failed[0][1]["error"]
    assert done.failures == 1
    assert any("1 box or mask was not usable" in f.text for f in findings(done.data))
    assert done.data["pictures"]["objects"]["unused"] == ["gone.png"]
    assert any("1 name in" in text and "gone.png" in text for text in done.data["limits"])


def test_the_page_draws_the_outlines(done: AuditResult) -> None:
    text = done.page.read_text(encoding="utf-8")
    assert 'd="M4 3H30V30H4Z"' in text
    assert 'd="M0 0H10V10H0ZM20 9H48V36H20Z"' in text
    assert text.count('class="object"') == 4
    assert 'id="objects"' in text
    assert "Box or mask on <bdi>p2.png</bdi>" in text


def test_other_boxes_are_other_settings(root: Path, done: AuditResult) -> None:
    for objects in (read_objects(root / "boxes.json"), dataclasses.replace(PLAN).objects):
        plan = dataclasses.replace(PLAN, metrics=("insertion",), objects=objects, targets=("top1",))
        with pytest.raises(ResultExistsError, match=r"metrics|objects"):
            audit(small_model(root), [str(root / "pictures")], root / "out", plan)
    assert done.page.exists()


def test_metrics_that_need_boxes_are_refused_without(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["audit", str(root / "model.onnx"), str(root / "pictures"), "--preprocessing", "unit", "-m", "grad-cam"]
    command += ["-o", str(root / "cli"), "--gradients", "onnx", "-q", "--metrics", "pointing-game,sparseness"]
    assert main(command) == 2
    assert "--boxes or --masks" in capsys.readouterr().err
    assert main([*command, "--boxes", str(root / "boxes.json"), "--limit", "2"]) == 0
    data = json.loads((root / "cli" / "audit.json").read_text())
    assert f"--boxes {root / 'boxes.json'}" in data["command"]
    assert data["metrics"][0]["name"] == "pointing-game"


def test_noise_is_another_map_on_every_picture_and_methods_are_held_against_it_there(done: AuditResult) -> None:
    entries = done.data["entries"]
    rows = {row["method"]: row for row in done.data["metrics"][0]["methods"]}
    pairs = [(values(e, "occlusion")["insertion"], values(e, "random")["insertion"]) for e in entries]
    expected = summarize([a - b for a, b in pairs], rate=False)
    found = rows["occlusion"]["above_noise"]
    assert (found["mean"], found["low"], found["high"], found["n"]) == pytest.approx(
        (expected.mean, expected.low, expected.high, 8)
    )
    assert rows["random"]["above_noise"] is None
    chance = [values(e, "random")["energy-pointing-game"] for e in entries if e["objects"]]
    assert len({round(v, 6) for v in chance}) == len(chance)


def test_findings_say_better_worse_or_too_few() -> None:
    def row(method: str, low: float, high: float, n: int = 9) -> dict[str, Any]:
        gain = {"mean": (low + high) / 2, "low": low, "high": high, "n": n}
        return {"method": method, "above_noise": gain}

    names = ["good", "bad", "alike", "few"]
    rows = [row("good", 0.1, 0.3), row("bad", -0.3, -0.1), row("alike", -0.1, 0.1), row("few", 0.1, 0.3, 5)]
    data = {
        "interrupted": False, "accuracy": None, "checks": None, "skipped": [], "entries": [],
        "methods": [{"name": n, "title": n.title()} for n in names], "pictures": {"failed": []},
        "metrics": [{"title": "M", "better": "higher", "methods": [*rows, {"method": "random", "above_noise": None}]}],
    }  # fmt: skip
    said = [(f.mark, f.text) for f in findings(data)]
    noise = "a map of noise on the same pictures."
    assert said == [
        ("good", f"M: Good (by +0.2, 95 % interval +0.1 to +0.3) is better than {noise}"),
        ("bad", f"M: Alike (by 0, 95 % interval {MINUS}0.1 to +0.1) is not clearly better than {noise}"),
        (
            "bad",
            f"M: Bad (by {MINUS}0.2, 95 % interval {MINUS}0.3 to {MINUS}0.1) is worse than {noise}",
        ),
        ("note", f"M: Few is not compared with a map of noise: that takes {LEAST_PICTURES} pictures at least."),
    ]
    data["metrics"][0]["better"] = "lower"
    assert [f.text.split()[1] for f in findings(data)] == ["Bad", "Alike", "Good", "Few"]


def test_outlines_enclose_their_masks() -> None:
    assert outline_of_boxes([(0.5, 1, 20, 30)]) == "M0.5 1H20V30H0.5Z"
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    assert outline_of_mask(mask) == "M2 1H5M2 3H5M2 1V3M5 1V3"
    large = np.zeros((900, 1600), bool)
    large[300:600, 400:1000] = True
    assert outline_of_mask(large) == "M400 300H1000M400 600H1000M400 300V600M1000 300V600"
    thin = np.zeros((900, 1600), bool)
    thin[450] = True
    assert outline_of_mask(thin) == "M0 450H1600M0 460H1600M0 450V460M1600 450V460"


def test_a_folder_that_is_being_written_is_refused(root: Path, tmp_path: Path) -> None:
    with single_writer(tmp_path / "out"), pytest.raises(OutputError, match="another onnxvis"):
        audit(small_model(root), [str(root / "pictures")], tmp_path / "out", PLAN)
    files = [str(root / "model.onnx"), str(root / "pictures"), "--preprocessing", "unit", "--gradients", "onnx", "-q"]
    with single_writer(tmp_path / "c"):
        assert main(["compare", files[0], *files, "-o", str(tmp_path / "c")]) == 2
    with single_writer(tmp_path, ".e.json.lock"):
        assert main(["evaluate", *files, "-o", str(tmp_path / "e.json"), "-m", "grad-cam"]) == 2
    assert not (tmp_path / "c" / "compare.json").exists()
    assert not (tmp_path / "e.json").exists()


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"limit": 0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least"):
        dataclasses.replace(PLAN, **wrong)


@pytest.mark.parametrize("place", ["report", "."])
def test_a_report_among_its_pictures_is_continued(root: Path, tmp_path: Path, place: str) -> None:
    """Its own pictures are no pictures to audit, and its name is no class that its pictures could have."""
    folder = labelled_pictures(tmp_path / "pictures", each=1)
    plan = dataclasses.replace(PLAN, methods=("grad-cam",), metrics=(), options={})
    first = audit(small_model(root), [str(folder)], folder / place, plan)
    again = audit(small_model(root), [str(folder)], folder / place, plan)
    assert [e["path"] for e in again.data["entries"]] == [e["path"] for e in first.data["entries"]]
    assert again.data["pictures"] == first.data["pictures"]
    assert again.data["accuracy"]["labelled"] == 2


def test_the_stated_command_holds_no_credentials(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_model(root)
    jobs: list[Any] = []
    monkeypatch.setattr(command_module, "run_audit", lambda job: jobs.append(job) or 0)
    place = "https://me:password@example.org/a.png?X-Amz-Signature=0123456789"
    assert main(["audit", str(root / "model.onnx"), place, str(root / "pictures"), "--preprocessing", "unit"]) == 0
    assert jobs[0].images[0] == place
    assert "password" not in jobs[0].command
    assert "0123456789" not in jobs[0].command
    assert "example.org/a.png" in jobs[0].command
    assert str(root / "pictures") in jobs[0].command


def test_an_empty_name_is_not_the_present_folder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="empty text"):
        audit(small_model(root), [""], tmp_path / "out", PLAN)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["audit"], ["evaluate"], ["compare", "other.onnx"]])
def test_negative_seeds_are_wrong_usage(root: Path, command: list[str]) -> None:
    files = [str(root / "model.onnx"), *command[1:], str(root / "pictures")]
    assert main([command[0], *files, "--preprocessing", "unit", "--seed", "-1"]) == 2


def test_metrics_need_a_reason(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs to know where"):
        audit(small_model(root), [str(root / "pictures")], tmp_path, dataclasses.replace(PLAN, metrics=WHERE))
