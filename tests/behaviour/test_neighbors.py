"""Neighbors, duplicates and outliers against brute force and against what was planted."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.stores import MadeUpRow

from onnxvis.behaviour.neighbors import (
    METRICS,
    duplicates,
    nearest_neighbors,
    outliers,
    pixel_distances,
    pixel_nearest,
)
from onnxvis.behaviour.opening import pictures_of
from onnxvis.behaviour.stored import Pictures
from onnxvis.behaviour.thumbnails import Thumbnails, make_thumbnails, thumbnail_of
from onnxvis.cli import main
from onnxvis.errors import UsageError


def slow_distance(a: np.ndarray, b: np.ndarray, metric: str) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "euclidean":
        return float(np.sqrt(((a - b) ** 2).sum()))
    return float(1 - a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("metric", METRICS)
def test_neighbors_are_those_of_brute_force(metric: Any) -> None:
    vectors = np.random.default_rng(1).standard_normal((40, 7)).astype(np.float32)
    vectors[7] = vectors[3]
    places, distances = nearest_neighbors(vectors, 5, metric)
    for i in range(40):
        others = sorted((slow_distance(vectors[i], vectors[j], metric), j) for j in range(40) if j != i)
        np.testing.assert_allclose(distances[i], [d for d, _ in others[:5]], atol=1e-9)
        if i in (3, 7):
            assert distances[i, 0] < 1e-7
            assert places[i, 0] == 10 - i
        else:
            same = {7: 3}  # equal rows: either may be the last that fits
            assert {same.get(j, j) for j in places[i].tolist()} == {same.get(j, j) for _, j in others[:5]}
    with pytest.raises(UsageError):
        nearest_neighbors(vectors[:1], 3)


def thumbnails_of(pixels: np.ndarray, good: np.ndarray | None = None) -> Thumbnails:
    return Thumbnails(np.arange(len(pixels)) + 10, pixels, np.ones(len(pixels), bool) if good is None else good)


def test_pixel_neighbors_are_those_of_brute_force() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    good = np.ones(30, bool)
    good[5] = False
    table = thumbnails_of(pixels, good)
    slow = [np.sqrt(((p.astype(float) - pixels[8].astype(float)) ** 2).mean()) for p in pixels]
    found = pixel_distances(table, pixels[8])
    assert np.isinf(found[5])
    np.testing.assert_allclose(found[good], np.array(slow)[good], rtol=1e-6)
    ids, distances = pixel_nearest(table, pixels[8], 4, without=18)
    expected = sorted((d, i + 10) for i, d in enumerate(slow) if i not in (5, 8))[:4]
    assert ids.tolist() == [i for _, i in expected]
    np.testing.assert_allclose(distances, [d for d, _ in expected], rtol=1e-6)


def test_thumbnails_are_taken_up_where_they_stopped(room: Any, tmp_path: Path) -> None:
    pictures = pictures_of(room.store, room.model)
    ids = [row.id for row in room.store.pictures()]
    whole = make_thumbnails(pictures, ids, 8, tmp_path / "a")
    for k, path in enumerate(room.photos):
        np.testing.assert_array_equal(whole.pixels[k], thumbnail_of(room.model.prepare(path).display(), 8))

    def interrupted(stage: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_thumbnails(pictures, ids, 8, tmp_path / "b", interrupted)
    read: list[str] = []

    def counting(path: str) -> Any:
        read.append(path)
        return room.model.prepare(path)

    counted = Pictures(room.store.pictures(), counting)
    again = make_thumbnails(counted, ids, 8, tmp_path / "b")
    assert sorted(read) == sorted(row.path for row in room.store.pictures()[5:])
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    make_thumbnails(counted, ids, 8, tmp_path / "b")
    assert len(read) == len(ids) - 5


def test_a_missing_picture_is_counted_and_gray(room: Any, tmp_path: Path) -> None:
    rows = [MadeUpRow(0, str(tmp_path / "gone.png"), "x"), MadeUpRow(1, str(room.photos[0]), "y")]
    found = make_thumbnails(Pictures(rows, room.model.prepare), [0, 1], 8, tmp_path / "t")
    assert found.good.tolist() == [False, False]
    assert (found.pixels == 128).all()
    assert found.problems.startswith("2 of 2 pictures")


def test_planted_duplicates_are_found() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    vectors = rng.standard_normal((30, 12)).astype(np.float32)
    sums = [f"{i}" for i in range(30)]
    pixels[4], vectors[4], sums[4] = pixels[20], vectors[20], sums[20]
    for k, noise in ((5, 3), (6, 4)):
        pixels[k] = np.clip(pixels[25].astype(int) + rng.integers(-noise, noise + 1, pixels[25].shape), 0, 255)
        vectors[k] = vectors[25] + 0.01 * rng.standard_normal(12)
    vectors[9] = vectors[10] + 0.01  # alike to the network, but not in pixels
    rows = [MadeUpRow(i + 10, sha256=s) for i, s in enumerate(sums)]
    groups, limit = duplicates(rows, np.arange(30) + 10, vectors, thumbnails_of(pixels))
    assert [(g.ids, g.identical) for g in groups] == [((14, 30), True), ((15, 16, 35), False)]
    assert groups[0].distance == 0
    assert 0 < groups[1].distance <= limit
    assert 0 < groups[1].pixels < 5


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbors_in_blocks_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch, metric: Any) -> None:
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((53, 4)).astype(np.float32)
    vectors[20:40] = vectors[3]  # more equal rows than neighbors
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("onnxvis.behaviour.neighbors._ROWS", 7)
    places, distances = nearest_neighbors(vectors, 5, metric, lambda stage, done, total: told.append((done, total)))
    assert told == [*((start, 53) for start in range(0, 53, 7)), (53, 53)]
    slow = np.array([[slow_distance(a, b, metric) for b in vectors] for a in vectors])
    np.fill_diagonal(slow, np.inf)
    np.testing.assert_allclose(distances, np.sort(slow, axis=1)[:, :5], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(slow, places, axis=1), distances, atol=1e-6)
    assert all(len(set(row)) == 5 for row in places.tolist())


def test_planted_outliers_come_first() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((60, 5)).astype(np.float32)
    vectors[11] += 14
    vectors[41] -= 9
    found = outliers(np.arange(60) + 100, vectors, 6)
    assert [o.id for o in found[:2]] == [111, 141]
    slow = sorted(slow_distance(vectors[11], v, "euclidean") for v in vectors)[6]
    assert found[0].distance == pytest.approx(slow)
    # Breunig et al. 2000: reachability distances, local reachability density, their mean ratio.
    d = np.array([[slow_distance(a, b, "euclidean") for b in vectors] for a in vectors])
    np.fill_diagonal(d, np.inf)
    near = np.argsort(d, axis=1)[:, :6]
    k_distance = np.take_along_axis(d, near, axis=1)[:, -1]
    density = 1 / np.array([np.maximum(k_distance[near[i]], d[i, near[i]]).mean() for i in range(60)])
    factors = {i + 100: density[near[i]].mean() / density[i] for i in range(60)}
    for one in found:
        assert one.factor == pytest.approx(factors[one.id], rel=1e-8)
    with pytest.raises(UsageError, match="three"):
        outliers([1, 2], vectors[:2])


# --- the command -----------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return main(["neighbors", *arguments, "--quiet"])


def test_the_command_finds_what_brute_force_finds(room: Any, tmp_path: Path) -> None:
    store, model = str(room.folder / "store"), str(room.model.file.path)
    ids, vectors = room.store.embeddings()
    assert run(store, "3", "-k", "4", "-o", str(tmp_path / "id")) == 0
    by_id = json.loads((tmp_path / "id" / f"{room.photos[3].stem}.json").read_text())
    slow = sorted(
        (slow_distance(vectors[3], v, "euclidean"), int(i)) for i, v in zip(ids, vectors, strict=True) if i != 3
    )
    assert [n["id"] for n in by_id["embedding"]] == [i for _, i in slow[:4]]
    np.testing.assert_allclose([n["distance"] for n in by_id["embedding"]], [d for d, _ in slow[:4]], rtol=1e-6)
    small = [thumbnail_of(room.model.prepare(p).display(), 32).astype(float) for p in room.photos]
    pixels = sorted((np.sqrt(((s - small[3]) ** 2).mean()), i) for i, s in enumerate(small) if i != 3)
    assert [n["id"] for n in by_id["pixels"]] == [i for _, i in pixels[:4]]
    # The same file by its path is looked up, too; another file of the same picture is run.
    assert run(store, str(room.photos[3]), "-k", "4", "-o", str(tmp_path / "path")) == 0
    by_path = json.loads((tmp_path / "path" / f"{room.photos[3].stem}.json").read_text())
    assert by_path["embedding"] == by_id["embedding"]
    copy = tmp_path / "copy.bmp"
    Image.open(room.photos[3]).save(copy)
    assert run(store, str(copy), "-k", "5", "--model", model, "-o", str(tmp_path / "copy")) == 0
    ran = json.loads((tmp_path / "copy" / "copy.json").read_text())
    assert ran["id"] is None
    assert "the model was run" in " ".join(ran["notes"])
    assert ran["embedding"][0]["id"] == 3
    assert ran["embedding"][0]["distance"] == pytest.approx(0, abs=1e-5)
    assert [n["id"] for n in ran["embedding"][1:]] == [n["id"] for n in by_id["embedding"]]
    assert Image.open(io.BytesIO((tmp_path / "copy" / "copy.png").read_bytes())).width > 400


def test_the_command_lists_duplicates_and_outliers(room: Any, tmp_path: Path) -> None:
    assert run(str(room.folder / "store"), "--duplicates", "--outliers", "3", "-k", "4", "-o", str(tmp_path)) == 0
    ranked = json.loads((tmp_path / "outliers.json").read_text())["ranked"]
    assert len(ranked) == len(room.photos)
    assert [r["factor"] for r in ranked] == sorted((r["factor"] for r in ranked), reverse=True)
    assert (tmp_path / "outliers.png").is_file()
    assert "groups" in json.loads((tmp_path / "duplicates.json").read_text())


def test_the_command_says_what_is_wrong(room: Any, tmp_path: Path, capsys: Any) -> None:
    store = str(room.folder / "store")
    for arguments, words in (
        ((store,), "name a picture"),
        ((store, "99"), "numbered 0 to 13"),
        ((store, "3", "--metric", "taxi"), "euclidean or cosine"),
        ((str(tmp_path / "none"), "3"), "onnxvis index"),
        ((store, "zip://a.png::none.zip"), "no picture zip://a.png::none.zip"),
    ):
        assert run(*arguments, "-o", str(tmp_path / "o")) == 2
        assert words in " ".join(capsys.readouterr().err.split())
