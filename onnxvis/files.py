"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from onnxvis.errors import OutputError

__all__ = ["write_atomic", "write_file", "write_together"]


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; nothing is left behind.
    """
    partial = _staged(path, data)
    try:
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes, advice: str = "") -> None:
    """Write a file whole or not at all, and its folder where that is missing.

    Args:
        path: the file.
        data: what it holds.
        advice: what to do where it cannot be written, as a sentence.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}. {advice}".rstrip()) from error


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files or none: nothing is renamed before everything is on the disk.

    The last one marks the folder as complete, so an old one goes before the first is replaced.

    Raises:
        OSError: as :func:`write_atomic`.
    """
    partials: dict[str, Path] = {}
    try:
        for name, data in files.items():
            partials[name] = _staged(folder / name, data)
        (folder / list(files)[-1]).unlink(missing_ok=True)
        for name, partial in partials.items():
            partial.replace(folder / name)
    except BaseException:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        raise


def _staged(path: Path, data: bytes) -> Path:
    """The data in a hidden file beside ``path``, safe on the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial
