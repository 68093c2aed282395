"""`onnxvis compare`: files, exit codes, limits, resuming, and JSON that two runs agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from support.hand_models import small_net

from onnxvis.audit import drift_chunk
from onnxvis.cli.console import run

SPEC = 'resize = "stretch"\nsize = 16\nscale = 0.00392156862745098\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A.onnx with its preprocessing beside it, B.onnx with one other weight, and a folder of pictures."""
    model = small_net()
    onnx.save(model.file.proto, tmp_path / "A.onnx")
    (tmp_path / "A.preprocessing.toml").write_text(SPEC)
    (tmp_path / "A.labels.txt").write_text("\n".join(f"kind {k}" for k in range(5)))
    proto = onnx.ModelProto()
    proto.CopyFrom(model.file.proto)
    tensor = proto.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[4] += 2
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, tmp_path / "B.onnx")
    (tmp_path / "photos").mkdir()
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((24, 20), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{k}.png")
    return tmp_path


def command(place: Path, *more: str, b: str = "B.onnx", out: str = "out") -> int:
    files = [str(place / name) for name in ("A.onnx", b, "photos")]
    return run(["compare", *files, "-o", str(place / out), "--provider", "cpu", *more])


def written(place: Path, out: str = "out") -> dict[str, Any]:
    data: dict[str, Any] = json.loads((place / out / "compare.json").read_text(encoding="utf-8"))
    return data


def test_both_files_are_written_and_b_borrows_what_it_lacks(place: Path) -> None:
    assert command(place, "-m", "grad-cam,saliency") == 0
    data = written(place)
    assert len(data["pictures"]) == 4
    assert data["methods"] == ["grad-cam", "saliency"]
    assert data["a"]["preprocessing_summary"] == data["b"]["preprocessing_summary"]
    assert data["pictures"][0]["top1"][0][1].startswith("kind")
    assert data["summary"]["rank grad-cam"]["n"] == 4
    page = (place / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count('<section class="picture"') == 5
    assert sorted(p.name for p in (place / "out").iterdir()) == ["compare.json", "index.html"]


def test_single_fields_of_the_preprocessing_of_each_side(place: Path) -> None:
    """`--mean` is of A, `--mean-b` of B; B takes the rest from A, which has a file beside it."""
    assert command(place, "--mean", "0.25", "--std-b", "2,2,2", "--interpolation-b", "nearest", "--size-b", "16") == 0
    a, b = (written(place)[side]["preprocessing"] for side in "ab")
    assert (a["mean"], a.get("std", [1.0]), a["interpolation"]) == ([0.25], [1.0], "bilinear")
    assert (b["mean"], b["std"], b["interpolation"]) == ([0.25], [2.0, 2.0, 2.0], "nearest")
    assert command(place, "--mean-b", "one", out="wrong") == 2


@pytest.mark.parametrize(
    "limit", [("--min-correlation", "nan"), ("--max-difference", "nan"), ("--min-correlation", "2")]
)
def test_limits_that_nothing_could_break_are_refused(
    place: Path, limit: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(place, *limit) == 2
    assert limit[0] in capsys.readouterr().err


def test_a_picture_that_is_named_twice_counts_once(place: Path) -> None:
    assert command(place, str(place / "photos"), str(place / "photos" / "0.png")) == 0
    assert len(written(place)["pictures"]) == 4


def test_two_runs_give_the_same_bytes(place: Path) -> None:
    assert [command(place, out=name) for name in ("one", "two")] == [0, 0]
    assert (place / "one" / "compare.json").read_bytes() == (place / "two" / "compare.json").read_bytes()
    assert command(place, out="one") == 0


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (("--max-difference", "0.000001"), 3),
        (("--max-difference", "9"), 0),
        (("--min-correlation", "0.9999999"), 3),
        (("--min-correlation", "-1"), 0),
        (("--max-flips", "4"), 0),
        (("--min-correlation", "-1", "-m", "none"), 3),
    ],
)
def test_limits_decide_the_exit_code(place: Path, limits: tuple[str, ...], code: int) -> None:
    assert command(place, *limits) == code
    assert bool(written(place)["broken"]) == (code == 3)


def test_the_same_file_keeps_every_limit(place: Path) -> None:
    limits = ("--max-flips", "0", "--min-correlation", "0.999", "--max-difference", "0")
    assert command(place, *limits, b="A.onnx") == 0


def test_a_broken_picture_costs_only_itself(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "photos" / "9.png").write_bytes(b"no picture")
    assert command(place) == 2
    assert len(written(place)["pictures"]) == 4
    assert written(place)["failures"][0][0] == "9.png"
    assert "9.png" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_stopped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = drift_chunk._drift, []

    def counted(*given: Any) -> drift_chunk.PictureDrift:
        calls.append(given[2].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(*given)

    monkeypatch.setattr(drift_chunk, "_drift", counted)
    assert command(place) == 130
    partial = place / "out" / "compare.partial.jsonl"
    assert sum(map(bool, partial.read_text().splitlines())) == 2
    with partial.open("a") as stream:
        stream.write('{"key": "cut of')
    assert command(place) == 0
    assert len(calls) == 5  # two, the interrupted one, and the two that were left
    assert not partial.exists()
    monkeypatch.undo()
    assert command(place, out="fresh") == 0
    assert written(place) == written(place, "fresh")


def test_what_is_finished_of_another_question_does_not_count(place: Path) -> None:
    (place / "out").mkdir()
    line = json.dumps({"key": "another", "picture": {}})
    (place / "out" / "compare.partial.jsonl").write_text(line + "\n")
    assert command(place) == 0
    assert len(written(place)["pictures"]) == 4


def test_a_folder_of_something_else_is_left_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "out").mkdir()
    (place / "out" / "compare.json").write_text('{"mine": 1}')
    assert command(place) == 2
    assert json.loads((place / "out" / "compare.json").read_text()) == {"mine": 1}
    assert "left alone" in capsys.readouterr().err
    (place / "out" / "compare.json").rename(place / "out" / "index.html")
    assert command(place) == 2
    assert "left alone" in capsys.readouterr().err
    assert [path.name for path in (place / "out").iterdir()] == ["index.html"]


def test_another_preprocessing_for_b(place: Path) -> None:
    assert command(place, "--preprocessing-b", "imagenet", b="A.onnx") == 0
    data = written(place)
    assert data["a"]["preprocessing_summary"] != data["b"]["preprocessing_summary"]
    assert max(row["logit_relative"] for row in data["pictures"]) > 0.05
