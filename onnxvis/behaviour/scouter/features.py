"""One pass of the frozen backbone over all pictures, kept on disk: every later training reads from there.

A folder holds ``values-*.npy``, memory-mapped, and ``progress.json``, which names that file and says how many rows
are in it. The rows are on the disk before the count is, so a pass that was killed goes on where the count stands.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.behaviour.scouter.data import Samples
from onnxvis.errors import ModelError, OutputError, PictureError, PreprocessingError, UsageError
from onnxvis.files import write_atomic
from onnxvis.methods.checkpoint import fingerprint
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["Features", "backbone_features"]

_FORM = 1


@dataclass(frozen=True, eq=False)
class Features:
    """A tensor of the deployed graph for every picture.

    Attributes:
        values: ``(N, ...)`` in the layout and type of the file, memory-mapped; rows of unreadable pictures are 0.
        good: ``(N,)`` bool: which pictures could be read.
        problems: one sentence for each that could not.
        resumed: how many rows were found on disk.
        key: what the rows depend on, as one word.
        folder: where they lie.
    """

    values: np.ndarray
    good: np.ndarray
    problems: tuple[str, ...]
    resumed: int
    key: str
    folder: Path


def backbone_features(
    model: Model,
    samples: Samples,
    tensor: str,
    work: Path,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Features:
    """Compute a tensor for all pictures, or go on, or just open what is finished.

    Args:
        model: the deployed model, with its preprocessing.
        samples: the pictures.
        tensor: which tensor; the model's own input keeps the prepared pictures.
        work: folder for such passes; each gets a folder of its own in it.
        batch_size: pictures at once.
        progress: where it reports.

    Raises:
        ModelError: a value is not finite; the picture is named.
        PictureError: no picture can be read.
        OutputError: the folder cannot be written, or the disk is too small.
    """
    key = _key(model, samples, tensor)
    folder = work / f"features-{key[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = _Store.opened(folder, len(samples))
        resumed = store.done
        if store.done < len(samples):
            store = _pass(model, samples, tensor, store, batch_size, progress)
    except OSError as error:
        raise OutputError(f"cannot keep features in {folder}: {error.strerror or error}.") from error
    good = np.ones(len(samples), bool)
    good[[int(row) for row in store.problems]] = False
    if not good.any():
        raise PictureError(f"none of the {len(samples)} pictures of {samples.source} can be read. The first: "
                           f"{next(iter(store.problems.values()))}")  # fmt: skip
    assert store.values is not None
    return Features(store.values, good, tuple(store.problems.values()), resumed, key, folder)


def _key(model: Model, samples: Samples, tensor: str) -> str:
    stated = model.preprocessing.to_dict() if model.preprocessing is not None else {}
    stated.pop("source", None)
    return fingerprint(
        (_FORM, model.sha256, sorted(model.file.external.items()), tensor, sorted(stated.items()), samples.digest,
         model.provider.name, model.one_image_shape(), *(v for n in sorted(model.engine.constants)
         for v in (n, model.engine.constants[n])))
    )  # fmt: skip


@dataclass
class _Store:
    """The rows on disk so far."""

    folder: Path
    count: int
    done: int
    problems: dict[str, str]
    values: np.ndarray | None

    @classmethod
    def opened(cls, folder: Path, count: int) -> _Store:
        """What is on disk; an unreadable or unfinished remainder of another program starts anew."""
        try:
            noted = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            values = np.load(folder / noted["file"], mmap_mode="r+" if noted["done"] < count else "r")
            if len(values) == count:
                return cls(folder, count, int(noted["done"]), dict(noted["problems"]), values)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing usable there: that is the ordinary first run
        return cls(folder, count, 0, {}, None)

    def make(self, row_shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """The file, once the shape of a row is known."""
        need = self.count * int(np.prod(row_shape)) * dtype.itemsize
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise OutputError(
                f"the features of {self.count:,} pictures take {need / 1e9:.1f} GB, and {self.folder} has "
                f"{free / 1e9:.1f} GB free. Name another folder with --work, or take fewer pictures."
            )
        for old in self.folder.glob("values-*.npy"):
            with contextlib.suppress(OSError):
                old.unlink()
        path = self.folder / f"values-{uuid.uuid4().hex[:8]}.npy"
        self.values = np.lib.format.open_memmap(path, "w+", dtype, (self.count, *row_shape))

    def put(self, rows: Sequence[int], values: np.ndarray) -> None:
        """Write some rows."""
        if self.values is None:
            self.make(values.shape[1:], values.dtype)
        assert self.values is not None
        if values.shape[1:] != self.values.shape[1:]:
            raise UsageError(
                f"pictures give feature maps of different sizes ({self.values.shape[1:]} and {values.shape[1:]}): the "
                "model leaves its input size free. Fix it with --size HEIGHT,WIDTH."
            )
        self.values[list(rows)] = values

    def note(self, done: int) -> None:
        """Say how many rows are finished, after they are on the disk."""
        self.done = done
        if self.values is None:
            return
        assert isinstance(self.values, np.memmap)
        self.values.flush()
        name = Path(str(self.values.filename)).name
        text = json.dumps({"file": name, "done": done, "problems": self.problems})
        write_atomic(self.folder / "progress.json", text.encode())


def _pass(model: Model, samples: Samples, tensor: str, store: _Store, batch_size: int, progress: Progress) -> _Store:
    total = len(samples)
    for start in range(store.done, total, batch_size):
        progress("features", start, total)
        stop = min(start + batch_size, total)
        rows, tensors = [], []
        for row in range(start, stop):
            try:
                tensors.append(model.prepare(samples.pictures[row]).tensor)
                rows.append(row)
            except PictureError as error:
                store.problems[str(row)] = f"{samples.name(row)}: {error}"
            except PreprocessingError as error:
                if model.preprocessing is None:
                    raise
                store.problems[str(row)] = f"{samples.name(row)}: {error}"
        for group in _same_shape(tensors):
            _run(model, samples, tensor, store, [rows[i] for i in group], [tensors[i] for i in group], batch_size)
        store.note(stop)
    progress("features", total, total)
    return store


def _same_shape(tensors: Sequence[np.ndarray]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(i)
    return list(groups.values())


def _run(
    model: Model,
    samples: Samples,
    tensor: str,
    store: _Store,
    rows: Sequence[int],
    tensors: Sequence[np.ndarray],
    batch_size: int,
) -> None:
    x = np.concatenate(tensors)
    values = x if tensor == model.image_input.name else model.engine.forward(x, (tensor,), batch_size)[tensor]
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        bad = samples.name(rows[int(np.argmin(finite))])
        raise ModelError(
            f"the backbone answers with NaN or infinity at {tensor!r} on {bad}, so no head can be trained on it. Check "
            "the preprocessing (value range) and, for a float16 file, try its float32 original."
        )
    store.put(rows, values)
