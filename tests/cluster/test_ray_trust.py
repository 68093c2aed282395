"""Audits and comparisons on Ray are those of the local engine, file by file, whoever dies on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.formats import convnet
from support.ray_work import kill_actors

from onnxvis.audit.report_data import without_times
from onnxvis.audit.report_state import FinishedPicture, ReportFolder
from onnxvis.cli import main

pytest.importorskip("ray", reason="the engine needs the extra 'ray'")

from onnxvis.cluster.auditing import RayAuditing
from onnxvis.cluster.comparing import RayComparing

pytestmark = pytest.mark.usefixtures("ray_cluster")

COUNT = 9
SHARED = ["--gradients", "onnx", "--batch-size", "2", "--quiet"]  # an actor loads torch for seconds
AUDIT = ["-m", "grad-cam,occlusion", "-O", "window=8", "--metrics", "deletion,energy-pointing-game"]
AUDIT += ["--masks", "masks", "-t", "top1", "-t", "truth"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and pictures in folders named like classes; the first and another one are broken."""
    root = tmp_path_factory.mktemp("trust")
    for name, seed in (("a", 0), ("b", 1)):
        onnx.save(convnet(size=32, batch="n", seed=seed), root / f"{name}.onnx")
        (root / f"{name}.labels.txt").write_text("\n".join(f"class {k}" for k in range(10)))
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        folder = root / "pictures" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 36), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (root / "masks").mkdir()
    for number in (1, 2, 8):
        Image.fromarray(np.uint8(255) * (rng.random((36, 48)) < 0.3)).save(root / "masks" / f"{number}.png")
    for name in ("class 0/0.png", "class 1/5.png"):
        (root / "pictures" / name).write_bytes(b"no picture")
    return root


def audit_command(out: Path, *more: str) -> list[str]:
    return ["audit", "a.onnx", "pictures", "--preprocessing", "unit", *AUDIT, *SHARED, "-o", str(out), *more]


def compare_command(out: Path, *more: str) -> list[str]:
    asked = ["-m", "grad-cam,saliency", "--pictures", "2", "--preprocessing", "unit", *SHARED]
    return ["compare", "a.onnx", "b.onnx", "pictures", *asked, "-o", str(out), *more]


RAY = ["--engine", "ray", "--actors"]


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths start where the command is given, in actors too."""
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def local(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(audit_command(place / "local" / "audit")) == 2
        assert main(compare_command(place / "local" / "compare")) == 2
    return place / "local"


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a report but the page and the lines that came in some order; JSON without times."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "index.html"):
        data: Any = path.read_bytes()
        if path.suffix == ".json":
            data = without_times(json.loads(data))
            data.pop("command", None)  # names the folder
        elif path.suffix == ".jsonl":
            data = sorted(data.splitlines())
        found[str(path.relative_to(folder))] = data
    return found


def page(folder: Path) -> str:
    text = (folder / "index.html").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if " UTC" not in line)


def same_audit(out: Path, local: Path) -> bool:
    found, expected = contents(out), contents(local / "audit")
    assert list(found) == list(expected)
    assert sum(name.endswith("attribution.npy") for name in found) >= 2 * (COUNT - 2)
    different = [name for name in found if found[name] != expected[name]]
    assert not different
    return True


def same_comparison(out: Path, local: Path) -> bool:
    assert len(json.loads((out / "compare.json").read_text())["pictures"]) == COUNT - 2
    assert page(out) == page(local / "compare")
    return contents(out) == contents(local / "compare")


def test_an_audit_is_that_of_the_local_engine(local: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(audit_command(tmp_path / "out", *RAY, "2")) == 2
    assert same_audit(tmp_path / "out", local)
    said = capsys.readouterr()
    assert "actors     2, " in said.out
    assert "most of their time" in said.out
    assert "energy-pointing-game" in (tmp_path / "out" / "audit.json").read_text()
    assert "ray" not in json.loads((tmp_path / "out" / "audit.json").read_text())["command"].split()
    assert main(audit_command(tmp_path / "out", *RAY, "2")) == 2
    assert "actors" not in capsys.readouterr().out  # nothing was left to do


class Killed(BaseException):
    """What kill -9 is to the driver: nothing runs after it."""


def test_an_audit_whose_driver_and_actor_are_killed(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver ends after a picture; started again, it loses its actor: as if nothing had happened."""
    honest_save, out = ReportFolder.save, tmp_path / "out"

    def killed(self: ReportFolder, picture: FinishedPicture) -> None:
        honest_save(self, picture)
        raise Killed

    monkeypatch.setattr(ReportFolder, "save", killed)
    with pytest.raises(Killed):
        main(audit_command(out, *RAY, "1"))
    monkeypatch.setattr(ReportFolder, "save", honest_save)
    assert len(list(out.glob("maps/*/entry.json"))) == 1
    assert not (out / "audit.json").exists()
    honest = RayAuditing.pictures

    def killing(self: RayAuditing, *arguments: Any) -> Iterator[Any]:
        for number, pictures in enumerate(honest(self, *arguments)):
            if number == 0:
                kill_actors()
            yield pictures

    monkeypatch.setattr(RayAuditing, "pictures", killing)
    assert main(audit_command(out, *RAY, "1")) == 2
    assert same_audit(out, local)


def test_a_comparison_is_that_of_the_local_engine(local: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(compare_command(tmp_path / "out", *RAY, "2")) == 2
    assert same_comparison(tmp_path / "out", local)
    assert "actors     2, " in capsys.readouterr().out


def test_a_comparison_interrupted_and_killed(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    honest = RayComparing.chunks

    def interrupted(self: RayComparing, *arguments: Any) -> Iterator[Any]:
        chunks = honest(self, *arguments)
        yield next(chunks)
        yield next(chunks)
        chunks.close()
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(RayComparing, "chunks", interrupted)
    assert main(compare_command(out, *RAY, "1")) == 130
    assert "goes on from there" in capsys.readouterr().err

    def killing(self: RayComparing, *arguments: Any) -> Iterator[Any]:
        for number, results in enumerate(honest(self, *arguments)):
            if number == 0:
                kill_actors()
            yield results

    monkeypatch.setattr(RayComparing, "chunks", killing)
    assert main(compare_command(out, *RAY, "1")) == 2
    assert "pictures were finished before" in capsys.readouterr().err
    assert same_comparison(out, local)


def test_options_of_actors_need_the_engine(tmp_path: Path, capsys: Any) -> None:
    for command in (audit_command, compare_command):
        assert main(command(tmp_path / "out", "--actors", "2")) == 2
        assert "go with --engine ray" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
