"""`onnxvis evaluate`: the table, the figures, masks, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.hand_models import small_net

import onnxvis
from onnxvis.audit.metrics import Measured, measure, summarize
from onnxvis.cli import evaluate
from onnxvis.cli.console import run
from onnxvis.errors import OutputError
from onnxvis.methods import occlusion_drops

SPEC = {"resize": "stretch", "size": 16, "scale": 1 / 255}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    onnx.save(small_net().file.proto, tmp_path / "net.onnx")
    (tmp_path / "net.preprocessing.json").write_text(json.dumps(SPEC))
    (tmp_path / "photos").mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((24, 20), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{k}.png")
    return tmp_path


def command(place: Path, *more: str) -> int:
    files = [str(place / name) for name in ("net.onnx", "photos")]
    return run(["evaluate", *files, "--out", str(place / "out.json"), "--provider", "cpu", *more])


def written(place: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((place / "out.json").read_text(encoding="utf-8"))
    return data


def test_the_figures_are_those_of_measure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("-m", "grad-cam,saliency", "--metrics", "deletion,sparseness", "--steps", "4")
    assert command(place, *options) == 0
    data = written(place)
    model = onnxvis.load(place / "net.onnx", provider="cpu")
    made: Any = [onnxvis.explain(model, place / "photos" / f"{k}.png", "saliency") for k in range(3)]
    values = [r["deletion"].value for r in measure(model, made, ["deletion"], steps=4)]
    stored = [row["metrics"]["deletion"] for row in data["results"] if row["method"] == "saliency"]
    assert [m["value"] for m in stored] == pytest.approx(values)
    assert len(stored[0]["curve"]) == 5
    summary = data["summary"]["saliency"]["deletion"]
    assert summary["mean"] == pytest.approx(summarize(values).mean)
    assert data["agreement"]["methods"] == ["grad-cam", "saliency"]
    assert data["agreement"]["rank_correlation"][0][0] == 1
    printed = capsys.readouterr().out
    assert "deletion" in printed
    assert f"{summary['mean']:.3f} [{summary['low']:.3f}, {summary['high']:.3f}]" in printed
    first = (place / "out.json").read_bytes()
    assert command(place, *options) == 0
    assert (place / "out.json").read_bytes() == first


def test_figures_that_are_no_numbers_are_left_out_of_the_json(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = evaluate.measure

    def odd(*given: Any, **more: Any) -> Any:
        found = honest(*given, **more)
        curve = np.array([[0.1, 0.5], [0.2, np.nan], [0.5, -0.5]])
        return [{**row, "sparseness": Measured(float("nan"), curve)} for row in found]

    monkeypatch.setattr(evaluate, "measure", odd)
    assert command(place, "-m", "saliency", "--metrics", "sparseness") == 0
    text = (place / "out.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    row = json.loads(text)["results"][0]["metrics"]["sparseness"]
    assert row["value"] is None
    assert row["curve"] == [[0.1, 0.5], [0.5, -0.5]]


def test_no_engine_is_chosen_by_the_clock(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which engine is faster differs from run to run, and with it the last bits of the figures."""
    asked = []
    honest = occlusion_drops.Drops.__init__

    def noted(self: Any, *given: Any, **more: Any) -> None:
        honest(self, *given, **more)
        asked.append(self._settings.engine)

    monkeypatch.setattr(occlusion_drops.Drops, "__init__", noted)
    assert command(place, "-m", "occlusion", "--metrics", "infidelity,max-sensitivity") == 0
    assert len(asked) > 6
    assert set(asked) == {"plain"}


def test_masks_are_found_by_the_name_of_the_picture(place: Path) -> None:
    mask = np.zeros((20, 24), np.uint8)
    mask[5:15, 6:18] = 255
    Image.fromarray(mask).save(place / "mask.png")
    masks = {"0.png": [6, 5, 18, 15], "1.png": "mask.png"}
    (place / "masks.json").write_text(json.dumps(masks))
    names = "pointing-game,energy-pointing-game,localization-iou"
    assert command(place, "-m", "grad-cam", "--metrics", names, "--masks", str(place / "masks.json")) == 0
    rows = {row["picture"]: row["metrics"] for row in written(place)["results"]}
    assert all(rows[name]["energy-pointing-game"]["value"] is not None for name in masks)
    assert rows["2.png"]["pointing-game"]["value"] is None
    assert written(place)["summary"]["grad-cam"]["pointing-game"]["n"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metrics", "deletions"), "deletion"),
        (("--metrics", "pointing-game"), "--boxes or --masks"),
        (("-m", "grad-kam"), "grad-cam"),
        (("--masks", "nowhere.json"), "cannot be read"),
        (("--score", "odds"), "probability"),
        (("--metrics", ""), "no metric was given"),
        (("--target", "top3"), "one target"),
        (("--target", "no such class"), "cannot be looked up"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_wrong_usage(place: Path, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(place, *options) == 2
    assert words in capsys.readouterr().err


def test_tables_of_many_methods_are_not_cut(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(place, "-m", "all", "--metrics", "sparseness", "--steps", "2") == 0
    printed = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert all(name in printed for name in ("guided-grad-cam", "integrated-gradients", "occlusion"))


def test_a_broken_picture_costs_only_itself(place: Path) -> None:
    (place / "photos" / "9.png").write_bytes(b"no picture")
    assert command(place, "-m", "saliency", "--metrics", "sparseness") == 2
    assert len(written(place)["results"]) == 3
    assert "9.png" in written(place)["failures"][0][0]


def test_what_cannot_be_written_ends_the_run_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*given: Any) -> None:
        raise OutputError("cannot write out.json.partial.jsonl: No space left on device.")

    monkeypatch.setattr(evaluate.Partial, "add", full)
    assert command(place, "-m", "saliency", "--metrics", "sparseness") == 2
    said = capsys.readouterr().err
    assert said.count("No space left") == 1
    assert "failed:" not in said
    monkeypatch.undo()
    (place / "out.json").mkdir()
    monkeypatch.setattr(evaluate, "measure", full)
    assert command(place) == 2
    assert "is a folder" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_stopped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = evaluate.measure, []

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(*given, **more)

    monkeypatch.setattr(evaluate, "measure", counted)
    options = ("-m", "saliency,grad-cam", "--metrics", "sparseness,complexity")
    assert command(place, *options) == 130
    assert len(written(place)["results"]) == 2
    assert any("interrupted" in note for note in written(place)["notes"])
    with (place / "out.json.partial.jsonl").open("a") as stream:
        stream.write('{"cut of')
    assert command(place, *options) == 0
    assert len(calls) == 4
    assert not (place / "out.json.partial.jsonl").exists()
    resumed = written(place)
    monkeypatch.undo()
    assert command(place, *options) == 0
    assert written(place) == resumed
