"""The folder of an audit: what is finished is on disk, whole or not at all, and the next run goes on from there.

index.html, audit.json         written at the end, and when interrupted
maps/PICTURE/entry.json        one picture; the last of its files to appear
maps/PICTURE/picture.webp      the picture as the page shows it
maps/PICTURE/METHOD/TARGET/    attribution.npy and manifest.json
state/                         settings, answers on all pictures, self-tests
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxvis.errors import OutputError, ResultExistsError
from onnxvis.explanation import Explanation
from onnxvis.files import write_atomic
from onnxvis.locations import holder, is_location, location_name
from onnxvis.names import slug

__all__ = [
    "FinishedFolder",
    "FinishedMap",
    "FinishedPicture",
    "LostPicture",
    "ReportFolder",
    "entry_name",
    "map_folder",
    "plain_json",
]

_LONGEST_NAME = 48


def plain_json(data: Any, indent: int | None = 1) -> bytes:
    """JSON as bytes: the order as given, no NaN, lone surrogates of file names kept readable."""
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def entry_name(path: str) -> str:
    """The folder of a picture: its name, and a piece of the hash of the path it was given by."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    name = location_name(path) if is_location(path) else Path(path).name
    return f"{slug(Path(name).stem or 'picture', _LONGEST_NAME)}-{digest}"


def map_folder(path: str, explanation: Explanation, target: int) -> str:
    """The folder of a map, relative to the report's.

    Args:
        path: of the picture, as it was given.
        explanation: the map.
        target: number of the target, so that two targets of one name do not share a folder.
    """
    name = f"{target + 1}-{slug(explanation.target)}"
    return (Path("maps") / entry_name(path) / explanation.method / name).as_posix()


@dataclass(frozen=True, eq=False)
class FinishedMap:
    """The files of one map.

    Attributes:
        folder: relative to the report's.
        attribution: contents of ``attribution.npy``.
        manifest: contents of ``manifest.json``.
    """

    folder: str
    attribution: bytes = field(repr=False)
    manifest: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class FinishedPicture:
    """Everything that a report keeps of one picture.

    Attributes:
        path: as it was given.
        entry: its part of ``audit.json``.
        picture: as the page shows it, WebP.
        maps: in the order of methods and targets.
    """

    path: str
    entry: Mapping[str, Any]
    picture: bytes = field(repr=False)
    maps: tuple[FinishedMap, ...] = field(repr=False)


@dataclass(frozen=True)
class LostPicture:
    """A picture that was answered and could not be read again, for its maps; it costs only itself.

    Attributes:
        path: as it was given.
        error: why.
    """

    path: str
    error: str


