"""The report: its numbers against independent ones, and that nothing finished is lost whatever happens."""

from __future__ import annotations

import dataclasses
import errno
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.audits import HOSTILE_LABELS, HOSTILE_NAMES, PLAN, labelled_pictures, small_model

from onnxvis.audit import report_state, report_unit
from onnxvis.audit.metrics import measure
from onnxvis.audit.report import AuditPlan, AuditResult, audit
from onnxvis.audit.report_data import without_times
from onnxvis.audit.selection import Selection
from onnxvis.cli import main
from onnxvis.errors import OutputError, ResultExistsError, TargetError, UsageError
from onnxvis.explaining import explain
from onnxvis.explanation import Explanation
from onnxvis.model import Model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audit")
    labelled_pictures(root / "pictures")
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return small_model(folder)


@pytest.fixture(scope="module")
def done(folder: Path, model: Model) -> AuditResult:
    return audit(model, [str(folder / "pictures")], folder / "out", PLAN, command="onnxvis audit ...")


def stored(out: Path) -> Any:
    return json.loads((out / "audit.json").read_text(encoding="utf-8"))


def test_accuracy_is_that_of_the_predictions(done: AuditResult, folder: Path, model: Model) -> None:
    paths = sorted((folder / "pictures").rglob("*.png"))
    first = [model.predict(str(p)).top[0].index for p in paths]  # type: ignore[union-attr]
    truth = [int(p.parent.name[-1]) for p in paths]
    hits = sum(a == b for a, b in zip(first, truth, strict=True))
    assert done.data["accuracy"]["top1"]["mean"] == pytest.approx(hits / len(paths))
    assert done.data["accuracy"]["misclassified_in_all"] == len(paths) - hits > 0
    assert [e["prediction"]["top"][0]["index"] for e in done.data["entries"]] == first


def test_maps_are_those_of_explain_and_the_true_class_is_explained_where_it_differs(
    done: AuditResult, model: Model
) -> None:
    for entry in done.data["entries"]:
        wrong = entry["truth"]["index"] != entry["prediction"]["top"][0]["index"]
        assert len(entry["maps"]) == (4 if wrong else 2)
        for one in entry["maps"]:
            options = {"window": 8} if one["method"] == "occlusion" else {}
            expected = explain(model, entry["path"], one["method"], one["target"]["index"], **options)
            assert isinstance(expected, Explanation)
            saved = np.load(done.folder / one["folder"] / "attribution.npy")
            np.testing.assert_allclose(saved, expected.attribution, rtol=1e-4, atol=1e-6 * np.abs(saved).max())
            assert one["target"]["index"] == (
                entry["truth"]["index"] if one["target"]["number"] else entry["prediction"]["top"][0]["index"]
            )


def test_metrics_and_agreement_are_means_over_the_pictures(done: AuditResult, model: Model) -> None:
    entries = done.data["entries"]
    table = {m["name"]: {r["method"]: r for r in m["methods"]} for m in done.data["metrics"]}
    assert {"grad-cam", "occlusion", "random"} == set(table["insertion"])
    values = []
    for entry in entries:
        found = explain(model, entry["path"], "grad-cam", "top1")
        assert isinstance(found, Explanation)
        values.append(measure(model, [found], ["insertion"], steps=14)[0]["insertion"].value)
    assert table["insertion"]["grad-cam"]["mean"] == pytest.approx(np.mean(np.array(values, float)), rel=1e-3)
    assert table["insertion"]["grad-cam"]["low"] <= table["insertion"]["grad-cam"]["mean"]
    pairs = [e["agreement"]["matrix"][0][1] for e in entries]
    assert done.data["agreement"]["matrix"][0][1]["mean"] == pytest.approx(np.mean(pairs))


def test_the_report_says_what_the_model_is(done: AuditResult, model: Model) -> None:
    stated = done.data["model"]
    assert stated["sha256"] == model.sha256
    assert stated["operators"] == {
        "Conv": 2, "Relu": 2, "MaxPool": 1, "Add": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1
    }  # fmt: skip
    assert stated["parameters"] == 8 * 27 + 8 + 64 * 9 + 8 + 80 + 10
    assert stated["preprocessing"]["source"]
    assert done.data["checks"]["self_tests"]
    assert any("production" in text for text in done.data["limits"])
    page = done.page.read_text(encoding="utf-8")
    for words in (model.sha256, "Grad-CAM", "Limits and failures", "onnxvis audit ..."):
        assert words in page


def test_two_runs_are_equal_apart_from_times(done: AuditResult, folder: Path, model: Model) -> None:
    again = audit(model, [str(folder / "pictures")], folder / "again", PLAN, command="onnxvis audit ...")
    assert without_times(stored(again.folder)) == without_times(stored(done.folder))


