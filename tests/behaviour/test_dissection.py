"""Network Dissection: counts against counting pixel by pixel, and the three sources against each other."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.stores import LAYERS

from onnxvis.behaviour.dissect_pass import DissectOptions, dissect_layer, draw_detections, geometry_of
from onnxvis.behaviour.dissection import ConceptCount, Dissection, csv_lines
from onnxvis.behaviour.label_maps import LabelMaps, on_input_grid
from onnxvis.behaviour.masks import Anchors
from onnxvis.behaviour.opening import pictures_of
from onnxvis.errors import PictureError, UsageError
from onnxvis.preprocessing import Geometry

NAMES = {1: "dark", 2: "bright", 7: "left"}


def label_map(pixels: np.ndarray) -> np.ndarray:
    """Numbers 0 (nothing), 1, 2, 7 and 255 (void), by brightness and place."""
    gray = pixels.mean(axis=2)
    labels = np.where(gray < 90, 1, np.where(gray > 160, 2, 0)).astype(np.uint8)
    labels[:, : labels.shape[1] // 5] = 7
    labels[-2:] = 255
    return labels


@pytest.fixture(scope="module")
def masks(room: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of all pictures but one, in the pictures' folders."""
    folder = tmp_path_factory.mktemp("masks")
    for path in room.photos[:-1]:
        target = folder / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(label_map(np.asarray(Image.open(path)))).save(target)
    (folder / "concepts.txt").write_text("".join(f"{n} {name}\n" for n, name in NAMES.items()))
    return folder


