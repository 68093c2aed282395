"""Concept masks on disk: a folder of label maps, one for each picture, and the names of their numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import PictureError, UsageError
from onnxvis.kernels.overlap import UNLABELED
from onnxvis.labels import Labels, load_labels
from onnxvis.locations import inner_path, is_location

__all__ = ["VOID", "LabelMaps", "on_input_grid"]

VOID = 255
"""The number that marks pixels which count nowhere, where no name is given for it (as in Pascal VOC)."""

_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif")
_LARGEST_NUMBER = 1_000_000
_NAMES = ("concepts.txt", "concepts.json")


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of the pictures of a data set.

    A label map is a picture of whole numbers (palette, 8 or 16 bits of gray) with the picture's own stem:
    ``photos/street/12.jpg`` has ``MASKS/street/12.png`` or ``MASKS/12.png``. Its numbers are the concepts' places in
    ``concepts.txt`` (one name a line, or "number name") or ``concepts.json`` in the folder; a number without a name is
    no concept, though its pixels count as "not this concept" for all others; :data:`VOID` counts nowhere.

    Attributes:
        folder: where they lie.
        numbers: the numbers that are concepts, ascending.
        names: their names; numbers of one name are told apart by the number behind it.
        files: label maps by their path in the folder without ending, in small letters.
    """

    folder: Path
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    files: dict[str, Path]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> LabelMaps:
        """Find the maps and names of a folder; nothing but names is read yet.

        Raises:
            UsageError: it is no folder, or holds no label maps, or its names cannot be read.
        """
        root = Path(folder)
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder of label maps.")
        files = {
            _key(path.relative_to(root)): path
            for path in sorted(root.rglob("*"))
            if path.suffix.lower() in _ENDINGS and path.is_file()
        }
        if not files:
            raise UsageError(f"the folder {root} holds no label maps ({', '.join(_ENDINGS)}).")
        lists = [root / name for name in _NAMES if (root / name).is_file()]
        if not lists:
            raise UsageError(
                f"the folder {root} does not say what its numbers mean: put concepts.txt (one name a line, the first "
                'for 0, or "number name") or concepts.json ({"1": "sky"}) there.'
            )
        labels: Labels = load_labels(lists[0])
        named = [(number, name) for number, name in enumerate(labels.names) if name]
        times = Counter(name for _, name in named)
        names = tuple(name if times[name] == 1 else f"{name} ({number})" for number, name in named)
        return cls(root, tuple(n for n, _ in named), names, files)

    def find(self, picture: str | os.PathLike[str]) -> Path | None:
        """The label map of a picture: the longest end of its path, in its archive too, that a map of the folder has.

        Raises:
            UsageError: only the stem fits, and several maps have it.
        """
        place = os.fspath(picture)
        parts = Path(_key(Path(inner_path(place) if is_location(place) else place))).parts
        for start in range(len(parts)):
            found = self.files.get("/".join(parts[start:]))
            if found is not None:
                return found
        stem = parts[-1] if parts else ""
        ends = [path for key, path in self.files.items() if key.rsplit("/", 1)[-1] == stem]
        if len(ends) > 1:
            raise UsageError(
                f"{picture} could have the label map {ends[0]} or {ends[1]}: lay the maps out in the folders that the "
                "pictures are in."
            )
        return ends[0] if ends else None

    def read(self, path: Path, size: tuple[int, int]) -> NDArray[np.int64]:
        """One label map as places in :attr:`names`: ``(H, W)``, ``len(names)`` for no concept, -1 for void.

        Args:
            path: the file.
            size: ``(width, height)`` of its picture.

        Raises:
            PictureError: it cannot be read, is no map of whole numbers, or is not of the picture's size.
        """
        values = _numbers(path)
        if values.shape[::-1] != size:
            raise PictureError(
                f"the label map {path} is {values.shape[1]} x {values.shape[0]} and its picture {size[0]} x {size[1]}: "
                "a label map needs a pixel for each pixel of its picture."
            )
        if int(values.max()) > _LARGEST_NUMBER:
            raise PictureError(
                f"the label map {path} holds the number {int(values.max())}, more than the {_LARGEST_NUMBER} that are "
                "read: concepts are numbered from 0."
            )
        table = np.full(max(int(values.max()), VOID, *self.numbers) + 1, len(self.names), np.int64)
        table[VOID] = UNLABELED
        table[list(self.numbers)] = np.arange(len(self.numbers))
        return np.asarray(table[values])


def _key(path: Path) -> str:
    return path.with_suffix("").as_posix().lower().lstrip("/")


def _numbers(path: Path) -> NDArray[np.int64]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"the label map {path} cannot be read ({error}).") from error
    kinds = {"P", "L", "1", "I", "I;16", "I;16B", "I;16L", "I;16N"}
    if mode not in kinds or values.ndim != 2 or (values.size and int(values.min()) < 0):
        raise PictureError(
            f"the label map {path} is {mode}, not a map of numbers: save it as a palette or gray picture whose values "
            "are the concepts' numbers."
        )
    return values.astype(np.int64)


def on_input_grid(labels: NDArray[np.int64], geometry: Any) -> NDArray[np.int64]:
    """A label map of the original picture on the model's input grid: the label under each input pixel's center.

    Args:
        labels: ``(H0, W0)`` on the picture.
        geometry: of the picture's preparation (:class:`onnxvis.preprocessing.Geometry`).

    Returns:
        ``(H, W) int64``; -1 on padding, which is no part of the picture.
    """
    width, height = geometry.input_size
    x0, y0, x1, y1 = geometry.content_box
    grid = np.full((height, width), UNLABELED, np.int64)
    columns = _nearest(range(x0, x1), geometry.scale[0], geometry.offset[0], labels.shape[1])
    rows = _nearest(range(y0, y1), geometry.scale[1], geometry.offset[1], labels.shape[0])
    grid[y0:y1, x0:x1] = labels[np.ix_(rows, columns)]
    return grid


def _nearest(pixels: Sequence[int], scale: float, offset: float, size: int) -> NDArray[np.int64]:
    """The picture's pixel that holds the center of each input pixel."""
    place = (np.asarray(pixels, np.float64) + 0.5 - offset) / scale
    return np.clip(np.floor(place), 0, size - 1).astype(np.int64)
