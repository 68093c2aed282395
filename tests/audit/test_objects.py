"""Boxes and masks reach the pictures they were drawn on, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxvis.audit.objects import Place, read_objects
from onnxvis.errors import UsageError


def written(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_json_csv_and_coco_say_the_same(tmp_path: Path) -> None:
    plain = written(tmp_path / "a.json", {"x.jpg": [1, 2, 5, 8], "y.jpg": [[0, 0, 3, 3], [4.5, 4, 9, 9]]})
    table = written(
        tmp_path / "b.csv", "Path,class,xmin,ymin,xmax,ymax\nx.jpg,cat,1,2,5,8\ny.jpg,,0,0,3,3\n\ny.jpg,,4.5,4,9,9\n"
    )
    coco = {
        "images": [{"id": 7, "file_name": "x.jpg"}, {"id": 9, "file_name": "y.jpg"}],
        "annotations": [
            {"image_id": 7, "bbox": [1, 2, 4, 6]},
            {"image_id": 9, "bbox": [0, 0, 3, 3]},
            {"image_id": 9, "bbox": [4.5, 4, 4.5, 5]},
        ],
    }
    found = [
        read_objects(f).assigned(["x.jpg", "y.jpg"])[0] for f in (plain, table, written(tmp_path / "c.json", coco))
    ]
    assert found[0] == found[1] == found[2]
    np.testing.assert_array_equal(found[0]["y.jpg"].values(), [[0, 0, 3, 3], [4.5, 4, 9, 9]])
    assert len({read_objects(f).digest() for f in (plain, table, tmp_path / "c.json")}) == 1


def test_the_longest_end_of_a_path_counts_and_the_rest_is_said(tmp_path: Path) -> None:
    names = {"1.jpg": [0, 0, 1, 1], "dogs/1.jpg": [0, 0, 2, 2], "nobody.jpg": [0, 0, 3, 3]}
    objects = read_objects(written(tmp_path / "a.json", names))
    found, unused = objects.assigned(["p/cats/1.jpg", "p/dogs/1.jpg", "p/11.jpg", "zip://dogs/1.jpg2::x.zip"])
    assert {path: place.boxes[0][2] for path, place in found.items()} == {"p/cats/1.jpg": 1, "p/dogs/1.jpg": 2}
    assert unused == ["nobody.jpg"]
    with pytest.raises(UsageError, match=r"'1.jpg' of .* fits several pictures \(p/cats/1.jpg, p/birds/1.jpg\)"):
        objects.assigned(["p/cats/1.jpg", "p/birds/1.jpg"])


def test_members_of_archives_are_pictures_too(tmp_path: Path) -> None:
    objects = read_objects(written(tmp_path / "a.json", {"cats/1.jpg": [0, 0, 1, 1]}))
    assert list(objects.assigned(["zip://cats/1.jpg::/data/photos.zip"])[0]) == ["zip://cats/1.jpg::/data/photos.zip"]


def test_masks_of_a_folder_go_by_name_without_ending(tmp_path: Path) -> None:
    folder = tmp_path / "masks" / "cats"
    folder.mkdir(parents=True)
    drawn = np.zeros((6, 8), np.uint8)
    drawn[1:3, 2:5] = 255
    Image.fromarray(drawn).save(folder / "a.b.png")
    objects = read_objects(masks=tmp_path / "masks")
    found, _ = objects.assigned(["photos/cats/a.b.jpeg", "photos/a.jpg"])
    np.testing.assert_array_equal(found["photos/cats/a.b.jpeg"].values(), drawn > 0)
    assert list(found) == ["photos/cats/a.b.jpeg"]
    before = objects.digest()
    drawn[5, 7] = 255
    Image.fromarray(drawn).save(folder / "a.b.png")
    assert objects.digest() != before


def test_what_is_an_object_in_a_mask(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 40, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    assert Place(mask=tmp_path / "p.png").values().tolist() == [[False, True], [True, False]]
    see_through = np.full((2, 2, 4), 255, np.uint8)
    see_through[0, 0, 3] = 0
    Image.fromarray(see_through).save(tmp_path / "t.png")
    assert Place(mask=tmp_path / "t.png").values().tolist() == [[False, True], [True, True]]
    rough = np.zeros((32, 32), np.uint8)
    rough[8:19, 5:20] = 255
    Image.fromarray(rough).save(tmp_path / "j.jpg", quality=60)
    assert (Place(mask=tmp_path / "j.jpg").values() != (rough > 0)).mean() < 0.01


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "[]", "holds no object"),
        ("a.json", "{", "as JSON"),
        ("a.json", "[" * 100_000, "as JSON"),
        ("a.json", "{}", "says of no picture"),
        ("a.json", '{"x": [1, 2, 3]}', "is no box"),
        ("a.json", '{"x": [3, 2, 1, 4]}', "is no box"),
        ("a.json", '{"x": [0, 0, true, 4]}', "is no box"),
        ("a.json", '{"x": [0, 0, NaN, 4]}', "is no box"),
        ("a.json", f'{{"x": [0, 0, 1{"0" * 400}, 4]}}', "is no box"),
        ("a.json", '{"x": {"box": 1}}', "is no box"),
        ("a.json", '{" ": [0, 0, 1, 1]}', "without a name"),
        ("a.json", '{"x": [0, 0, 1, 1], "./x": [0, 0, 2, 2]}', "twice"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}]}', "COCO"),
        ("a.csv", "x.jpg,0,0,1,1\n", "heading line"),
        ("a.csv", "path,x0,y0,x1,y1\nx.jpg,0,0,one,1\n", "line 2"),
        ("a.csv", "path,x0,y0,x1,y1\nx.jpg,0,0\n", "line 2"),
    ],
)
def test_files_that_are_wrong_say_why(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_objects(written(tmp_path / name, text))


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="check the path"):
        read_objects(tmp_path / "none.json")
    with pytest.raises(UsageError, match="--masks a folder"):
        read_objects(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="says of no picture"):
        read_objects(masks=tmp_path / "empty")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UsageError, match="UTF-8"):
        read_objects(tmp_path / "bytes.json")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "x.png").write_bytes(b"no picture")
    place = read_objects(masks=tmp_path / "masks").assigned(["x.jpg"])[0]["x.jpg"]
    with pytest.raises(UsageError, match="cannot be read"):
        place.values()
    with pytest.raises(UsageError, match="say it once"):
        read_objects(written(tmp_path / "a.json", {"x.jpg": [0, 0, 1, 1]}), tmp_path / "masks")
