"""The rows of a store: one for each picture, in a Lance table."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import DependencyError, OnnxvisError

__all__ = [
    "CONCEPTS",
    "MANIFEST",
    "PLAIN",
    "TABLE",
    "TALLIES",
    "Answer",
    "PictureRow",
    "lance_module",
    "open_table",
    "read_rows",
    "to_table",
]

MANIFEST = "manifest.json"
TABLE = "pictures.lance"
TALLIES = "tallies"
CONCEPTS = "concepts"
_WAITS = (0.05, 0.5)
"""Seconds before a table that another process has just written anew is opened again."""
_TOP = ("index", "name", "score")
PLAIN = ("id", "path", "sha256", "width", "height", "error", "label", "top")


@dataclass(frozen=True)
class PictureRow:
    """What a store knows of one picture.

    Attributes:
        id: its place in the sorted listing.
        path: the file.
        sha256: of the file's bytes; "" where it could not be read.
        width: in pixels of the picture; 0 where it could not be read.
        height: likewise.
        error: why it was left out; "" for a picture that was counted.
        label: the folder or the CSV said what it shows, else ``None``.
        top: strongest classes ``(index, name, score)``; the score is the probability, the logit where the model has
            no probabilities.
    """

    id: int
    path: str
    sha256: str
    width: int
    height: int
    error: str
    label: str | None
    top: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """A row with its arrays.

    Attributes:
        row: what is known of the picture.
        embedding: ``(D,)`` float32, or ``None`` for a picture that was left out.
        maps: for each kept layer ``(U, h, w)`` float16.
    """

    row: PictureRow
    embedding: NDArray[np.float32] | None = None
    maps: tuple[NDArray[np.float16], ...] = field(default=())


def lance_module() -> Any:
    """The module ``lance``, loaded when first needed.

    Raises:
        DependencyError: it is not installed.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # its warnings are advice to whoever builds its indexes
    try:
        import lance
    except ImportError as error:
        raise DependencyError(
            f'a store of pictures needs Lance and Arrow ({error}): pip install "onnxvis[index]".'
        ) from error
    return lance


def to_table(answers: Sequence[Answer], shards: Sequence[int], dimensions: int, layers: int) -> Any:
    """An Arrow table of rows.

    Args:
        answers: in the order of their numbers.
        shards: the unit of work that each comes from.
        dimensions: D of the embedding.
        layers: number of layers whose maps are kept.
    """
    import pyarrow as pa

    rows = [answer.row for answer in answers]
    top_type = pa.list_(pa.struct([("index", pa.int32()), ("name", pa.string()), ("score", pa.float64())]))
    tops = [[dict(zip(_TOP, (i, _text(n), s), strict=True)) for i, n, s in row.top] for row in rows]
    absent = np.array([answer.embedding is None for answer in answers])
    vectors = np.zeros((len(answers), dimensions), np.float32)
    for place, answer in enumerate(answers):
        if answer.embedding is not None:
            vectors[place] = answer.embedding
    columns = {
        "id": pa.array([row.id for row in rows], pa.int64()),
        "shard": pa.array(shards, pa.int64()),
        "path": pa.array([os.fsencode(row.path) for row in rows], pa.binary()),
        "sha256": pa.array([row.sha256 for row in rows], pa.string()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "error": pa.array([_text(row.error) for row in rows], pa.string()),
        "label": pa.array([None if row.label is None else os.fsencode(row.label) for row in rows], pa.binary()),
        "top": pa.array(tops, top_type),
        "embedding": pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1)), dimensions, mask=pa.array(absent)
        ),
    }
    for number in range(layers):
        maps = [answer.maps[number] if answer.maps else None for answer in answers]
        columns[f"map{number}"] = pa.array([None if m is None else m.tobytes() for m in maps], pa.large_binary())
        sizes = [None if m is None else list(m.shape) for m in maps]
        columns[f"map{number}_shape"] = pa.array(sizes, pa.list_(pa.int32()))
    return pa.table(columns)


def read_rows(table: Any) -> list[PictureRow]:
    """The inverse of :func:`to_table`, arrays left out; sorted by number."""
    found = [
        PictureRow(
            entry["id"],
            os.fsdecode(entry["path"]),
            entry["sha256"],
            entry["width"],
            entry["height"],
            entry["error"],
            None if entry["label"] is None else os.fsdecode(entry["label"]),
            tuple((top["index"], top["name"], top["score"]) for top in entry["top"]),
        )
        for entry in table.select(PLAIN).to_pylist()
    ]
    return sorted(found, key=lambda row: row.id)


def open_table(folder: Path) -> Any | None:
    """The Lance table of a store, ``None`` where nothing has been committed yet.

    Raises:
        OnnxvisError: it is damaged; reading from what is returned raises the same.
    """
    lance = lance_module()
    path = folder / TABLE
    if not (path / "_versions").is_dir() or not any((path / "_versions").glob("*.manifest")):
        return None
    with _readable(path):
        return _Table(lance.dataset(str(path)), path)


class _Table:
    """A Lance table whose reading fails with words: its own errors name the source file of the library.

    A pass that is running may delete the files of the version that was opened: columns are then read from the next one.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self._dataset, self._path = dataset, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def to_table(self, **wanted: Any) -> Any:
        for wait in _WAITS:
            try:
                return self._dataset.to_table(**wanted)
            except (OSError, ValueError):
                time.sleep(wait)
                with _readable(self._path):
                    self._dataset = lance_module().dataset(str(self._path))
        with _readable(self._path):
            return self._dataset.to_table(**wanted)

    def take(self, *rows: Any, **wanted: Any) -> Any:
        with _readable(self._path):
            return self._dataset.take(*rows, **wanted)

    def count_rows(self, **wanted: Any) -> int:
        with _readable(self._path):
            return int(self._dataset.count_rows(**wanted))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        what = str(error).partition(", /")[0].strip()
        raise OnnxvisError(
            f"the table {path} cannot be read ({what}): it is damaged, or a pass that is running has just written it "
            "anew. Ask again; if it stays so, delete the store and index again."
        ) from error


def _text(text: str) -> str:
    """Text that Arrow can hold: what is not Unicode becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
