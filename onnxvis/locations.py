"""Pictures that are not plain files: in object storage, in archives, in tables; by URL, through fsspec.

    s3://bucket/photos/a.jpg        anything that fsspec opens: s3, gs, hf, http, memory ...
    zip://a.jpg::s3://bucket/x.zip  a member of a zip or tar archive, which may itself be anywhere
    s3://bucket/x.parquet#row=17    the picture in one row of a table

Credentials are those of the user's environment. What a URL carries itself (user:password@, signatures) is used to
read, and removed by :func:`redacted` wherever a location is written or shown.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, urlsplit, urlunsplit

from onnxvis.errors import DependencyError, PictureError, require

__all__ = [
    "holder",
    "inner_path",
    "is_container",
    "is_location",
    "list_location",
    "location_name",
    "read_location",
    "redacted",
    "within",
]

T = TypeVar("T")

ARCHIVES: Final = {".zip": "zip", ".tar": "tar", ".tgz": "tar", ".gz": "tar"}
_TABLE = ".parquet"
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_ROW = re.compile(r"#row=(\d+)$")
_SECRET = re.compile(r"sig|token|secret|passw|credential|key|auth|policy|expires|^x-(amz|goog)|^s[a-z]$", re.IGNORECASE)
_LONGEST_PLAIN_VALUE = 24
_IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "img", "picture")
_LABEL_COLUMNS = ("label", "class", "cls", "target")
_OPEN_AT_ONCE = 8

SECONDS = 60.0
"""How long one attempt to read a location may take."""
ATTEMPTS = 3
"""How often a location is tried before it counts as unreadable."""


def is_location(text: str) -> bool:
    """Whether a name is a URL, and not a file's path."""
    return bool(_SCHEME.match(text)) or bool(_ROW.search(text))


def is_container(text: str) -> bool:
    """Whether a name is an archive or a table that holds pictures; it may be a URL or a path."""
    suffixes = PurePosixPath(urlsplit(text).path if _SCHEME.match(text) else text).suffixes
    last = suffixes[-1].lower() if suffixes else ""
    if last == ".gz":
        return len(suffixes) > 1 and suffixes[-2].lower() == ".tar"
    return last in ARCHIVES or last == _TABLE


def location_name(location: str) -> str:
    """The last part of a location or a path, for headings: the name of a file, or of a table with its row."""
    if not is_location(location):
        return Path(location).name
    row = _ROW.search(location)
    return PurePosixPath(inner_path(location)).name + (f" row {row.group(1)}" if row else "")


def inner_path(location: str) -> str:
    """Where a location lies inside of what holds it, as a path: in its archive, or in its storage; no row."""
    first, inside, _ = location.partition("::")
    if inside and _is_member(first):  # "?" and "#" mean nothing in the names of an archive
        return first.split("://", 1)[1]
    path = urlsplit(first).netloc + urlsplit(first).path if _SCHEME.match(first) else first
    return _ROW.sub("", path)


def holder(location: str) -> str:
    """What has to be opened to read a location: the archive or table that holds it, else the location itself."""
    return _ROW.sub("", location.rsplit("::", 1)[-1])


def _is_member(part: str) -> bool:
    return part.split("://", 1)[0] in ARCHIVES.values()


def redacted(location: str) -> str:
    """A location without the credentials that it carries: user and password, signatures, tokens, long values."""
    if "://" not in location:
        return location
    return "::".join(_redacted_part(part) for part in location.split("::"))


def _redacted_part(part: str) -> str:
    if not _SCHEME.match(part) or _is_member(part):
        return part
    pieces = urlsplit(part)
    host = pieces.netloc.rsplit("@", 1)[-1]
    query = "&".join(_redacted_pair(pair) for pair in pieces.query.split("&")) if pieces.query else ""
    return urlunsplit(SplitResult(pieces.scheme, host, pieces.path, query, pieces.fragment))


def _redacted_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    secret = _SECRET.search(name) or len(value) > _LONGEST_PLAIN_VALUE
    return f"{name}=..." if equals and secret else pair


# --- reading -----------------------------------------------------------------------------------------


