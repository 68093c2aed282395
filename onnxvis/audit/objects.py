"""Where the objects are: boxes and masks that somebody drew, found for a picture by its path.

Boxes come from JSON (``{picture: box, boxes or the path of a mask}``, or COCO's form) or CSV (path and four edges a
line), masks from a folder of mask pictures that are named like the pictures. Nothing is guessed: a name that fits two
pictures is an error, one that fits none is said.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.locations import inner_path, is_location
from onnxvis.picture_files import PICTURE_ENDINGS, is_picture_file

__all__ = ["NOWHERE", "Objects", "Place", "read_objects"]

Box: TypeAlias = tuple[float, float, float, float]
Key: TypeAlias = tuple[str, ...]

_LARGEST = 500 * 1024**2
_LARGEST_MASK = 500_000_000
_HALF = 128
_EDGES = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_PATHS = ("path", "picture", "image", "file", "filename", "file_name", "name")


@dataclass(frozen=True)
class Place:
    """Where the objects of one picture are, in pixels of the picture as it is shown (turned as its EXIF says).

    Attributes:
        boxes: edges ``(x0, y0, x1, y1)``; empty where there is a mask.
        mask: file of the mask.
    """

    boxes: tuple[Box, ...] = ()
    mask: Path | None = None

    def values(self) -> np.ndarray:
        """``(boxes, 4)`` float64, or the mask ``(H0, W0)`` bool: what is not black (in a JPEG: at least half bright).

        Raises:
            UsageError: the mask cannot be read.
        """
        if self.mask is None:
            return np.asarray(self.boxes, np.float64).reshape(-1, 4)
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.mask) as picture:
                if picture.width * picture.height > _LARGEST_MASK:
                    raise UsageError(f"the mask {self.mask} has more than {_LARGEST_MASK:,} pixels.")
                least = _HALF if picture.format == "JPEG" else 1
                seen = np.asarray(picture.convert("L")) >= least
                if "A" in picture.getbands():
                    seen &= np.asarray(picture.getchannel("A")) > 0
                return seen
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UsageError(f"the mask {self.mask} cannot be read: {error}.") from None

    def digest(self) -> str:
        """Fingerprint of the boxes, or of the mask's file."""
        if self.mask is None:
            return hashlib.sha256(json.dumps(self.boxes).encode()).hexdigest()
        try:
            return hashlib.sha256(self.mask.read_bytes()).hexdigest()
        except OSError as error:
            raise UsageError(f"the mask {self.mask} cannot be read: {error.strerror or error}.") from None


@dataclass(frozen=True)
class Objects:
    """The objects of many pictures.

    Attributes:
        places: by the end of a picture's path, in parts; that of a mask in a folder has no ending.
        source: where they come from, in words.
    """

    places: Mapping[Key, Place]
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.places)

    def assigned(self, paths: Sequence[str]) -> tuple[dict[str, Place], list[str]]:
        """The place of each picture that has one, and the names that belong to no picture.

        Raises:
            UsageError: a name fits several pictures.
        """
        by_last = defaultdict(list)
        for key in self.places:
            by_last[key[-1]].append(key)
        owners: dict[Key, str] = {}
        for path in dict.fromkeys(paths):
            key = _longest(_parts(path), by_last)
            if not key:
                continue
            if key in owners:
                raise UsageError(
                    f"{'/'.join(key)!r} of {self.source} fits several pictures ({owners[key]}, {path}): write more of "
                    "the path in front of it, such as the folder."
                )
            owners[key] = path
        unused = ["/".join(name) for name in self.places if name not in owners]
        return {path: self.places[name] for name, path in owners.items()}, unused

    def digest(self) -> str:
        """Fingerprint of all places, for deciding whether a result is of the same question."""
        lines = sorted(f"{'/'.join(key)} {place.digest()}" for key, place in self.places.items())
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


NOWHERE = Objects({})
"""Nobody said where the objects are."""


def read_objects(boxes: str | Path | None = None, masks: str | Path | None = None) -> Objects:
    """Read boxes from a file, masks from a folder or a file.

    Args:
        boxes: JSON or CSV.
        masks: a folder of mask pictures named like the pictures (below sub-folders: with them), or a file as for
            ``boxes``.

    Raises:
        UsageError: one of them cannot be read or says nothing, or both speak of the same picture.
    """
    found: dict[Key, Place] = {}
    sources = []
    for option, given in (("--boxes", boxes), ("--masks", masks)):
        if given is None:
            continue
        path = Path(given)
        if path.is_dir() and option == "--boxes":
            raise UsageError(f"{path} is a folder: --boxes takes a JSON or CSV file, --masks a folder of masks.")
        read = _from_folder(path) if path.is_dir() else _from_file(path)
        if not read:
            raise UsageError(f"{path} says of no picture where its objects are.")
        twice = next((key for key in read if key in found or _bare(key) in found), None)
        if twice is not None or any(_bare(key) in read for key in found):
            raise UsageError("--boxes and --masks speak of the same picture: say it once.")
        found |= read
        sources.append(str(path))
    return Objects(found, " and ".join(sources))