def brute_force(room: Any, layer: str, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions, one pixel of the input after the other."""
    units = room.maps[layer].shape[1]
    both, masked, labeled = np.zeros((units, 3), int), np.zeros(units, int), np.zeros(3, int)
    anchors = Anchors(room.model.fields[layer], (24, 32), layer)
    for k, path in enumerate(room.photos[:-1]):
        labels = label_map(np.asarray(Image.open(path)))
        geometry = room.model.prepare(path).geometry
        large = anchors.enlarge(room.maps[layer][k])
        for y in range(24):
            for x in range(32):
                px, py = geometry.point_to_picture((x, y))
                row, col = int(np.floor(py + 0.5)), int(np.floor(px + 0.5))
                x0, y0, x1, y1 = geometry.content_box
                if not (x0 <= x < x1 and y0 <= y < y1):
                    continue
                label = labels[min(max(row, 0), labels.shape[0] - 1), min(max(col, 0), labels.shape[1] - 1)]
                if label == 255:
                    continue
                on = large[:, y, x] > thresholds
                masked += on
                if label in NAMES:
                    place = list(NAMES).index(label)
                    both[:, place] += on
                    labeled[place] += 1
    return both, masked[:, None] + labeled[None] - both


@pytest.mark.parametrize("layer", LAYERS)
def test_a_dissection_equals_brute_force(room: Any, masks: Path, layer: str) -> None:
    options = DissectOptions(top=0.1, limit=0.15)
    maps, pictures = LabelMaps.open(masks), pictures_of(room.store, room.model)
    found = dissect_layer(room.store, room.model, pictures, layer, maps, options)
    thresholds = room.store.quantile(layer, 0.9)
    both, either = brute_force(room, layer, thresholds)
    np.testing.assert_array_equal(found.result.both, both)
    np.testing.assert_array_equal(found.result.either, either)
    np.testing.assert_allclose(found.result.iou, both / either)
    assert found.result.names == tuple(NAMES.values())
    assert found.pictures == len(room.photos) - 1
    assert any("run again" in note for note in found.notes)
    assert any("1 of 14 pictures have no label map" in note for note in found.notes)
    iou = both / either
    ranked = found.result.ranked()
    assert [d.iou for d in ranked] == sorted(iou.max(axis=1), reverse=True)
    assert found.result.unique_detectors() == len({iou[u].argmax() for u in range(len(iou)) if iou[u].max() > 0.15})


def test_kept_maps_and_the_counts_of_the_pass_agree(room: Any, masks: Path, tmp_path: Path) -> None:
    from onnxvis.behaviour.index.run import IndexOptions, index

    photos = [str(room.folder / "photos")]
    kept = index(room.model, photos, tmp_path / "kept", IndexOptions(layers=LAYERS, keep_maps=True)).store
    index(room.model, photos, tmp_path / "counted", IndexOptions(layers=LAYERS, masks=str(masks), top=0.1))
    counted = type(kept).open(tmp_path / "counted")
    maps, options = LabelMaps.open(masks), DissectOptions(top=0.1)
    for layer in LAYERS:
        answers = {}
        for name, store in (("run", room.store), ("kept", kept), ("counted", counted)):
            pictures = pictures_of(store, room.model)
            answers[name] = dissect_layer(store, room.model, pictures, layer, maps, options)
        np.testing.assert_array_equal(answers["counted"].result.both, answers["run"].result.both)
        np.testing.assert_array_equal(answers["counted"].result.either, answers["run"].result.either)
        # Maps in half precision: pixels at the very threshold may fall on its other side.
        np.testing.assert_allclose(answers["kept"].result.both, answers["run"].result.both, atol=3)
        assert "nothing was run" in answers["counted"].notes[0]
        assert "kept in the store" in answers["kept"].notes[0]
    without = dissect_layer(counted, room.model, pictures_of(counted, room.model), LAYERS[0], None, options)
    assert "nothing was run" in without.notes[0]
    with pytest.raises(UsageError, match="another --top"):
        dissect_layer(counted, room.model, pictures_of(counted, room.model), LAYERS[0], None, DissectOptions())


def test_counts_of_parts_add_up(room: Any) -> None:
    rng = np.random.default_rng(0)
    layer, anchors = LAYERS[1], Anchors(room.model.fields[LAYERS[1]], (24, 32))
    labels = rng.integers(-1, 4, (6, 24, 32))
    whole, parts = (ConceptCount(np.full(8, 0.3), "abc", anchors) for _ in range(2))
    other = ConceptCount(np.full(8, 0.3), "abc", anchors)
    for k in range(6):
        whole.add(room.maps[layer][k], labels[k])
        (parts if k % 2 else other).add(room.maps[layer][k], labels[k])
    parts.merge(other)
    np.testing.assert_array_equal(whole.overlap.both, parts.overlap.both)
    np.testing.assert_array_equal(whole.result(layer).either, parts.result(layer).either)
    assert parts.pictures == 6
    with pytest.raises(UsageError):
        parts.merge(ConceptCount(np.full(8, 0.3), "abd", anchors))
    with pytest.raises(UsageError):
        parts.add(room.maps[layer][0], labels[0][:5])


def test_a_table_by_hand() -> None:
    both = np.array([[30, 0], [5, 5], [0, 0], [40, 9]])
    either = np.array([[100, 50], [200, 100], [70, 0], [80, 300]])
    found = Dissection("conv", ("sky", "sea"), np.array([1, 2, 3, 4], np.float32), both, either, 0.04)
    assert [(d.unit, d.concept) for d in found.ranked()] == [(3, "sky"), (0, "sky"), (1, "sea"), (2, "sky")]
    assert [d.unit for d in found.detectors()] == [3, 0, 1]
    assert found.unique_detectors() == 2
    assert [d.unit for d in found.of_concept(1)] == [1, 3]
    assert found.to_dict()["ranked"][0] == {
        "layer": "conv", "unit": 3, "concept": "sky", "iou": 0.5, "both": 40, "either": 80, "threshold": 4.0
    }  # fmt: skip
    json.dumps(found.to_dict(), allow_nan=False)
    rows = list(csv.DictReader(io.StringIO(csv_lines([found]))))
    assert [(r["unit"], r["concept"], r["best_of_unit"]) for r in rows][:3] == [
        ("3", "sky", "1"), ("0", "sky", "1"), ("1", "sea", "1")
    ]  # fmt: skip
    assert len(rows) == 5


def test_geometry_is_known_without_the_file(room: Any) -> None:
    for row, path in zip(room.store.pictures(), room.photos, strict=True):
        assert geometry_of(room.model, None, row) == room.model.prepare(path).geometry  # type: ignore[arg-type]


def test_drawings_show_the_strongest_pictures(room: Any, masks: Path) -> None:
    maps, pictures = LabelMaps.open(masks), pictures_of(room.store, room.model)
    found = dissect_layer(room.store, room.model, pictures, LAYERS[1], maps, DissectOptions(top=0.1)).result
    chosen = found.of_concept(2, 2)
    drawn = draw_detections(room.store, room.model, pictures, maps, found, chosen, 3)
    places = room.store.top(LAYERS[1])
    for detection in chosen:
        images = drawn[detection.unit, "left"]
        assert [i.picture for i in images] == places.picture[detection.unit, :3].tolist()
        assert [i.value for i in images] == places.values[detection.unit, :3].tolist()
        assert any((i.pixels == (64, 224, 255)).all(axis=2).any() for i in images)


# --- label maps on disk ----------------------------------------------------------------------------


def test_labels_are_taken_under_each_input_pixel() -> None:
    labels = np.arange(12).reshape(3, 4)
    geometry = Geometry((4, 3), (8, 8), (2.0, 2.0), (0.0, 1.0))
    grid = on_input_grid(labels, geometry)
    np.testing.assert_array_equal(grid[1:7], labels.repeat(2, axis=0).repeat(2, axis=1))
    assert (grid[[0, 7]] == -1).all()


def test_label_maps_are_found_by_the_end_of_the_path(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "y.png", "c.d/z.v2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / name)
    with pytest.raises(UsageError, match=r"concepts\.txt"):
        LabelMaps.open(tmp_path)
    (tmp_path / "concepts.json").write_text('{"3": "tree", "1": "sky"}')
    maps = LabelMaps.open(tmp_path)
    assert (maps.numbers, maps.names) == ((1, 3), ("sky", "tree"))
    assert maps.find("/data/a/x.jpg") == tmp_path / "a/x.png"
    assert maps.find("/data/B/X.JPG") == tmp_path / "b/x.png"
    assert maps.find("/data/q/y.jpeg") == tmp_path / "y.png"
    assert maps.find("/data/c.d/z.v2.jpg") == tmp_path / "c.d/z.v2.png"
    assert maps.find("w.jpg") is None
    assert maps.find("zip://a/x.png::/data/y.zip") == tmp_path / "a/x.png"
    assert maps.find("zip://w.png::/data/y.zip") is None
    assert maps.find("s3://bucket/b/x.jpg?v=1") == tmp_path / "b/x.png"
    with pytest.raises(UsageError, match="could have the label map"):
        maps.find("/data/x.jpg")


def test_numbers_of_one_name_are_told_apart(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "concepts.txt").write_text("sky\ncrane\ncrane\n")
    assert LabelMaps.open(tmp_path).names == ("sky", "crane (1)", "crane (2)")


def test_label_maps_are_read_in_every_form(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 3], [255, 9, 1]])
    expected = [[2, 0, 1], [-1, 2, 0]]
    (tmp_path / "concepts.txt").write_text("1 sky\n3 tree\n")
    palette = Image.fromarray(numbers.astype(np.uint8), "P")
    palette.putpalette([v for v in range(256) for _ in range(3)])
    palette.save(tmp_path / "p.png")
    Image.fromarray(numbers.astype(np.uint8)).save(tmp_path / "l.png")
    Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / "i.png")
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "rgb.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "l.png").read_bytes()[:40])
    maps = LabelMaps.open(tmp_path)
    for name in ("p", "l", "i"):
        assert maps.read(tmp_path / f"{name}.png", (3, 2)).tolist() == expected
    with pytest.raises(PictureError, match="is 3 x 2 and its picture 2 x 3"):
        maps.read(tmp_path / "l.png", (2, 3))
    with pytest.raises(PictureError, match="RGB"):
        maps.read(tmp_path / "rgb.png", (3, 2))
    with pytest.raises(PictureError, match="cannot be read"):
        maps.read(tmp_path / "broken.png", (3, 2))


def test_numbers_that_are_colors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "concepts.txt").write_text("1 sky\n")
    Image.fromarray(np.full((2, 2), 16_000_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(PictureError, match="16000000"):
        LabelMaps.open(tmp_path).read(tmp_path / "i.tif", (2, 2))