class Killed(BaseException):
    """What kill -9 is to the program: nothing runs after it."""


@pytest.mark.parametrize(("kind", "after"), [(KeyboardInterrupt, 3), (Killed, 1)])
def test_an_interrupted_audit_goes_on_and_ends_equal(
    done: AuditResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, after: int
) -> None:
    honest = report_state.ReportFolder.save
    saved: list[str] = []

    def failing(self: Any, picture: report_state.FinishedPicture) -> None:
        if len(saved) == after:
            raise kind
        saved.append(picture.path)
        honest(self, picture)

    monkeypatch.setattr(report_state.ReportFolder, "save", failing)
    given, out = [str(folder / "pictures")], tmp_path / "out"
    if kind is KeyboardInterrupt:
        part = audit(small_model(folder), given, out, PLAN)
        assert part.interrupted
        assert [e["path"] for e in part.data["entries"]] == saved
        assert "interrupted" in part.page.read_text(encoding="utf-8")
    else:
        with pytest.raises(Killed):
            audit(small_model(folder), given, out, PLAN)
        assert not (out / "audit.json").exists()
        (out / "maps" / ".picture.webp.abc123").write_bytes(b"what was being written")
    first = saved[:]
    monkeypatch.setattr(report_state.ReportFolder, "save", honest)
    written: list[str] = []
    keep = report_unit._finish
    monkeypatch.setattr(report_unit, "_finish", lambda *given: (written.append(given[2].path), keep(*given))[1])
    result = audit(small_model(folder), given, out, PLAN, command="onnxvis audit ...")
    assert set(written).isdisjoint(first)
    assert without_times(stored(out)) == without_times(stored(done.folder))
    assert not result.interrupted
    assert not list((out / "maps").rglob(".*"))


