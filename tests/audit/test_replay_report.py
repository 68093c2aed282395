"""A report that was changed by hand does not pass, whichever of its files was changed."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.audits import PLAN, labelled_pictures, small_model

from onnxvis.audit import replay as module
from onnxvis.audit.replay import IDENTICAL, UNREPEATABLE, Replay, replay
from onnxvis.audit.replay_compare import plain
from onnxvis.audit.report import audit
from onnxvis.audit.report_data import metric_table
from onnxvis.audit.report_page import write_page
from onnxvis.audit.report_state import FinishedFolder
from onnxvis.cli import main
from onnxvis.errors import UsageError


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    labelled_pictures(root / "pictures")
    plan = dataclasses.replace(PLAN, metrics=("insertion", "average-increase", "sparseness"))
    audit(small_model(root), [str(root / "pictures")], root / "out", plan)
    return root / "out"


@pytest.fixture
def copy(report: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(report, tmp_path / "copy"))


def texts(found: Replay) -> str:
    return " ".join(d.text for d in found.report)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_an_honest_report_agrees_with_itself(report: Path) -> None:
    for what in (report, report / "audit.json", report / "index.html"):
        found = replay(what, sample=1)
        assert found.report == ()
        assert found.agrees


CHANGES: dict[str, Callable[[Any], Any]] = {
    "metrics do not follow": lambda d: d["metrics"][0]["methods"][0].update(mean=0.9),
    "1 methods 2 mean": lambda d: d["entries"][1]["metrics"][1]["values"]["insertion"].update(value=0.9),
    "agreement do not follow": lambda d: d["agreement"]["matrix"][0][1].update(mean=0.99),
    "of the answers are stated to be right": lambda d: d["accuracy"]["top1"].update(mean=1.0),
    "prediction top 1 label": lambda d: d["entries"][0]["prediction"]["top"][0].update(label="cat"),
    "prediction top 1 probability": lambda d: d["entries"][0]["prediction"]["top"][0].update(probability=0.99),
    "verified (false stated, true found)": lambda d: d["entries"][0]["maps"][0].update(verified=False),
    "scale hi": lambda d: d["entries"][0]["maps"][0]["scale"].update(hi=9.0),
    "picture sha256": lambda d: d["entries"][0].update(sha256="0" * 64),
    "index.html is not the page": lambda d: d["checks"]["self_tests"][0].update(sentence="all is well"),
    "damaged or of another version": lambda d: d.pop("methods"),
}


@pytest.mark.parametrize("words", CHANGES)
def test_every_figure_that_was_changed_is_found(copy: Path, words: str) -> None:
    edit(copy / "audit.json", CHANGES[words])
    found = replay(copy, sample=1)
    assert words in texts(found)
    assert found.disagrees
    assert not found.agrees


def test_a_changed_page_is_found_but_not_another_packing(copy: Path) -> None:
    page = copy / "index.html"
    text = page.read_text(encoding="utf-8")

    def repacked(found: re.Match[str]) -> str:
        return f'"data":"{base64.b64encode(zlib.compress(zlib.decompress(base64.b64decode(found[1])), 1)).decode()}"'

    other = re.sub('"data":"([A-Za-z0-9+/=]+)"', repacked, text)
    assert other != text
    page.write_text(other, encoding="utf-8", newline="\n")
    assert replay(copy, sample=1).report == ()
    page.write_text(text.replace("Self-tests", "Self-tests, all passed", 1), encoding="utf-8", newline="\n")
    assert "index.html is not the page" in texts(replay(copy, sample=1))
    page.unlink()
    assert "index.html cannot be read" in texts(replay(copy, sample=1))


def test_another_version_words_its_page_in_another_way(copy: Path) -> None:
    edit(copy / "audit.json", lambda d: d["settings"].update(onnxvis="0.0.1"))
    assert 'version ("0.0.1" stated' in texts(replay(copy, sample=1))
    for path in copy.rglob("manifest.json"):
        edit(path, lambda m: m["provenance"]["versions"].update(onnxvis="0.0.1"))
    found = replay(copy, sample=1)
    assert found.report == ()
    assert "onnxvis 0.0.1 then" in " ".join(d.text for d in found.results[0].differences)


@pytest.mark.parametrize("name", ["../../etc", "/etc", "maps/../../x", "", 3, None, "..\\..\\x"])
def test_maps_outside_of_the_report_are_refused(copy: Path, name: Any) -> None:
    edit(copy / "audit.json", lambda d: d["entries"][0]["maps"][0].update(folder=name))
    with pytest.raises(UsageError, match="outside of its folder"):
        replay(copy)


STATED: dict[str, Callable[[Any], Any]] = {
    "map units": lambda m: m["map"].update(units="probability"),
    "map signed": lambda m: m["map"].update(signed=False),
    "map scale hi": lambda m: m["map"]["scale"].update(hi=5.0),
    "target name": lambda m: m["target"].update(name="cat"),
    "geometry picture_size 1": lambda m: m["geometry"].update(picture_size=[99, 36]),
    "prediction top 2 probability": lambda m: m["prediction"]["top"][1].update(probability=0.7),
    "picture size 2": lambda m: m["picture"].update(size=[48, 99]),
    "parity passed": lambda m: m["parity"].update(passed=False),
}


@pytest.mark.parametrize("words", STATED)
def test_every_statement_of_a_manifest_is_held_against_the_map(copy: Path, words: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {k}" for k in range(10)))
    path = next(copy.glob("maps/*/grad-cam/1-*/manifest.json"))
    assert replay(path, labels=str(labels)).results[0].outcome == IDENTICAL
    edit(path, STATED[words])
    (result,) = replay(path, labels=str(labels)).results
    assert [d.what for d in result.differences if d.serious] == ["manifest"]
    assert words in result.differences[0].text


BROKEN: dict[str, Any] = {
    "method": 1e308, "preprocessing": "top1", "provenance": True, "files": 10**30, "parameters": None, "target": [],
    "map": {}, "prediction": {"top": []}, "layer": "r2", "picture": {"path": []}, "parity": "passed",
}  # fmt: skip


@pytest.mark.parametrize("section", BROKEN)
def test_values_of_a_wrong_kind_are_said_to_be_damage(copy: Path, section: str) -> None:
    path = next(copy.glob("maps/*/grad-cam/1-*/manifest.json"))
    edit(path, lambda m: m.update({section: BROKEN[section]}))
    (result,) = replay(path).results
    assert result.outcome == UNREPEATABLE
    assert result.differences[0].what in ("manifest", "run")


def test_a_map_that_claims_a_huge_size_is_damaged(copy: Path) -> None:
    path = next(copy.glob("maps/*/grad-cam/1-*/attribution.npy"))
    data = path.read_bytes()
    header = np.lib.format.header_data_from_array_1_0(np.zeros((32, 32), np.float32))
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {**header, "shape": (10**7, 10**7)})
        stream.write(data[128:])
    (result,) = replay(path.parent / "manifest.json").results
    assert "is damaged" in " ".join(d.text for d in result.differences)


def test_metrics_are_measured_again_on_request(copy: Path) -> None:
    """A figure of one picture that was changed everywhere at once goes with everything but the map itself."""
    data = json.loads((copy / "audit.json").read_text(encoding="utf-8"))
    folder = data["entries"][0]["maps"][0]["folder"]
    assert replay(copy, metrics=True).agrees

    def raised(d: Any) -> None:
        row = next(r for r in d["entries"][0]["metrics"] if r["method"] == "grad-cam" and r["target"] == 0)
        row["values"]["insertion"]["value"] += 0.05
        names = [m["name"] for m in d["methods"]]
        d["metrics"] = plain(metric_table(d["entries"], names, [m["name"] for m in d["metrics"]]))

    edit(copy / "audit.json", raised)
    write_page(FinishedFolder(copy), json.loads((copy / "audit.json").read_text(encoding="utf-8")))
    assert replay(copy).agrees
    found = replay(copy, metrics=True)
    (result,) = (r for r in found.results if r.outcome != IDENTICAL)
    assert folder in result.manifest
    assert result.differences[0].what == "metrics"
    assert "insertion" in result.differences[0].text


def test_an_interruption_keeps_what_was_found(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = module.compare_map, []

    def counted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(*given)

    monkeypatch.setattr(module, "compare_map", counted)
    found = replay(report)
    assert found.interrupted
    assert [r.outcome for r in found.results] == [IDENTICAL] * 2
    assert not found.agrees
    calls.clear()
    assert main(["replay", str(report)]) == 130


def test_the_command_says_what_disagrees(copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    edit(copy / "audit.json", CHANGES["metrics do not follow"])
    assert main(["replay", str(copy), "--sample", "1", "-q", "--json", str(tmp_path / "found.json")]) == 3
    assert "the report disagrees with itself: metrics do not follow" in capsys.readouterr().out.replace("\n", " ")
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored["agrees"] is False
    assert stored["report"][0]["what"] == "report"