def read_location(location: str, most: int, *, seconds: float | None = None, attempts: int | None = None) -> bytes:
    """The bytes of one picture.

    Args:
        location: a URL, a member of an archive, or a row of a table.
        most: more bytes than this are refused.
        seconds: for one attempt; :data:`SECONDS` where left out.
        attempts: :data:`ATTEMPTS` where left out. What does not exist or may not be read is not tried again.

    Raises:
        PictureError: it cannot be read; the message names it without its credentials.
        DependencyError: fsspec, or what it needs for this kind of location, is not installed.
    """
    tries, shown = attempts or ATTEMPTS, redacted(location)
    for attempt in range(tries):
        try:
            data = within(seconds or SECONDS, lambda: _read(location, most + 1))
            break
        except FileNotFoundError:
            raise PictureError(f"there is no picture {shown}, or nobody answers there: check the address.") from None
        except PermissionError as error:
            raise PictureError(f"{shown} may not be read: check the credentials of this environment.") from error
        except ImportError as error:
            raise DependencyError(f'{shown} cannot be read: {error}. pip install "onnxvis[remote]".') from error
        except (PictureError, DependencyError):
            raise
        except Exception as error:  # noqa: BLE001 - every storage raises classes of its own
            if attempt + 1 == tries:
                reason = _without_secrets(str(error) or type(error).__name__, location)
                raise PictureError(f"{shown} cannot be read after {tries} attempts: {reason[:200]}.") from None
            time.sleep(0.1 * 2**attempt)
    if len(data) > most:
        raise PictureError(f"{shown} has more than {most:,} bytes: crop it or make it smaller first.")
    return data


def _without_secrets(text: str, location: str) -> str:
    return " ".join(text.replace(location, redacted(location)).split())


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns, if it ends in time; a thread that hangs in a storage's client is left to itself.

    Raises:
        TimeoutError: it does not end in so many seconds; else what ``work`` raises.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=run, name="onnxvis-location", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"nothing came within {seconds:g} s")
    return found[0]


def _read(location: str, most: int) -> bytes:
    row = _ROW.search(location)
    if row:
        return _table(_ROW.sub("", location)).picture(int(row.group(1)))
    scheme = location.split("://", 1)[0]
    if scheme in ("zip", "tar") and "::" in location:
        member, archive = location.split("::", 1)
        return _archive(scheme, archive).read(member.split("://", 1)[1], most)
    with _fsspec().open(location, "rb") as stream:
        data: bytes = stream.read(most)
    return data


def _fsspec() -> Any:
    return require("fsspec", "remote", "a picture by URL")


# --- archives and tables -----------------------------------------------------------------------------


class _Archive:
    """An opened zip or tar file; one thread reads at a time."""

    def __init__(self, kind: str, location: str) -> None:
        packed = {"compression": "gzip"} if location.lower().endswith((".tgz", ".gz")) else {}
        self._files = _fsspec().filesystem(kind, fo=location, skip_instance_cache=True, **packed)
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """All members, sorted."""
        with self._lock:
            return sorted(self._files.find(""))

    def read(self, name: str, most: int) -> bytes:
        """The first bytes of a member."""
        try:
            with self._lock, self._files.open(name, "rb") as stream:
                data: bytes = stream.read(most)
        except (AttributeError, KeyError):  # how a tar archive says that there are no bytes
            raise PictureError(f"{name} is a device or a link in its archive that leads to no file of it.") from None
        return data


class _Table:
    """An opened Parquet file with a column of pictures; the row group read last is kept."""

    def __init__(self, location: str) -> None:
        parquet = require("pyarrow.parquet", "index", "a picture in a table")
        self._file = parquet.ParquetFile(_fsspec().open(location, "rb").open())
        self._lock = threading.Lock()
        self._column, self.label_column = _columns(self._file.schema_arrow, redacted(location))
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        self._kept: tuple[int, list[Any]] = (-1, [])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def picture(self, row: int) -> bytes:
        """The bytes in one row."""
        with self._lock:
            group = next((i for i, end in enumerate(self._ends) if row < end), None)
            if group is None:
                raise FileNotFoundError(row)
            if self._kept[0] != group:
                values = self._file.read_row_group(group, columns=[self._column])[self._column].to_pylist()
                self._kept = (group, values)
            first = self._ends[group - 1] if group else 0
            value = self._kept[1][row - first]
        value = value.get("bytes") if isinstance(value, dict) else value
        if not value:
            raise FileNotFoundError(row)
        return bytes(value)

    def labels(self) -> Iterator[str | None]:
        """What each row is said to show."""
        if self.label_column is None:
            yield from (None for _ in range(len(self)))
            return
        for batch in self._file.iter_batches(columns=[self.label_column]):
            yield from (None if value is None else str(value) for value in batch.column(0).to_pylist())


