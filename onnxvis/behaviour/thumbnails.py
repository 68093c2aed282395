"""Small copies of all pictures of a store, on disk: for distances in pixels, sprites and image grids.

Each is the model's input picture (resized and cropped as the preprocessing says) reduced to a square by averaging.
They go into a memory-mapped file, a few pictures read ahead, so a store of any size needs no more memory than those; an
interrupted pass goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.stored import Pictures
from onnxvis.errors import OutputError
from onnxvis.progress import Progress, silent
from onnxvis.reading import read_ahead

__all__ = ["Thumbnails", "make_thumbnails", "thumbnail_of"]

_TODO, _GOOD, _BAD = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Small squares of some pictures.

    Attributes:
        ids: ``(N,)`` numbers of the pictures.
        pixels: ``(N, side, side, 3) uint8``, memory-mapped, read-only; gray where a picture is missing.
        good: ``(N,) bool``: the picture was there and unchanged.
        problems: what was wrong with the first of the others, and how many they are; or empty.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    good: NDArray[np.bool_]
    problems: str = ""

    @property
    def side(self) -> int:
        """Pixels of a side."""
        return int(self.pixels.shape[1])

    def place(self, id: int) -> int:
        """Where a picture stands in the arrays."""
        return int(np.flatnonzero(self.ids == id)[0])


def thumbnail_of(display: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """``(H, W, 3) uint8`` to ``(side, side, 3)``: the mean of what each pixel covers."""
    from PIL import Image

    small = Image.fromarray(display).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8)


def make_thumbnails(
    pictures: Pictures, ids: Sequence[int], side: int, folder: Path, progress: Progress = silent
) -> Thumbnails:
    """The small squares of these pictures, made or taken up again in ``folder``.

    A picture that is gone or has changed leaves a gray square and is counted; it never ends the pass.

    Args:
        pictures: opens them.
        ids: which, in this order.
        side: pixels of a side.
        folder: where the files are kept; an earlier pass over the same pictures there is used.
        progress: told about every picture.

    Raises:
        OutputError: the folder cannot be written.
    """
    key = hashlib.sha256(json.dumps([side, *(pictures.row(i).sha256 for i in ids)]).encode()).hexdigest()[:16]
    shape = (len(ids), side, side, 3)
    pixels, state = _files(folder, f"thumbnails-{side}-{key}", shape)
    todo = [place for place in range(len(ids)) if state[place] == _TODO]
    first = ""
    for read in read_ahead(todo, lambda place: thumbnail_of(pictures.read(ids[place]).display(), side)):
        progress("thumbnails", read.item, len(ids))
        pixels[read.item] = 128 if read.value is None else read.value
        state[read.item] = _BAD if read.value is None else _GOOD
        first = first or read.error
    progress("thumbnails", len(ids), len(ids))
    pixels.flush()
    state.flush()
    good = np.asarray(state) == _GOOD
    bad = int((~good).sum())
    known = first or "see an earlier run" if bad else ""
    problems = f"{bad} of {len(ids)} pictures could not be opened again ({known})" if bad else ""
    return Thumbnails(np.asarray(ids, np.int64), pixels, good, problems)


def _files(folder: Path, name: str, shape: tuple[int, ...]) -> tuple[np.memmap, np.memmap]:
    """The two files of a pass: squares, and what was done; empty ones where they are missing or of another size."""
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, size in ((".rgb", shape), (".done", shape[:1])):
            path = folder / f"{name}{ending}"
            bytes_needed = int(np.prod(size))
            if not path.exists() or path.stat().st_size != bytes_needed:
                with path.open("wb") as stream:
                    os.truncate(stream.fileno(), bytes_needed)
                if ending == ".rgb":
                    (folder / f"{name}.done").unlink(missing_ok=True)
            made.append(np.memmap(path, np.uint8, "r+", shape=size))
    except OSError as error:
        raise OutputError(f"cannot keep thumbnails in {folder}: {error.strerror or error}.") from error
    return made[0], made[1]
