"""Explanations on Ray are those of the local engine, file by file, whoever dies on the way."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.nets import SmallNet
from support.ray_work import kill_actors

import onnxvis
from onnxvis.cli import main
from onnxvis.errors import UsageError
from onnxvis.explain_chunk import ChunkWork, chunk_items
from onnxvis.explaining import Settings, request

pytest.importorskip("ray", reason="the engine needs the extra 'ray'")

from onnxvis.cluster import ClusterOptions
from onnxvis.cluster.explaining import RayExplaining

pytestmark = pytest.mark.usefixtures("ray_cluster")
COUNT = 7
ASKED = [
    "-m",
    "grad-cam,saliency,occlusion",
    "-t",
    "top2",
    "--batch-size",
    "2",
    "-O",
    "window=16",
    "-O",
    "engine=plain",
]
ASKED += ["--gradients", "onnx"]  # an actor loads torch for seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explain")
    onnx.save(SmallNet(width=4).model(), root / "model.onnx")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        folder = root / "pictures" / f"{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number // 2}.png")  # so that two have every name
    (root / "pictures" / "0" / "0.png").write_bytes(b"no picture")  # the first one, which decides nothing then
    return root


@pytest.fixture(scope="module")
def local(place: Path) -> Path:
    assert main(command(place, place / "local")) == 2
    return place / "local"


def command(place: Path, out: Path, *more: str) -> list[str]:
    asked = ["explain", str(place / "model.onnx"), str(place / "pictures"), "--preprocessing", "unit", *ASKED]
    return [*asked, "--out", str(out), *more]


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder; manifests without times."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "index.html"):
        data: Any = path.read_bytes()
        if path.name == "manifest.json":
            data = json.loads(data)
            del data["seconds"]
        found[str(path.relative_to(folder))] = data
    return found


def test_results_are_those_of_the_local_engine(place: Path, local: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(command(place, tmp_path / "out", "--engine", "ray", "--actors", "2")) == 2
    printed = capsys.readouterr()
    assert "1 of 7 pictures failed" in printed.err
    assert "most of their time" in printed.out
    expected, found = contents(local), contents(tmp_path / "out")
    assert list(found) == list(expected)
    assert len(found) == (COUNT - 1) * (3 * 2 * 4 + 1)
    assert found == expected
    pages = [(folder / "index.html").read_text(encoding="utf-8") for folder in (local, tmp_path / "out")]
    assert pages[0].count("<img") == pages[1].count("<img") > 0
    order = [re.findall(r"\b\d\.png", page) for page in pages]
    assert order[0] == order[1]


def test_relative_paths_start_where_the_command_is_given(
    place: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    asked = ["explain", "model.onnx", "pictures/1", "--preprocessing", "unit", *ASKED, "--quiet"]
    assert main([*asked, "--out", "beside", "--engine", "ray", "--actors", "1"]) == 0
    manifest = json.loads(next(Path("beside").rglob("manifest.json")).read_text())
    assert manifest["picture"]["path"].startswith("pictures/1")
    assert manifest["provenance"]["model"]["path"] == "model.onnx"
    maps = {path.parent.relative_to("beside") for path in Path("beside").rglob("attribution.npy")}
    assert len(maps) == 3 * 3 * 2


def test_interrupted_and_killed(
    place: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Ctrl-C after the first chunk, then again with an actor killed in the middle: as if nothing had happened."""
    honest = RayExplaining.chunks

    def interrupted(self: RayExplaining, *arguments: Any) -> Iterator[Any]:
        chunks = honest(self, *arguments)
        yield next(chunks)
        chunks.close()
        raise KeyboardInterrupt

    out = tmp_path / "out"
    asked = command(place, out, "--engine", "ray", "--actors", "1", "--quiet")
    monkeypatch.setattr(RayExplaining, "chunks", interrupted)
    assert main(asked) == 130
    assert "finished is kept" in capsys.readouterr().err
    assert not list(out.rglob(".*"))
    assert (out / "index.html").exists()

    def killing(self: RayExplaining, *arguments: Any) -> Iterator[Any]:
        for number, results in enumerate(honest(self, *arguments)):
            if number == 0:
                kill_actors()
            yield results

    monkeypatch.setattr(RayExplaining, "chunks", killing)
    assert main(asked) == 2
    assert contents(out) == contents(local)


def test_a_folder_that_actors_do_not_see_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnxvis.load(place / "model.onnx", preprocessing="unit")
    monkeypatch.setattr("onnxvis.cluster.explaining._write_mark", lambda mark: None)
    items = chunk_items([str(place / "pictures" / "1" / "0.png")])
    tmp_path.joinpath("out").mkdir()
    work = ChunkWork((request(model, "saliency", {}),), ("top1",), Settings(), tmp_path / "out")
    with pytest.raises(UsageError, match="must be shared by all machines"):
        list(RayExplaining(ClusterOptions(actors=1)).chunks(model, work, [items]))
    assert not list((tmp_path / "out").iterdir())


def test_every_method_can_be_sent(place: Path) -> None:
    model = onnxvis.load(place / "model.onnx", preprocessing="unit")
    for name in ("cam", "grad-cam", "score-cam", "occlusion", "rise", "integrated-gradients"):
        if name in onnxvis.method_names():
            sent = pickle.loads(pickle.dumps(request(model, name, {})))
            assert sent.method.name == name


def test_names_of_folders() -> None:
    items = chunk_items(["a/x.png", "b/x.png", "zip://c/y.png::s3://b/z.zip", "s3://b/t.parquet#row=3", "a/x.png"])
    assert [(item.name, item.alone) for item in items] == [
        ("x", True), ("x", False), ("y", True), ("t-row-3", True), ("x", True),
    ]  # fmt: skip