def _longest(parts: Key, by_last: Mapping[str, Sequence[Key]]) -> Key:
    """The longest name that a path ends with, empty where none is; names of masks have no ending."""
    bare = _bare(parts)
    fits = [key for key in by_last.get(parts[-1], ()) if parts[-len(key) :] == key]
    fits += [key for key in by_last.get(bare[-1], ()) if bare[-len(key) :] == key and key not in fits]
    return max(fits, key=len, default=())


def _bare(key: Key) -> Key:
    last = PurePosixPath(key[-1])
    return (*key[:-1], last.stem if last.suffix.lower() in PICTURE_ENDINGS else key[-1])


def _parts(path: str) -> Key:
    text = inner_path(path) if is_location(path) else Path(path).as_posix()
    return tuple(part for part in PurePosixPath(text).parts if part not in (".", "/", "")) or ("",)


# --- reading ------------------------------------------------------------------------------------------


def _from_folder(folder: Path) -> dict[Key, Place]:
    found: dict[Key, Place] = {}
    for path in sorted(p for p in folder.rglob("*") if is_picture_file(p)):
        key = _bare(_parts(path.relative_to(folder).as_posix()))
        if key in found:
            raise UsageError(f"{folder} holds two masks called {'/'.join(key)!r}: keep one.")
        found[key] = Place(mask=path)
    return found


def _from_file(path: Path) -> dict[Key, Place]:
    text = _text(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _from_csv(path, text)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(data, Mapping):
        raise UsageError(f"{path} holds no object of picture names: {{picture: [x0, y0, x1, y1]}}.")
    if isinstance(data.get("annotations"), list) and isinstance(data.get("images"), list):
        return _grouped(path, _coco(path, data))
    found: dict[Key, Place] = {}
    for name, value in data.items():
        key = _key(path, name)
        if key in found:
            raise UsageError(f"{path} names {name!r} twice.")
        found[key] = _place(path, name, value)
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(
                f"{path} is too large for a file of boxes ({path.stat().st_size:,} bytes): check the path."
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): check the path.") from None


def _key(path: Path, name: Any) -> Key:
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{path} has a picture without a name.")
    return _parts(name)


def _place(path: Path, name: str, value: Any) -> Place:
    if isinstance(value, str):
        return Place(mask=path.parent / value)
    several = isinstance(value, list) and value and all(isinstance(one, list) for one in value)
    return Place(tuple(_box(path, name, one) for one in (value if several else [value])))


def _box(path: Path, name: str, value: Any) -> Box:
    numbers = value if isinstance(value, list) and len(value) == 4 else []
    plain = [v for v in numbers if isinstance(v, int | float) and not isinstance(v, bool)]
    try:
        edges = [float(v) for v in plain]
    except OverflowError:
        edges = []
    if len(edges) != 4 or not all(map(math.isfinite, edges)) or not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise UsageError(
            f"{path}: what stands for {name[:80]!r} is no box [x0, y0, x1, y1] with x0 < x1 and y0 < y1, no list of "
            "such boxes, and not the path of a mask."
        )
    return edges[0], edges[1], edges[2], edges[3]


def _grouped(path: Path, rows: Iterable[tuple[str, Box]]) -> dict[Key, Place]:
    found: dict[Key, list[Box]] = {}
    for name, box in rows:
        found.setdefault(_key(path, name), []).append(box)
    return {key: Place(tuple(boxes)) for key, boxes in found.items()}


def _coco(path: Path, data: Mapping[str, Any]) -> list[tuple[str, Box]]:
    """COCO's form: a box is left, top, width and height."""
    try:
        names = {image["id"]: image["file_name"] for image in data["images"]}
        rows = [(names[one["image_id"]], one["bbox"]) for one in data["annotations"]]
        return [(name, _box(path, str(name), [b[0], b[1], b[0] + b[2], b[1] + b[3]])) for name, b in rows]
    except (KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{path} looks like COCO annotations, but something is missing: {error}.") from None


def _from_csv(path: Path, text: str) -> dict[Key, Place]:
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))
    except csv.Error as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}.") from None
    heading = [cell.strip().lower() for cell in lines[0]] if lines else []
    edges = next((names for names in _EDGES if all(name in heading for name in names)), None)
    name = next((n for n in _PATHS if n in heading), None)
    if edges is None or name is None:
        raise UsageError(f"{path} needs a heading line with the columns path, x0, y0, x1 and y1.")
    places = [heading.index(column) for column in (name, *edges)]
    rows = []
    for number, row in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            picture, *numbers = (row[k].strip() for k in places)
            rows.append((picture, _box(path, picture, [float(v) for v in numbers])))
        except (IndexError, ValueError):
            raise UsageError(f"{path}, line {number}: a path and four numbers are needed.") from None
    return _grouped(path, rows)
