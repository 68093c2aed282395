"""Many pictures: which ones there are and what they show, and reading them ahead of whoever needs them."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from onnxvis.errors import OnnxvisError, PictureError, UsageError
from onnxvis.locations import is_container, is_location, list_location, read_location, redacted
from onnxvis.picture_files import PICTURE_ENDINGS, picture_files

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["ListedPicture", "Read", "list_pictures", "prepare_ahead", "read_ahead", "reader_count"]

_LARGEST_LIST = 1 << 31

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class ListedPicture:
    """One picture of a data set.

    Attributes:
        path: absolute path of the file, or a location (see :mod:`onnxvis.locations`).
        label: what it is said to show, or ``None`` where nobody said.
    """

    path: str
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Read(Generic[S, T]):
    """What came of one item.

    Attributes:
        position: its place in what was given, from 0.
        item: what was to be read.
        value: what was read, or ``None`` where that failed.
        error: why it failed; "" where it did not.
    """

    position: int
    item: S
    value: T | None
    error: str = ""


def list_pictures(given: Sequence[str]) -> list[ListedPicture]:
    """The pictures of a data set in a fixed order: sorted by absolute path, each once.

    Args:
        given: pictures; folders, searched at any depth, where a picture in a sub-folder is labeled with the name of
            the folder it lies in; CSV files with the columns path and, if wanted, label (a first line that says so is
            left out; paths are relative to the CSV file); zip and tar archives, Parquet files with a column of
            pictures; any of them by URL.

    Raises:
        PictureError: a folder or CSV file without pictures, or one that cannot be read.
        UsageError: one file with two labels.
    """
    found: dict[str, str | None] = {}
    for name in given:
        for path, label in _listed(name):
            local = not is_location(path)
            absolute = os.path.abspath(path) if local else path  # noqa: PTH100 - resolve() would follow links
            known = found.get(absolute)
            if known is not None and label is not None and known != label:
                raise UsageError(f"{redacted(absolute)} is labeled {known!r} and {label!r}; say one of them.")
            found[absolute] = known if label is None else label
    if not found:
        raise PictureError("no picture was given: name pictures, folders of pictures, or a CSV file of paths.")
    return [ListedPicture(path, found[path]) for path in sorted(found)]


def _listed(name: str) -> list[tuple[str, str | None]]:
    if name.lower().endswith(".csv"):
        return _csv_rows(name)
    if is_location(name) or is_container(name):
        found = list(list_location(name, PICTURE_ENDINGS))
        if not found:
            raise PictureError(f"there are no pictures at {redacted(name)} ({', '.join(sorted(PICTURE_ENDINGS))}).")
        return found
    path = Path(name)
    if path.is_dir():
        return [(p, _folder_label(path, Path(p))) for p in picture_files([name])]
    return [(name, None)]


def _folder_label(root: Path, picture: Path) -> str | None:
    return None if picture.parent == root else picture.parent.name


def _csv_rows(name: str) -> list[tuple[str, str | None]]:
    shown = redacted(name)
    try:
        rows = [row for row in csv.reader(io.StringIO(_csv_text(name))) if row and row[0].strip()]
    except (OSError, csv.Error) as error:
        raise PictureError(f"cannot read the list {shown}: {getattr(error, 'strerror', None) or error}.") from error
    if rows and not is_location(rows[0][0]) and Path(rows[0][0]).suffix.lower() not in PICTURE_ENDINGS:
        rows = rows[1:]  # the names of the columns
    if not rows:
        raise PictureError(f"{shown} lists no picture: one line each, path,label.")
    labels = [(row[1].strip() if len(row) > 1 else "") or None for row in rows]
    return [(_beside(name, row[0].strip()), label) for row, label in zip(rows, labels, strict=True)]


def _csv_text(name: str) -> str:
    data = read_location(name, _LARGEST_LIST) if is_location(name) else Path(name).read_bytes()
    return data.decode("utf-8-sig", "surrogateescape")


def _beside(name: str, path: str) -> str:
    """A path of a list, which is relative to the list's own folder."""
    if is_location(path):
        return path
    return f"{name.rsplit('/', 1)[0]}/{path}" if is_location(name) else str(Path(name).parent / path)


def reader_count() -> int:
    """Threads that read where nobody says: ``ONNXVIS_THREADS``, else the CPUs this process may run on, at most 8."""
    said = os.environ.get("ONNXVIS_THREADS", "")
    if said.isdigit() and int(said):
        return min(8, int(said))
    affinity = getattr(os, "sched_getaffinity", None)
    return min(8, len(affinity(0)) if affinity else os.cpu_count() or 1)


def read_ahead(
    items: Iterable[S], work: Callable[[S], T], *, workers: int | None = None, ahead: int = 32
) -> Iterator[Read[S, T]]:
    """Do ``work`` on each item in threads, ahead of the caller, and hand out the results in the order of the items.

    At most ``ahead`` results exist at a time, so a slow caller costs no memory. Work that fails with an error of
    onnxvis, or for want of memory, is handed out with its error; other exceptions are raised here.

    Args:
        items: what to work on; drawn from only as results are handed out.
        work: called in a thread.
        workers: threads; ``None`` asks :func:`reader_count`.
        ahead: how many items are worked on or wait.
    """
    pending: deque[tuple[S, Future[T]]] = deque()
    source = iter(items)
    position = 0
    pool = ThreadPoolExecutor(workers or reader_count(), thread_name_prefix="onnxvis-reader")
    try:
        while True:
            while len(pending) < max(1, ahead):
                try:
                    item = next(source)
                except StopIteration:
                    break
                pending.append((item, pool.submit(work, item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield _result(position, item, future)
            position += 1
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(position: int, item: S, future: Future[T]) -> Read[S, T]:
    try:
        return Read(position, item, future.result())
    except OnnxvisError as error:
        return Read(position, item, None, str(error))
    except MemoryError:
        return Read(position, item, None, f"{item} does not fit into memory: make it smaller first.")


def prepare_ahead(
    model: Model,
    pictures: Iterable[ListedPicture],
    *,
    workers: int | None = None,
    ahead: int = 32,
    keep_pixels: bool = False,
) -> Iterator[Read[ListedPicture, Prepared]]:
    """Decode and preprocess pictures ahead, in their order; broken ones come with their error.

    Args:
        model: whose input they become.
        pictures: which.
        workers: threads; ``None`` asks :func:`reader_count`.
        ahead: how many are held at a time.
        keep_pixels: keep the original pixels. Without them ``value.picture`` has its name, path and fingerprint, and
            an array of the right size that holds nothing: a photo takes fifty times the memory of a model's input.
    """

    def work(listed: ListedPicture) -> Prepared:
        prepared = model.prepare(listed.path)
        return prepared if keep_pixels else _without_pixels(prepared)

    return read_ahead(pictures, work, workers=workers, ahead=ahead)


def _without_pixels(prepared: Prepared) -> Prepared:
    import numpy as np

    picture = prepared.picture
    if picture is None:
        return prepared
    nothing = np.broadcast_to(np.zeros((), picture.pixels.dtype), picture.pixels.shape)  # one value, no memory
    return dataclasses.replace(prepared, picture=dataclasses.replace(picture, pixels=nothing))