def test_a_full_disk_is_one_clear_error_and_what_was_written_counts(
    done: AuditResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, count = report_state.write_atomic, iter(range(1000))

    def full(path: Path, data: bytes) -> None:
        if next(count) == 14:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(path, data)

    monkeypatch.setattr(report_state, "write_atomic", full)
    with pytest.raises(OutputError, match=r"No space left.*goes on"):
        audit(small_model(folder), [str(folder / "pictures")], tmp_path / "out", PLAN)
    monkeypatch.undo()
    audit(small_model(folder), [str(folder / "pictures")], tmp_path / "out", PLAN, command="onnxvis audit ...")
    assert without_times(stored(tmp_path / "out")) == without_times(stored(done.folder))


def test_a_folder_of_other_settings_is_refused_and_the_difference_named(
    done: AuditResult, folder: Path, model: Model, tmp_path: Path
) -> None:
    other = dataclasses.replace(PLAN, seed=5)
    with pytest.raises(ResultExistsError, match="seed: 0 there, 5 now"):
        audit(model, [str(folder / "pictures")], done.folder, other)
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(OutputError, match=r"index\.html"):
        audit(model, [str(folder / "pictures")], tmp_path, PLAN)
    assert (tmp_path / "index.html").read_text() == "mine"
    quick = dataclasses.replace(PLAN, methods=("grad-cam",), options={}, metrics=(), limit=1)
    out = tmp_path / "out"
    audit(model, [str(folder / "pictures")], out, quick)
    fresh = audit(model, [str(folder / "pictures")], out, dataclasses.replace(quick, seed=1), overwrite=True)
    assert fresh.data["settings"]["seed"] == 1
    foreign = tmp_path / "foreign"
    (foreign / "maps").mkdir(parents=True)
    (foreign / "state").mkdir()
    (foreign / "state" / "settings.json").write_text('{"of": "another program"}')
    with pytest.raises(OutputError, match="maps"):
        audit(model, [str(folder / "pictures")], foreign, quick, overwrite=True)
    assert (foreign / "maps").is_dir()


def test_broken_pictures_and_methods_cost_only_themselves(folder: Path, tmp_path: Path) -> None:
    pictures = labelled_pictures(tmp_path / "pictures")
    (pictures / "class 0" / "broken.png").write_bytes((pictures / "class 0" / "p0.png").read_bytes()[:60])
    liar = bytearray((pictures / "class 0" / "p0.png").read_bytes())
    liar[16:24] = (1 << 30).to_bytes(4, "big") * 2  # IHDR: a billion pixels a side
    (pictures / "class 1" / "liar.png").write_bytes(liar)
    plan = dataclasses.replace(PLAN, metrics=("sparseness",))
    result = audit(small_model(folder), [str(pictures)], tmp_path / "out", plan)
    failed = {Path(f["path"]).name: f["error"] for f in result.data["pictures"]["failed"]}
    assert set(failed) == {"broken.png", "liar.png"}
    assert result.data["pictures"]["finished"] == 4
    assert result.failures == 2
    page = result.page.read_text(encoding="utf-8")
    assert "broken.png" in page
    assert "liar.png" in page


def test_a_picture_that_is_lost_after_its_answer_costs_only_itself(folder: Path, tmp_path: Path) -> None:
    pictures = labelled_pictures(tmp_path / "pictures")
    gone = pictures / "class 0" / "p0.png"  # the first, which decides how gradients are checked

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "pictures":
            gone.unlink(missing_ok=True)

    plan = dataclasses.replace(PLAN, metrics=("sparseness",))
    result = audit(small_model(folder), [str(pictures)], tmp_path / "out", plan, progress=watch)
    assert [f["path"] for f in result.data["pictures"]["failed"]] == [str(gone)]
    assert result.data["pictures"]["answered"] == 4
    assert [e["path"] for e in result.data["entries"]] == [str(p) for p in sorted(pictures.rglob("*.png"))]
    assert len(result.data["entries"]) == 3
    assert result.data["checks"]["self_tests"]


def test_selection_limits_what_is_explained_but_not_what_is_judged(folder: Path, model: Model, tmp_path: Path) -> None:
    plan = dataclasses.replace(
        PLAN, methods=("grad-cam",), options={}, metrics=(), selection=Selection("least-confident"), limit=2
    )
    result = audit(model, [str(folder / "pictures")], tmp_path / "out", plan)
    assert result.data["accuracy"]["labelled"] == 4
    shown = [e["prediction"]["top"][0]["probability"] for e in result.data["entries"]]
    every = sorted(
        model.predict(str(p)).top[0].probability  # type: ignore[union-attr]
        for p in (folder / "pictures").rglob("*.png")
    )
    assert shown == pytest.approx(every[:2])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"targets": ("no such class",)}, TargetError),
        ({"methods": ("no-such-method",)}, UsageError),
        ({"metrics": ("no-such-metric",)}, UsageError),
        ({"options": {"no_such_option": 1}}, UsageError),
        ({"limit": 0}, UsageError),
    ],
)
def test_a_wrong_plan_is_an_error_before_anything_is_explained(
    folder: Path, model: Model, tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        audit(model, [str(folder / "pictures")], tmp_path / "out", AuditPlan(**{"methods": ("grad-cam",), **change}))
    assert not list((tmp_path / "out").rglob("attribution.npy"))


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, AuditResult]:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for name in HOSTILE_NAMES:
        Image.fromarray(rng.integers(0, 255, (36, 48, 3), np.uint8)).save(pictures / name, format="PNG")
    plan = dataclasses.replace(PLAN, methods=("grad-cam",), options={}, metrics=("sparseness",))
    model = small_model(tmp_path, HOSTILE_LABELS)
    return tmp_path, audit(model, [str(pictures / ".." / "pictures")], tmp_path / "a" / "out", plan, command="<b>")


def test_hostile_names_write_nothing_outside_the_folder(hostile: tuple[Path, AuditResult]) -> None:
    root, result = hostile
    assert result.failures == 0
    assert len(result.data["entries"]) == len(HOSTILE_NAMES)
    assert sorted(p.name for p in root.iterdir()) == ["a", "model.onnx", "pictures"]
    assert sorted(p.name for p in (root / "a").iterdir()) == ["out"]
    assert {p.name for p in result.folder.iterdir()} == {"index.html", "audit.json", "maps", "state"}
    for path in (result.folder / "maps").rglob("*"):
        assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+")
        assert len(path.name) <= 64


def test_the_command_line_states_a_command_that_repeats_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(f"class {k}" for k in range(10)))
    arguments = ["audit", str(folder / "model.onnx"), str(folder / "pictures"), "-o", str(tmp_path / "one"), "-m"]
    arguments += ["grad-cam,occlusion", "-O", "window=8", "--preprocessing", "unit", "--limit", "2", "--metrics"]
    arguments += ["sparseness", "--gradients", "onnx", "--labels", str(tmp_path / "labels.txt"), "-q"]
    assert main(arguments) == 0
    assert "index.html" in capsys.readouterr().out
    first = stored(tmp_path / "one")
    words = shlex.split(first["command"])
    assert words[:2] == ["onnxvis", "audit"]
    words[words.index("--out") + 1] = str(tmp_path / "two")
    assert main(words[1:]) == 0
    second = stored(tmp_path / "two")
    first.pop("command")
    second.pop("command")
    assert without_times(first) == without_times(second)
