"""A store by URL: kept in a working folder of this machine, and published to object storage as it grows.

URL/parts/SHA256      one file of the store, named by its contents; never written over
URL/store.json        which parts are the store, under which names: the last object to appear

Storage by URL can neither rename nor append, but it shows an object whole or not at all. So every published state is a
set of parts, and one small object that names them, which is put last. Whoever reads gets one published state whole;
whoever goes on elsewhere starts from it. One process at a time may write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from onnxvis.behaviour.index.rows import CONCEPTS, MANIFEST, TABLE, TALLIES
from onnxvis.errors import DependencyError, OnnxvisError, OutputError, UsageError, require
from onnxvis.files import write_atomic
from onnxvis.locations import is_location, redacted, within
from onnxvis.progress import Progress, silent

__all__ = ["ATTEMPTS", "PUBLISHED", "SECONDS", "RemoteStore", "is_remote"]

T = TypeVar("T")

PUBLISHED = "store.json"
FORMAT: Final = 1
SECONDS = 60.0
"""How long one attempt may take, besides a second for each megabyte."""
ATTEMPTS = 5
"""How often a request is tried."""
_PAUSE: Final = 0.5  # seconds before the second attempt; doubled each time
_AT_ONCE: Final = 8
_MEGABYTE: Final = 1e6
_REST: Final = 4  # publishing takes a fifth of the time of the process that commits, at most
_KEPT_COPIES: Final = 2
_BESIDE: Final = ".published.json"  # in the working folder: the published state that it comes from
_OURS: Final = (TABLE, TALLIES, CONCEPTS)


def is_remote(location: str | os.PathLike[str]) -> bool:
    """Whether a store is given by URL."""
    return isinstance(location, str) and "://" in location and is_location(location)


class RemoteStore:
    """One store by URL.

    Args:
        url: of a folder, in whatever storage fsspec can write to.

    Attributes:
        shown: the URL without credentials.
        working: the folder of this machine in which the store grows.

    Raises:
        UsageError: the URL is no folder in object storage.
        DependencyError: what this kind of storage needs is not installed.
    """

    def __init__(self, url: str) -> None:
        self.shown = redacted(url)
        if "::" in url or url.startswith(("file:", "local:")):
            raise UsageError(f"{self.shown}: a store lies in a folder, or in object storage such as s3://bucket/store.")
        fsspec = require("fsspec", "remote", "a store by URL")
        try:
            self._files, self._root = fsspec.core.url_to_fs(url.rstrip("/"), skip_instance_cache=True)
        except ImportError as error:
            raise DependencyError(f'{self.shown}: {error}. pip install "onnxvis[remote]".') from error
        except ValueError as error:
            raise UsageError(f"{self.shown} is no storage that fsspec knows: {error}.") from error
        digest = hashlib.sha256(self.shown.rstrip("/").encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._cache = _cache_folder() / "stores" / digest
        self.working = self._cache / "working"
        self._state: bytes | None = None
        self._hashed: dict[Path, tuple[int, int, str]] = {}
        self._writer = uuid.uuid4().hex
        self._ended, self._took = time.monotonic(), 0.0

    # --- writing ---------------------------------------------------------------------------------

    def resume(self, progress: Progress = silent) -> None:
        """Make the working folder a state to go on from: its own, where the published one comes from it.

        Called with the folder locked. What another machine published meanwhile counts more than what is here.

        Raises:
            OutputError: the storage cannot be reached, or holds something else.
        """
        self._state = self._published()
        beside = self.working / _BESIDE
        if self._state is None:
            self._refuse_foreign()
            _clear(self.working)
        elif not beside.exists() or beside.read_bytes() != self._state:
            _clear(self.working)
            self._download(_named(self._state, self.shown), self.working, progress)
            write_atomic(beside, self._state)

    def due(self) -> bool:
        """Whether it is time to publish again: not more often than takes a fifth of the time."""
        return time.monotonic() - self._ended >= _REST * self._took

    def publish(self, progress: Progress = silent) -> None:
        """Put what is new in the working folder, then the list of it. Nobody may write to the folder meanwhile.

        Raises:
            OutputError: the storage does not take it; what is finished is in the working folder.
            UsageError: another process published meanwhile.
        """
        began = time.monotonic()
        if self._published() != self._state:
            raise UsageError(
                f"another process has written to {self.shown} meanwhile: one at a time may. Give the same command "
                "again to go on from what is there now."
            )
        files = self._contents()
        before = {} if self._state is None else _named(self._state, self.shown)
        if files == before:
            return
        have = {sha for sha, _ in before.values()}
        new = {sha: (self.working / name, size) for name, (sha, size) in files.items() if sha not in have}
        self._each([partial(self._put, path, sha, size) for sha, (path, size) in new.items()], "upload", progress)
        state = {"onnxvis_remote_store": FORMAT, "writer": self._writer, "at": time.time_ns(), "files": files}
        data = json.dumps(state, sort_keys=True).encode("utf-8", "surrogatepass")
        self._tried(lambda: self._files.pipe_file(self._path(PUBLISHED), data), "written", len(data))
        self._state = data
        write_atomic(self.working / _BESIDE, data)
        self._ended = time.monotonic()
        self._took = self._ended - began

    def sweep(self) -> None:
        """Delete parts that the published state does not name.

        Raises:
            OutputError: they cannot be listed or deleted; the store is whole nevertheless.
        """
        assert self._state is not None
        named = {sha for sha, _ in _named(self._state, self.shown).values()}
        self._files.invalidate_cache()
        found = self._tried(lambda: self._files.find(self._path("parts")), "listed")
        left = [path for path in found if PurePosixPath(path).name not in named]
        self._each([partial(self._tried, partial(self._files.rm_file, path), "deleted") for path in left])

    def _put(self, path: Path, sha: str, size: int) -> None:
        self._tried(lambda: self._files.put_file(str(path), self._path(f"parts/{sha}")), "written", size)

    def _contents(self) -> dict[str, tuple[str, int]]:
        """Fingerprint and size of each file of the store, by its name in it."""
        paths = [self.working / MANIFEST]
        for folder in _OURS:
            paths += [p for p in (self.working / folder).rglob("*") if p.is_file() and not p.name.startswith(".")]
        hashed = {}
        for path in paths:
            status, known = path.stat(), self._hashed.get(path)
            if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
                known = (status.st_size, status.st_mtime_ns, _fingerprint(path))
            hashed[path] = known
        self._hashed = hashed
        return {path.relative_to(self.working).as_posix(): (sha, size) for path, (size, _, sha) in hashed.items()}

    def _refuse_foreign(self) -> None:
        self._files.invalidate_cache()
        found = self._tried(lambda: _found(self._files, self._root), "listed")
        others = [name for name in found if PurePosixPath(name).parent.name != "parts"]
        if others:
            raise OutputError(
                f"{self.shown} holds other things ({', '.join(sorted(others)[:3])}): a store needs a folder of its "
                "own; choose another with --out."
            )

    # --- reading ---------------------------------------------------------------------------------

    def fetch(self, progress: Progress = silent) -> Path:
        """A folder of this machine with the published store; a copy that is here already is not read again.

        Raises:
            OnnxvisError: there is no store, or it cannot be read whole.
        """
        for _ in range(ATTEMPTS):
            state = self._published()
            if state is None:
                raise OnnxvisError(
                    f"{self.shown} holds no store. Make one: onnxvis index MODEL IMAGES --out {self.shown}"
                )
            beside = self.working / _BESIDE
            if beside.exists() and beside.read_bytes() == state:
                return self.working
            folder = self._cache / hashlib.sha256(state).hexdigest()[:16]
            if folder.is_dir():
                os.utime(folder)
                return folder
            try:
                return self._fetched(state, folder, progress)
            except FileNotFoundError:  # a part of a state that another one has replaced meanwhile
                continue
        raise OnnxvisError(f"{self.shown} lacks parts that it names: index again into another place.")

    def _fetched(self, state: bytes, folder: Path, progress: Progress) -> Path:
        files = _named(state, self.shown)
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            beginning = Path(tempfile.mkdtemp(prefix=".", dir=self._cache))
        except OSError as error:
            raise OutputError(
                f"a store by URL is copied to {self._cache}, which cannot be made ({error.strerror or error}): name "
                "another folder in the environment variable ONNXVIS_CACHE."
            ) from error
        try:
            self._download(files, beginning, progress)
            with contextlib.suppress(OSError):  # another process was as quick
                beginning.rename(folder)
        finally:
            shutil.rmtree(beginning, ignore_errors=True)
        self._forget_old(folder)
        return folder

    def _forget_old(self, newest: Path) -> None:
        copies = [p for p in self._cache.iterdir() if p not in (self.working, newest) and not p.name.startswith(".")]
        copies.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in copies[_KEPT_COPIES - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    # --- both ------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _published(self) -> bytes | None:
        """The list of the published state, ``None`` where there is none."""
        try:
            return bytes(self._tried(lambda: self._files.cat_file(self._path(PUBLISHED)), "read"))
        except FileNotFoundError:
            return None

    def _download(self, files: Mapping[str, tuple[str, int]], folder: Path, progress: Progress) -> None:
        work = [partial(self._get, folder / name, sha, size) for name, (sha, size) in files.items()]
        self._each(work, "download", progress)

    def _get(self, path: Path, sha: str, size: int) -> None:
        def get() -> None:
            self._files.get_file(self._path(f"parts/{sha}"), str(path))
            if _fingerprint(path) != sha:
                raise OSError("what came is not what was written")

        path.parent.mkdir(parents=True, exist_ok=True)
        self._tried(get, "read", size)

    def _each(self, work: Iterable[Callable[[], Any]], stage: str = "", progress: Progress = silent) -> None:
        """Do some things at once; the first error is raised, what has not begun is left out."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="onnxvis-store") as pool:
            waiting = [pool.submit(one) for one in work]
            try:
                for number, future in enumerate(waiting):
                    progress(stage, number, len(waiting))
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            if waiting:
                progress(stage, len(waiting), len(waiting))

    def _tried(self, work: Callable[[], T], word: str, size: int = 0) -> T:
        """Do one request, several times if need be.

        Raises:
            FileNotFoundError: what it asks for does not exist.
            OnnxvisError: it cannot be done.
        """
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                return within(SECONDS + size / _MEGABYTE, work)
            except FileNotFoundError:
                if word == "read":
                    raise
                reason = "there is no such place"
                break
            except PermissionError as error:
                reason = "check the credentials of this environment"
                raise _kind(word)(f"{self.shown} may not be {word}: {reason}. {self._kept()}") from error
            except OnnxvisError:
                raise
            except Exception as error:  # noqa: BLE001 - every storage raises classes of its own
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                if attempt + 1 < ATTEMPTS:
                    time.sleep(_PAUSE * 2**attempt)
        raise _kind(word)(f"{self.shown} cannot be {word}: {reason}. {self._kept()}")

    def _kept(self) -> str:
        if not (self.working / MANIFEST).exists():
            return "Check the address and the network."
        return f"What is finished is kept in {self.working}; the same command goes on."


