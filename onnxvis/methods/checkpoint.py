"""What is finished of a long run, on disk: an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from onnxvis.errors import OutputError

__all__ = ["Checkpoint", "fingerprint"]

_SECONDS = 5.0


def fingerprint(parts: Iterable[object]) -> str:
    """A key for everything that a result depends on: arrays by their bytes, all else by its text."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


class Checkpoint:
    """Finished rows of a table, saved every few seconds; without a folder it does nothing.

    Attributes:
        values: ``(P, T)`` float64, the table.
        done: ``(P,)`` which rows are finished.
        resumed: how many were found on disk.
        problem: why a file that was there could not be used, or "".
    """

    def __init__(self, folder: str | os.PathLike[str] | None, key: str, shape: tuple[int, int]) -> None:
        self.values = np.full(shape, np.nan)
        self.done = np.zeros(shape[0], bool)
        self.problem = ""
        self._path = None if folder is None else Path(folder) / f"{key[:24]}.npz"
        self._key = key
        self._saved = time.monotonic()
        if self._path is not None and self._path.exists():
            self._load(self._path)
        self.resumed = int(self.done.sum())

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                same = str(stored["key"]) == self._key and stored["values"].shape == self.values.shape
                if same and stored["done"].shape == self.done.shape:
                    self.values, self.done = stored["values"].astype(np.float64), stored["done"].astype(bool)
                else:
                    self.problem = f"{path.name} belongs to another run"
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self.problem = f"{path.name} cannot be read ({error})"

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Finish some rows; saves when the last time was long ago."""
        self.values[rows] = values
        self.done[rows] = True
        if time.monotonic() - self._saved > _SECONDS:
            self.save()

    def forget(self, rows: np.ndarray) -> None:
        """Take rows back."""
        self.values[rows] = np.nan
        self.done[rows] = False

    def save(self) -> None:
        """Write what is finished, all or nothing.

        Raises:
            OutputError: the folder cannot be written.
        """
        self._saved = time.monotonic()
        if self._path is None or not self.done.any():
            return
        buffer = io.BytesIO()
        np.savez(buffer, key=np.array(self._key), values=self.values, done=self.done)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self._path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(buffer.getvalue())
                Path(partial).replace(self._path)
            finally:
                Path(partial).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write the partial result to {self._path.parent}: {error.strerror or error}."
            ) from error

    def remove(self) -> None:
        """Delete the file, and its folder if that is empty: everything is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other runs' files may be there
                self._path.parent.rmdir()
