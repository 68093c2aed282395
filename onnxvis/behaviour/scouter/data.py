"""Labelled pictures: a folder of class folders, a CSV file, or an .npz file with the pictures inside."""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.picture_files import is_picture_file

if TYPE_CHECKING:
    from onnxvis.picture import PictureSource

__all__ = ["Samples", "read_samples", "samples_of"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled pictures, not yet opened.

    Attributes:
        classes: names of the classes; a label is a place in this list.
        pictures: paths or ``(H, W[, C]) uint8`` arrays.
        labels: ``(N,) int64``.
        source: where they came from, for messages.
        digest: fingerprint of the listing: names, sizes and times of files, or the bytes of arrays, and the labels.
    """

    classes: tuple[str, ...]
    pictures: Sequence[PictureSource]
    labels: np.ndarray
    source: str
    digest: str

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, row: int) -> str:
        """A picture's path, or its number in an array."""
        picture = self.pictures[row]
        return str(picture) if isinstance(picture, str | os.PathLike) else f"picture {row} of {self.source}"


def read_samples(source: str | os.PathLike[str]) -> Samples:
    """Labelled pictures from a folder, a CSV file or an .npz file.

    * folder: one sub-folder for each class, its name the label; classes in alphabetical order.
    * ``.csv``: lines ``path,label``, paths relative to the file; a first line "path,label" is a heading.
    * ``.npz``: ``x`` uint8 ``(N, H, W)`` or ``(N, H, W, C)``, ``y`` numbers or names, optionally ``labels``: the
      names of the numbers.

    Raises:
        UsageError: nothing there, one class only, a class without pictures, or a malformed file.
    """
    path = Path(source)
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise UsageError(f"there is no folder or file {path} with labelled pictures. Check the path.")
    readers = {".csv": _from_csv, ".npz": _from_npz}
    if path.suffix.lower() not in readers:
        raise UsageError(
            f"{path} is not a form of labelled pictures: give a folder of class folders, a .csv of path,label, or an "
            ".npz with x and y."
        )
    return readers[path.suffix.lower()](path)


def samples_of(
    pictures: Sequence[PictureSource], labels: Sequence[int] | np.ndarray, classes: Sequence[str], source: str
) -> Samples:
    """Labelled pictures from Python.

    Raises:
        UsageError: lengths differ, a label is no class, one class only, or a class without pictures.
    """
    numbers = np.asarray(labels)
    if len(numbers) != len(pictures) or numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UsageError(f"{source}: {len(pictures)} pictures need as many whole numbers as labels.")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise UsageError(f"{source}: labels go from 0 to {len(classes) - 1}, the classes that have names.")
    counts = np.bincount(numbers.astype(np.int64), minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise UsageError(f"{source}: class {empty[0]!r} has no pictures. Add some, or leave the class out.")
    if len(classes) < 2:
        raise UsageError(f"{source}: there is one class only ({classes[0]!r}); a classifier needs at least two.")
    given = numbers.astype(np.int64)
    return Samples(tuple(classes), pictures, given, source, _digest(pictures, given, classes))


def _digest(pictures: Sequence[PictureSource], labels: np.ndarray, classes: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    digest.update(labels.tobytes())
    for picture in pictures:
        if isinstance(picture, np.ndarray):
            digest.update(f"{picture.dtype.str}{picture.shape}".encode())
            digest.update(np.ascontiguousarray(picture).tobytes())
        elif isinstance(picture, str | os.PathLike):
            try:
                status = Path(picture).stat()
                digest.update(f"{picture}|{status.st_size}|{status.st_mtime_ns}".encode())
            except OSError:
                digest.update(f"{picture}|missing".encode())
        else:
            digest.update(picture if isinstance(picture, bytes) else picture.tobytes())
    return digest.hexdigest()


def _from_folder(folder: Path) -> Samples:
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise UsageError(f"the folder {folder} has no sub-folders: one for each class is needed, its name the label.")
    pictures: list[PictureSource] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        files = sorted(p for p in (folder / name).rglob("*") if is_picture_file(p))
        pictures += [str(p) for p in files]
        labels += [index] * len(files)
    return samples_of(pictures, np.array(labels, np.int64), classes, str(folder))


def _from_csv(path: Path) -> Samples:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UsageError(f"{path} cannot be read as CSV ({error}).") from None
    if rows and [cell.strip().lower() for cell in rows[0]] == ["path", "label"]:
        rows = rows[1:]
    if not rows:
        raise UsageError(f"{path} names no pictures: lines are path,label.")
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise UsageError(f"{path}, entry {number}: {','.join(row)!r} is not path,label.")
    names = [row[1].strip() for row in rows]
    classes = sorted(set(names))
    place = {name: i for i, name in enumerate(classes)}
    pictures: list[PictureSource] = [str(path.parent / row[0].strip()) for row in rows]
    return samples_of(pictures, np.array([place[n] for n in names], np.int64), classes, str(path))


def _from_npz(path: Path) -> Samples:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("x", "y", "labels") if name in stored}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as .npz ({error}).") from None
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise UsageError(f"{path} has no array {missing[0]!r}: x holds the pictures, y their labels.")
    x, y = arrays["x"], arrays["y"]
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise UsageError(
            f"{path}: x is uint8 (N, H, W) or (N, H, W, C) and y (N,); these are {x.dtype}{x.shape} and "
            f"{y.dtype}{y.shape}."
        )
    labels, classes = _numbered(y, arrays.get("labels"), path)
    return samples_of(list(x), labels, classes, str(path))


def _numbered(y: np.ndarray, names: np.ndarray | None, path: Path) -> tuple[np.ndarray, list[str]]:
    """Labels as places in a list of names."""
    if y.dtype.kind in "iu" and names is not None:
        return y, [str(name) for name in names]
    if y.dtype.kind not in "iuU":
        raise UsageError(f"{path}: y holds whole numbers or names, not {y.dtype}.")
    values: Any
    values, places = np.unique(y, return_inverse=True)
    return places.astype(np.int64), [str(value) for value in values]