def _cache_folder() -> Path:
    """Where copies are kept: ``ONNXVIS_CACHE``, else the user's folder for such things."""
    named = os.environ.get("ONNXVIS_CACHE")
    if named:
        return Path(named).absolute()
    system = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(system) if system else Path.home() / ".cache") / "onnxvis"


def _kind(word: str) -> type[OnnxvisError]:
    return OnnxvisError if word == "read" else OutputError


def _named(state: bytes, shown: str) -> dict[str, tuple[str, int]]:
    """Fingerprint and size of each file that a published state names.

    Raises:
        OnnxvisError: it is of a later version, or not one of ours.
    """
    try:
        data = json.loads(state)
        version, files = data["onnxvis_remote_store"], data["files"]
        found = {str(name): (str(sha), int(size)) for name, (sha, size) in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OnnxvisError(f"{shown}/{PUBLISHED} is not the list of a store ({error}): name another.") from error
    if version != FORMAT:
        raise OnnxvisError(f"{shown} has format {version}, this onnxvis reads {FORMAT}. Index again.")
    for name, (sha, _) in found.items():
        parts = PurePosixPath(name).parts
        inside = parts[:1] in [(folder,) for folder in _OURS] or name == MANIFEST
        if not inside or ".." in parts or "\\" in name or not sha.isalnum():
            raise OnnxvisError(f"{shown}/{PUBLISHED} names {name!r}, which is no file of a store: it is damaged.")
    return found


def _found(files: Any, root: str) -> list[str]:
    try:
        return list(files.find(root))
    except FileNotFoundError:
        return []


def _fingerprint(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _clear(folder: Path) -> None:
    """Empty a working folder, the list beside it first, so that half a folder counts as none; its lock stays."""
    (folder / _BESIDE).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in _OURS:
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(folder / "thumbnails", ignore_errors=True)
