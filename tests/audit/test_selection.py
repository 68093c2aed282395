"""Which pictures are explained, and what they are said to show."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from onnxvis.audit.selection import Answer, Selection, find_items, parse_selection, select, true_class
from onnxvis.errors import PictureError, UsageError
from onnxvis.labels import Labels

LABELS = Labels(("tench, Tinca tinca", "crane", "crane, lifting", "tabby cat", "7"), "given")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_class_folders_label_their_pictures_by_name_synonym_and_index(tmp_path: Path) -> None:
    touch(tmp_path, "Tinca Tinca/a.png", "tabby_cat/deep/b.jpg", "2/c.png")
    found = find_items([str(tmp_path)], LABELS, 5)
    assert {Path(i.path).name: i.truth for i in found.items} == {"a.png": 0, "b.jpg": 3, "c.png": 2}
    assert found.labelled
    assert "sub-folders" in found.truth_source


def test_folders_that_are_not_all_classes_are_no_labels_and_it_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "tabby cat/a.png", "holiday/b.png")
    found = find_items([str(tmp_path)], LABELS, 5)
    assert [i.truth for i in found.items] == [None, None]
    assert "holiday" in found.truth_source
    assert not found.labelled


def test_the_beginning_of_a_name_is_not_its_class() -> None:
    with pytest.raises(UsageError, match="no class"):
        true_class("tabby", LABELS, 5)
    assert true_class("crane", LABELS, 5) == 1, "a whole name comes before a synonym"
    assert true_class("7", LABELS, 5) == 4, "a class that is called 7 comes before index 7"
    with pytest.raises(UsageError, match="0 to 4"):
        true_class("9", LABELS, 5)
    with pytest.raises(UsageError, match="names 2 classes"):
        true_class("x", Labels(("a, x", "b, x")), 2)


def test_a_csv_of_paths_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/b.png")
    (tmp_path / "list.csv").write_text('path,label\nin/a.png,"crane, lifting"\n\nin/b.png,0\n', encoding="utf-8")
    found = find_items([str(tmp_path / "list.csv")], LABELS, 5)
    assert [(i.path, i.truth) for i in found.items] == [
        (str(tmp_path / "in/a.png"), 2),
        (str(tmp_path / "in/b.png"), 0),
    ]
    (tmp_path / "bad.csv").write_text("in/a.png,tabby cat\nin/b.png,dragon\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"bad\.csv, line 2.*dragon"):
        find_items([str(tmp_path / "bad.csv")], LABELS, 5)
    (tmp_path / "short.csv").write_text("in/a.png\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 1"):
        find_items([str(tmp_path / "short.csv")], LABELS, 5)
    (tmp_path / "latin.csv").write_bytes(b"caf\xe9.png,0\n")
    with pytest.raises(UsageError, match="UTF-8"):
        find_items([str(tmp_path / "latin.csv")], LABELS, 5)
    with pytest.raises(UsageError, match="cannot be read"):
        find_items([str(tmp_path / "none.csv")], LABELS, 5)


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no pictures"):
        find_items([str(tmp_path)], LABELS, 5)


ANSWERS = [Answer(0, 0.9, 0), Answer(1, 0.5, 0), Answer(2, 0.8, 1), Answer(0, 0.3, 0), Answer(1, 0.99, 2)]


@pytest.mark.parametrize(
    ("rule", "limit", "expected"),
    [
        ("all", 10, [0, 1, 2, 3, 4]),
        ("all", 2, [0, 2]),
        ("misclassified", 10, [4, 2, 1]),
        ("misclassified", 1, [4]),
        ("least-confident", 2, [3, 1]),
        ("most-confident", 2, [4, 0]),
        ("per-class", 10, [3, 2, 4]),
        ("per-class 2", 10, [3, 1, 2, 4]),
    ],
)
def test_rules(rule: str, limit: int, expected: list[int]) -> None:
    chosen, words = select(ANSWERS, parse_selection(rule), limit)
    assert chosen == expected
    assert ("--limit" in words) == (rule in ("all", "misclassified", "least-confident", "most-confident") and limit < 3)


def test_misclassified_needs_labels() -> None:
    with pytest.raises(UsageError, match="labels"):
        select([Answer(0, 0.5)], Selection("misclassified"), 5)
    assert select([Answer(0, 0.5), Answer(1, 0.4), Answer(0, 0.1)], Selection("per-class"), 5)[0] == [2, 1]


@pytest.mark.parametrize("text", ["", "worst", "all 3", "per-class 0", "per-class x", "per-class 1 2"])
def test_unknown_rules_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_selection(text)


def zipped(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return str(path)


def test_an_archive_labels_its_pictures_as_a_folder_does(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "tabby_cat/b.jpg", "2/c.png")
    found = find_items([path], LABELS, 5)
    assert {item.path: item.truth for item in found.items} == {
        f"zip://tabby_cat/b.jpg::{path}": 3,
        f"zip://2/c.png::{path}": 2,
    }
    assert path in found.truth_source
    found = find_items([zipped(tmp_path / "b.zip", "crane/a.png", "holiday/b.png")], LABELS, 5)
    assert [item.truth for item in found.items] == [None, None]
    assert "holiday" in found.truth_source
    found = find_items([zipped(tmp_path / "c.zip", "crane/a.png", "b.png")], LABELS, 5)
    assert [item.truth for item in found.items] == [None, None]
    assert "not every picture" in found.truth_source
    with pytest.raises(PictureError, match="no pictures at"):
        find_items([zipped(tmp_path / "d.zip", "read.me")], LABELS, 5)


def test_a_url_is_opened_whole_and_reported_without_its_credentials(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("s3://me:geheim@b/a.png?X-Amz-Signature=geheim,crane\n", encoding="utf-8")
    (item,) = find_items([str(tmp_path / "list.csv")], LABELS, 5).items
    assert item.opened == "s3://me:geheim@b/a.png?X-Amz-Signature=geheim"
    assert item.path == "s3://b/a.png?X-Amz-Signature=..."
    assert item.truth == 1
    assert "geheim" not in repr(item)
