"""Tallies on disk: one small file for what is committed together, folded into one running file now and then.

A file holds arrays, compressed, behind their SHA-256; it appears whole or not at all. ``shard-12.tally`` is written
before the rows of shard 12 are committed, so it counts only if those rows are there; ``shard-12+13.tally`` likewise,
for two that are committed at once. ``merged-N.tally`` holds committed shards only and lists them, so a shard file that
is in it is left over from a fold and is not read again.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import OnnxvisError, OutputError
from onnxvis.files import write_atomic

__all__ = ["Counted", "TallyFolder", "pack", "unpack"]

_MAGIC = b"onnxvis\x01"
_HEAD = struct.Struct("<8sQ32s")


class Counted(Protocol):
    """What a tally must be able to do to be kept in a folder."""

    shards: frozenset[int]

    def merge(self, other: Self) -> None:
        """Add other shards."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays."""


T = TypeVar("T", bound=Counted)


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as the bytes of a file; whole numbers in the smallest type that holds them."""
    import pyarrow as pa

    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{name: _narrow(array) for name, array in arrays.items()})
    data = stream.getvalue()
    packed: bytes = pa.Codec("zstd", compression_level=1).compress(data, asbytes=True)
    return _HEAD.pack(_MAGIC, len(data), hashlib.sha256(packed).digest()) + packed


def unpack(data: bytes, where: Path) -> dict[str, NDArray[Any]]:
    """The inverse of :func:`pack`.

    Raises:
        OnnxvisError: the bytes are not what was written.
    """
    import pyarrow as pa

    packed = data[_HEAD.size :]
    magic, size, digest = _HEAD.unpack(data[: _HEAD.size]) if len(data) > _HEAD.size else (b"", 0, b"")
    if magic != _MAGIC or hashlib.sha256(packed).digest() != digest:
        raise OnnxvisError(
            f"{where} is damaged: its contents do not match its checksum. Delete the store and index again."
        )
    plain = pa.Codec("zstd").decompress(packed, decompressed_size=size, asbytes=True)
    with np.load(io.BytesIO(plain), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype != np.int64 or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    for kind in (np.uint8, np.uint16, np.uint32) if low >= 0 else (np.int32,):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return array.astype(kind)
    return array


class TallyFolder(Generic[T]):
    """The tallies of one kind in a folder.

    Args:
        folder: where; made when first written to.
        make: turns the arrays of :meth:`Counted.state` back into a tally.
    """

    def __init__(self, folder: Path, make: Callable[[Mapping[str, NDArray[Any]]], T]) -> None:
        self.folder = folder
        self._make = make

    def write(self, tally: T) -> None:
        """Write the tally of a shard, or of some that are committed at once.

        Raises:
            OutputError: it cannot be written.
        """
        self._save(self.folder / f"shard-{'+'.join(map(str, sorted(tally.shards)))}.tally", tally)

    def on_disk(self) -> frozenset[int]:
        """Shards whose tally is here, folded or not."""
        merged, alone = self._merged(), self._alone()
        return frozenset().union(*alone) | (merged.shards if merged is not None else frozenset())

    def read(self, committed: Iterable[int] | None = None) -> T | None:
        """The sum over the committed shards (``None``: all that are here), ``None`` where there is none.

        Raises:
            OnnxvisError: a shard's tally is missing or damaged.
        """
        found, alone = self._merged(), self._alone()
        wanted = frozenset(committed) if committed is not None else None
        have = found.shards if found is not None else frozenset()
        rest = (frozenset[int]().union(*alone) if wanted is None else wanted) - have
        parts = sorted((shards for shards in alone if shards <= rest), key=min)
        missing = sorted(rest - frozenset[int]().union(*parts))
        if missing or (wanted is not None and have - wanted):
            raise OnnxvisError(
                f"{self.folder} does not belong to the rows beside it (shards "
                f"{(missing or sorted(have - (wanted or have)))[:5]}): the store was copied in part or damaged. Delete "
                "it and index again."
            )
        for shards in parts:
            part = self._load(alone[shards])
            if found is None:
                found = part
            else:
                found.merge(part)
        return found

    def fold(self, whole: T) -> None:
        """Replace the files of the shards in ``whole`` by one file.

        Raises:
            OutputError: it cannot be written; the files stay as they were.
        """
        old = self._merged_paths()
        number = max(old, default=-1) + 1
        self._save(self.folder / f"merged-{number}.tally", whole)
        for shards, path in self._alone().items():
            if shards <= whole.shards:
                path.unlink(missing_ok=True)
        for path in old.values():
            path.unlink(missing_ok=True)

    def forget(self, shards: Iterable[int]) -> None:
        """Delete the files of shards whose rows were never committed."""
        gone = frozenset(shards)
        for own, path in self._alone().items():
            if own <= gone:
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Delete what an interrupted write left behind."""
        for path in self.folder.glob(".*"):
            path.unlink(missing_ok=True)

    # --- files -----------------------------------------------------------------------------------

    def _alone(self) -> dict[frozenset[int], Path]:
        """The files that are not folded, by the shards in them."""
        paths = self.folder.glob("shard-*.tally")
        return {frozenset(map(int, path.stem.removeprefix("shard-").split("+"))): path for path in paths}

    def _merged_paths(self) -> dict[int, Path]:
        return {int(path.stem.removeprefix("merged-")): path for path in self.folder.glob("merged-*.tally")}

    def _merged(self) -> T | None:
        """The newest fold: it holds everything that older ones hold."""
        paths = self._merged_paths()
        return self._load(paths[max(paths)]) if paths else None

    def _load(self, path: Path) -> T:
        try:
            return self._make(unpack(path.read_bytes(), path))
        except OSError as error:
            raise OnnxvisError(
                f"cannot read {path}: {error.strerror or error}. Is the store still being written?"
            ) from error

    def _save(self, path: Path, tally: T) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, pack(tally.state()))
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}. Finished work is kept: make room, or the folder "
                "writable, and give the same command again."
            ) from error
