"""Listing the pictures of a data set, and reading them ahead."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.nets import SmallNet

import onnxvis
from onnxvis.errors import PictureError, UsageError
from onnxvis.reading import ListedPicture, list_pictures, prepare_ahead, read_ahead


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_folder_is_sorted_and_sub_folders_are_labels(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/3.png", "a/1.png", "0.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    listed = list_pictures([str(tmp_path)])
    assert [os.path.relpath(p.path, tmp_path) for p in listed] == ["0.png", "a/1.png", "a/3.png", "b/2.png"]
    assert [p.label for p in listed] == [None, "a", "a", "b"]
    assert list_pictures([str(tmp_path / "b" / "2.png"), str(tmp_path)]) == listed  # each once, whatever the order


def test_a_list_of_paths_and_labels(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "x" / "1.png"), picture(tmp_path / "x" / "2.png")
    (tmp_path / "set.csv").write_text(f"path,label\nx/2.png, dog \n{first},\n\n")
    assert list_pictures([str(tmp_path / "set.csv")]) == [ListedPicture(str(first)), ListedPicture(str(second), "dog")]
    (tmp_path / "bare.csv").write_text("x/2.png,dog\n")
    assert list_pictures([str(tmp_path / "bare.csv")]) == [ListedPicture(str(second), "dog")]


def test_what_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("path,label\n")
    with pytest.raises(PictureError, match="lists no picture"):
        list_pictures([str(tmp_path / "none.csv")])
    with pytest.raises(PictureError, match="no pictures"):
        list_pictures([str(tmp_path)])
    with pytest.raises(PictureError, match="no picture was given"):
        list_pictures([])
    (tmp_path / "two.csv").write_text("1.png,cat\n1.png,dog\n")
    with pytest.raises(UsageError, match="'cat' and 'dog'"):
        list_pictures([str(tmp_path / "two.csv")])


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 40), workers=st.integers(1, 5), ahead=st.integers(1, 9), seed=st.integers(0, 99))
def test_results_come_in_order_and_never_more_than_asked_wait(count: int, workers: int, ahead: int, seed: int) -> None:
    naps = np.random.default_rng(seed).random(count) * 0.002
    drawn = taken = most = 0

    def items():
        nonlocal drawn, most
        for number in range(count):
            drawn += 1
            most = max(most, drawn - taken)
            yield number

    def work(number: int) -> int:
        time.sleep(float(naps[number]))
        if number % 5 == 3:
            raise PictureError(f"{number} is broken")
        if number % 7 == 6:
            raise MemoryError
        return number * number

    results = []
    for read in read_ahead(items(), work, workers=workers, ahead=ahead):
        taken += 1
        results.append(read)
    assert [r.position for r in results] == [r.item for r in results] == list(range(count))
    for read in results:
        if read.item % 5 == 3:
            assert (read.value, read.error) == (None, f"{read.item} is broken")
        elif read.item % 7 == 6:
            assert read.value is None
            assert "memory" in read.error
        else:
            assert (read.value, read.error) == (read.item**2, "")
    assert most <= ahead + 1


def test_a_defect_is_raised_and_leaving_early_ends_the_threads() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ZeroDivisionError
        return number

    with pytest.raises(ZeroDivisionError):
        list(read_ahead(range(5), work))
    reads = read_ahead(range(1000), lambda n: n, workers=3)
    next(reads)
    reads.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("onnxvis-reader")]


def test_pictures_are_prepared_as_alone_and_broken_ones_reported(tmp_path: Path) -> None:
    model = onnxvis.load(SmallNet().model(), preprocessing="unit")
    paths = [str(picture(tmp_path / f"{n}.png", n)) for n in range(9)]
    Path(paths[4]).write_bytes(b"no picture")
    reads = list(prepare_ahead(model, [ListedPicture(p) for p in [*paths, str(tmp_path / "gone.png")]], ahead=3))
    assert [bool(r.error) for r in reads] == [n in (4, 9) for n in range(10)]
    assert "Pillow" in reads[4].error
    assert "no picture" in reads[9].error
    for number in (0, 8):
        alone, value = model.prepare(paths[number]), reads[number].value
        assert value is not None
        assert value.picture is not None
        assert alone.picture is not None
        np.testing.assert_array_equal(value.tensor, alone.tensor)
        assert (value.picture.size, value.picture.sha256) == ((36, 40), alone.picture.sha256)
        assert value.picture.pixels.strides == (0, 0, 0)
    (kept,) = prepare_ahead(model, [ListedPicture(paths[0])], keep_pixels=True)
    assert kept.value is not None
    assert kept.value.picture is not None
    assert kept.value.picture.pixels.any()