def _columns(schema: Any, shown: str) -> tuple[str, str | None]:
    """The column of pictures (bytes, or a record with bytes) and that of labels."""
    types = {name: str(schema.field(name).type) for name in schema.names}
    holds = [name for name, kind in types.items() if kind in ("binary", "large_binary") or "bytes: " in kind]
    named = [name for name in holds if name.lower() in _IMAGE_COLUMNS] or holds
    if not named:
        raise PictureError(f"{shown} has no column of pictures (bytes); its columns: {', '.join(schema.names)}.")
    return named[0], next((name for name in schema.names if name.lower() in _LABEL_COLUMNS), None)


_opened: OrderedDict[tuple[str, str, object], Any] = OrderedDict()
_opening = threading.Lock()


def _kept_open(kind: str, location: str, make: Callable[[], Any]) -> Any:
    """Archives and tables stay open, the last few of them: their lists of contents are long to read."""
    key = (kind, location, _stamp(location))
    with _opening:
        if key not in _opened:
            _opened[key] = make()
            while len(_opened) > _OPEN_AT_ONCE:
                _opened.popitem(last=False)
        _opened.move_to_end(key)
        return _opened[key]


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of a file, so that another one in its place is opened anew; ``None`` for a URL."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _archive(kind: str, location: str) -> _Archive:
    found: _Archive = _kept_open(kind, location, lambda: _Archive(kind, location))
    return found


def _table(location: str) -> _Table:
    found: _Table = _kept_open("table", location, lambda: _Table(location))
    return found


# --- listing -----------------------------------------------------------------------------------------


def list_location(location: str, endings: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    """The pictures at a location with their labels, in an order of their own that does not change.

    Args:
        location: one picture, a folder by URL (listed folder by folder), an archive or a table, by URL or path.
        endings: of pictures' names.

    Yields:
        A location and what the picture is said to show: the column "label" of a table, in an archive the text of a file
        beside it with the ending ``.cls`` (WebDataset), else the name of the folder it lies in, ``None`` at the top.

    Raises:
        PictureError: nothing is there, or it cannot be listed.
        DependencyError: what is needed for this kind of location is not installed.
    """
    shown = redacted(location)
    try:
        if not is_container(location):
            yield from _in_folder(location, endings)
        elif location.lower().endswith(_TABLE):
            yield from ((f"{location}#row={row}", label) for row, label in enumerate(_table(location).labels()))
        else:
            yield from _in_archive(location, endings)
    except FileNotFoundError:
        raise PictureError(f"there is nothing at {shown}: check the address.") from None
    except PermissionError as error:
        raise PictureError(f"{shown} may not be listed: check the credentials of this environment.") from error
    except ImportError as error:
        raise DependencyError(f'{shown} cannot be listed: {error}. pip install "onnxvis[remote]".') from error
    except (PictureError, DependencyError):
        raise
    except Exception as error:  # noqa: BLE001 - as above
        reason = _without_secrets(str(error) or type(error).__name__, location)
        raise PictureError(f"{shown} cannot be listed: {reason[:200]}. Is it whole, and what its name says?") from None


def _in_folder(location: str, endings: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    files, root = _fsspec().core.url_to_fs(location)
    if PurePosixPath(root).suffix.lower() in endings:
        yield location, None
        return
    head = location[: len(location) - len(root)] if location.endswith(root) else ""
    for folder, folders, names in files.walk(root):
        folders.sort()  # walked in this order
        own = None if folder.strip("/") == root.strip("/") else PurePosixPath(folder).name
        for name in sorted(names):
            if _is_picture(PurePosixPath(name), endings):
                path = f"{folder.rstrip('/')}/{name}"
                yield (head + path if head else files.unstrip_protocol(path)), own


def _is_picture(path: PurePosixPath, endings: frozenset[str]) -> bool:
    """By its ending; the twins named ``._x.jpg`` that macOS packs along hold no picture."""
    return path.suffix.lower() in endings and not path.name.startswith("._")


def _in_archive(location: str, endings: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    kind = ARCHIVES[PurePosixPath(location).suffix.lower()]
    archive = _archive(kind, location)
    names = archive.names()
    known = frozenset(names)
    for name in names:
        path = PurePosixPath(name)
        if _is_picture(path, endings):
            beside = str(path.with_suffix(".cls"))
            if beside in known:
                label: str | None = archive.read(beside, 1000).decode("utf-8", "replace").strip()
            else:
                label = path.parent.name or None
            yield f"{kind}://{name}::{location}", label