class FinishedFolder:
    """The folder of an audit, to be read.

    Args:
        out: the folder.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(out)

    def picture(self, path: str) -> bytes:
        """The picture as the page shows it."""
        return (self.out / "maps" / entry_name(path) / "picture.webp").read_bytes()


class ReportFolder(FinishedFolder):
    """The files of one audit.

    Args:
        out: the folder; made where it is missing.
        settings: what determines the results. A folder with results of other settings is refused.
        overwrite: remove the results of other settings instead.

    Raises:
        ResultExistsError: the folder holds an audit of other settings; the first that differs is named.
        OutputError: it cannot be made, or holds something else.
    """

    def __init__(self, out: str | os.PathLike[str], settings: Mapping[str, Any], overwrite: bool = False) -> None:
        super().__init__(out)
        self._state = self.out / "state"
        stated = json.loads(plain_json(settings))
        file = self._state / "settings.json"
        old = _read(file)
        with _writing(self.out):
            if not isinstance(old, dict) or "audit_version" not in old:
                _refuse_foreign(self.out)
            elif old != stated and not overwrite:
                raise ResultExistsError(
                    f"{self.out} holds an audit of other settings ({_difference(old, stated)}). Choose another folder "
                    "with --out, or pass --overwrite to begin anew."
                )
            elif old != stated:
                for folder in filter(Path.exists, (self.out / "maps", self._state)):
                    shutil.rmtree(folder)
            self._state.mkdir(parents=True, exist_ok=True)
            (self.out / "maps").mkdir(exist_ok=True)
            self._remove_partials()
            write_atomic(file, plain_json(stated))

    def _remove_partials(self) -> None:
        """What a killed run was writing: hidden files of the names that only this writes."""
        partials = [*(self.out / "maps").rglob(".*.*"), *self._state.glob(".*.*")]
        partials += [*self.out.glob(".index.*"), *self.out.glob(".audit.json.*")]
        for partial in partials:
            partial.unlink()

    # --- answers on all pictures -----------------------------------------------------------------

    def answers(self) -> dict[str, dict[str, Any]]:
        """The answers of an earlier run, by path; those on files that have changed since are left out."""
        found: dict[str, dict[str, Any]] = {}
        for line in _lines(self._state / "answers.jsonl"):
            try:
                record = json.loads(line)
            except ValueError:  # the line that an interrupted run was writing
                continue
            if record["stamp"] is not None and record["stamp"] == _stamp(record["path"]):
                found[record["path"]] = record
        return found

    def add_answers(self, records: list[dict[str, Any]]) -> None:
        """Keep the answers on some pictures."""
        file = self._state / "answers.jsonl"
        with _writing(file):
            torn = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
            lines = b"".join(plain_json({**r, "stamp": _stamp(r["path"])}, None) + b"\n" for r in records)
            with file.open("ab") as stream:
                stream.write(b"\n" * torn + lines)
                stream.flush()
                os.fsync(stream.fileno())

    # --- pictures --------------------------------------------------------------------------------

    def entry(self, path: str) -> dict[str, Any] | None:
        """What is finished of a picture, or ``None``."""
        found: dict[str, Any] | None = _read(self.out / "maps" / entry_name(path) / "entry.json")
        return found

    def save(self, picture: FinishedPicture) -> None:
        """Keep a finished picture: from now on it is not computed again."""
        for one in picture.maps:
            self._put(Path(one.folder) / "attribution.npy", one.attribution)
            self._put(Path(one.folder) / "manifest.json", one.manifest)
        folder = Path("maps") / entry_name(picture.path)
        self._put(folder / "picture.webp", picture.picture)
        self._put(folder / "entry.json", plain_json(picture.entry))

    # --- the rest --------------------------------------------------------------------------------

    def part(self, name: str) -> Any:
        """A part of the audit that an earlier run has finished, or ``None``."""
        return _read(self._state / f"{name}.json")

    def save_part(self, name: str, data: Any) -> None:
        """Keep a finished part."""
        self._put(Path("state") / f"{name}.json", plain_json(data))

    def write(self, name: str, data: bytes) -> Path:
        """A file of the report itself."""
        self._put(Path(name), data)
        return self.out / name

    def _put(self, relative: Path, data: bytes) -> None:
        target = self.out / relative
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, data)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. What is finished is kept; the same command goes on."
        ) from error


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except FileNotFoundError:
        return []


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{file} cannot be read ({error}): remove it, or choose another folder.") from error


def _stamp(path: str) -> list[int] | None:
    """Size and time of the file that a picture is read from; ``None`` where that cannot be known, as by URL."""
    file = holder(path) if is_location(path) else path
    try:
        status = Path(file).stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _refuse_foreign(out: Path) -> None:
    """A folder with files that are not ours would get ours in between: only an empty one is taken."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; name a folder with --out.")
    for name in ("maps", "audit.json", "index.html"):
        if (out / name).exists():
            raise OutputError(
                f"{out} already holds {name!r}, which is not of an audit. Choose another folder with --out."
            )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = [n for n in {**old, **new} if old.get(n) != new.get(n)]
    then, now = (json.dumps(which.get(names[0]), ensure_ascii=False)[:80] for which in (old, new))
    return f"{names[0]}: {then} there, {now} now"
