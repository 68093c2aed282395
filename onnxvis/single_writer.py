"""One writer a folder: two commands that write the same results would mix them, or take each other's files away.

The lock is the operating system's, on an open file: it ends with the process, however that ends. Only the file itself
may stay behind after a crash, and means nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from onnxvis.errors import OutputError

__all__ = ["LOCK_NAME", "single_writer"]

LOCK_NAME = ".onnxvis.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_TRIES = 100


@contextlib.contextmanager
def single_writer(folder: str | os.PathLike[str], name: str = LOCK_NAME) -> Iterator[None]:
    """Write into a folder as the only one; it is made where it is missing.

    File systems without locks (some network shares) are written without one.

    Args:
        folder: the folder.
        name: of the lock file in it.

    Raises:
        OutputError: another process writes there, or the folder cannot be written.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; name a folder with --out.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = _locked(path / name)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Choose another folder with --out."
        ) from error
    try:
        yield
    finally:
        _release(handle, path / name)


def _locked(file: Path) -> int:
    """An open handle of the lock file, locked."""
    for _ in range(_TRIES):
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
        except BlockingIOError:
            owner = _owner(file)
            os.close(handle)
            raise OutputError(
                f"{file.parent} is being written by another onnxvis{owner}. Wait until it has ended, or choose another "
                "folder with --out."
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(handle)
                raise
        if _still_there(handle, file):
            _sign(handle)
            return handle
        os.close(handle)  # the one before took the file away between opening and locking
    raise OSError(errno.EBUSY, "other processes keep taking the lock file away")


def _still_there(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    """Who it is, for the message that others get; the lock holds without it."""
    since = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    text = json.dumps({"process": os.getpid(), "machine": platform.node(), "since": since})
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0) if hasattr(os, "pwrite") else os.write(handle, text.encode())


def _owner(file: Path) -> str:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return f" (process {int(found['process'])} on {str(found['machine'])[:60]} since {str(found['since'])[:30]})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _release(handle: int, file: Path) -> None:
    """Take the file away while it is still locked; on Windows an open file stays until the next run."""
    with contextlib.suppress(OSError):
        if _still_there(handle, file):
            file.unlink()
    os.close(handle)


if os.name == "nt":  # pragma: no cover

    def _lock(handle: int) -> None:
        import msvcrt

        os.lseek(handle, 1 << 30, os.SEEK_SET)  # a byte that nobody reads, so that others can read the owner
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError(error.errno, str(error)) from error
        finally:
            os.lseek(handle, 0, os.SEEK_SET)

else:

    def _lock(handle: int) -> None:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
