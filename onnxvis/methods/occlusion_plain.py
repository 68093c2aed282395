"""Occluded pictures through the whole network: how batches are made, how large they are, and in which precision."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.errors import OnnxvisError
from onnxvis.kernels.occlusion import OcclusionBatches, Window
from onnxvis.methods.base import Task
from onnxvis.prediction import logits_of
from onnxvis.runtime.bfloat16 import Bfloat16
from onnxvis.runtime.engine import Engine
from onnxvis.runtime.occluded import OccludedSession

__all__ = ["Clock", "Plain"]

_SMALL_BATCH = 2
_TRIALS = 2
_WORTH = 2.0  # seconds of work from which looking for a better batch size pays
_GAIN = 0.95
Found = Iterator[tuple[np.ndarray, np.ndarray]]

_sizes: weakref.WeakKeyDictionary[Engine, dict[object, int]] = weakref.WeakKeyDictionary()
_sessions: weakref.WeakKeyDictionary[Engine, OccludedSession | str] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Clock:
    """Seconds on the wall and of the processor.

    Other programs lengthen the first, waiting threads the second: only what both say is believed.
    """

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clock:
        """The time."""
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Clock) -> Clock:
        return Clock(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Clock) -> Clock:
        return Clock(self.wall - other.wall, self.cpu - other.cpu)

    def __truediv__(self, count: int) -> Clock:
        return Clock(self.wall / max(count, 1), self.cpu / max(count, 1))

    def scaled(self, by: Clock) -> Clock:
        """Both times multiplied by two factors."""
        return Clock(self.wall * by.wall, self.cpu * by.cpu)

    def slower_than(self, other: Clock, part: float) -> bool:
        """Whether this took more than a part of another time, by both clocks."""
        return self.wall > part * other.wall and self.cpu > part * other.cpu


class Plain:
    """Logits of occluded pictures by the whole network.

    Where pictures have a long way to the device (CUDA), the batch is made inside the graph from the windows' offsets;
    elsewhere a window of each copy is filled and put back in place, which costs the bytes of the windows.

    Args:
        task: the task.
        image: ``(C, H, W)`` in the model's type.
        cover: from a window to what stands in it.
        places: all windows.
        lowered: runs the network in bfloat16, where that was asked for.
        inside: make batches inside the graph; by default on CUDA only.
        fixed: keep to the task's batch size, so that the answer has the same bits from run to run; else a smaller
            one is tried where the work is long.
    """

    def __init__(
        self,
        task: Task,
        image: np.ndarray,
        cover: Any,
        places: Sequence[Window],
        lowered: Bfloat16 | None = None,
        inside: bool | None = None,
        fixed: bool = False,
    ) -> None:
        self._fixed = fixed
        self._task, self._places, self._cover, self._lowered = task, places, cover, lowered
        self._image, self.note = image, ""
        self._inside: OccludedSession | None = None
        on_device = task.model.provider.short in ("cuda", "tensorrt")
        if lowered is None and (on_device if inside is None else inside):
            self._start_inside()
        self._batches: dict[int, OcclusionBatches] = {}

    def __call__(self, positions: np.ndarray) -> Found:
        """Batches of positions and their logits ``(n, ...)``."""
        if self._inside is not None:
            yield from self._inside_graph(self._inside, positions)
            return
        if self._fixed:
            yield from self._run(positions, self._task.batch_size)
            return
        largest, known = self._task.batch_size, _sizes.setdefault(self._task.model.engine, {})
        key = (self._task.x.shape[1:], largest, self._lowered is None)
        trial = 2 * _TRIALS * largest
        if key not in known and largest > _SMALL_BATCH and len(positions) >= 2 * trial:
            began = Clock.now()
            yield from self._run(positions[:largest], largest)
            left = (Clock.now() - began) / largest
            positions = positions[largest:]
            if min(left.wall, left.cpu) * len(positions) > _WORTH:  # else the answer keeps its bits from run to run
                yield from self._calibrate(positions[:trial], key, known)
                positions = positions[trial:]
        yield from self._run(positions, known.get(key, largest))

    def _calibrate(self, positions: np.ndarray, key: object, known: dict[object, int]) -> Found:
        """Run some positions in large and in small batches, in turn; what is faster by both clocks stays."""
        largest = self._task.batch_size
        spent = {largest: Clock(0.0, 0.0), _SMALL_BATCH: Clock(0.0, 0.0)}
        for trial, start in enumerate(range(0, len(positions), largest)):
            size = (largest, _SMALL_BATCH)[trial % 2]
            began = Clock.now()
            found = list(self._run(positions[start : start + largest], size))
            spent[size] += Clock.now() - began
            yield from found
        small, large = spent[_SMALL_BATCH], spent[largest]
        faster = small.wall < _GAIN * large.wall and small.cpu < _GAIN * large.cpu
        known[key] = _SMALL_BATCH if faster else largest

    def _run(self, positions: np.ndarray, size: int) -> Found:
        task, model = self._task, self._task.model
        name, start = model.logits.tensor, 0
        if size not in self._batches:
            self._batches[size] = OcclusionBatches(self._image, self._cover, size, model.layout == "NHWC")
        for batch in self._batches[size]([self._places[p] for p in positions]):
            x = batch.reshape(len(batch), *task.x.shape[1:])
            found = model.engine.forward(x, (name,), size) if self._lowered is None else self._lowered(x, name)
            yield positions[start : start + len(x)], logits_of(model, found, len(x))
            start += len(x)

    # --- batches made inside the graph -----------------------------------------------------------

    def _start_inside(self) -> None:
        """Hand the picture over; where that is impossible, say why and make batches outside."""
        engine = self._task.model.engine
        if engine not in _sessions:
            _sessions[engine] = self._open()
        opened = _sessions[engine]
        if isinstance(opened, str):
            self.note = f"the covered pictures were made outside of the graph: {opened}"
        else:
            self._inside, self.note = opened, "the covered pictures were made inside the graph, from their offsets"

    def _open(self) -> OccludedSession | str:
        model, sample = self._task.model, self._task.x[:1]
        if model.engine.batch_plan(sample).kind == "looped":
            return "pictures run one by one on this file"
        sessions, output = model.engine.batched(sample), model.logits.tensor
        places = (sessions.model, model.image_input.name, model.layout, output)
        try:
            return OccludedSession(*places, sessions.provider, sessions.data_folder, model.engine.constants)
        except OnnxvisError as error:
            return str(error)

    def _inside_graph(self, session: OccludedSession, positions: np.ndarray) -> Found:
        model, size = self._task.model, self._task.batch_size
        height = max(w.y1 - w.y0 for w in self._places)
        width = max(w.x1 - w.x0 for w in self._places)
        picture = np.ascontiguousarray(self._in_layout(self._image[None]))
        whole = self._whole_baseline()
        session.start(picture, (height, width), None if whole is None else self._in_layout(whole))
        for start in range(0, len(positions), size):
            chosen = positions[start : start + size]
            places = [self._places[p] for p in chosen]
            own = None if whole is not None else self._in_layout(np.stack([self._cover(w) for w in places]))
            logits = session(np.array([(w.y0, w.x0) for w in places], np.int64), own)
            yield chosen, logits_of(model, {model.logits.tensor: logits}, len(chosen))

    def _whole_baseline(self) -> np.ndarray | None:
        """What covers, for the whole picture ``(1, C, H, W)``; None where each window has values of its own."""
        height, width = self._image.shape[1:]
        found = np.asarray(self._cover(Window(0, height, 0, width)))
        return found[None] if found.shape[1:] == (height, width) else None

    def _in_layout(self, array: np.ndarray) -> np.ndarray:
        ordered = array if self._task.model.layout == "NCHW" else np.moveaxis(array, 1, -1)
        return np.ascontiguousarray(ordered.astype(self._image.dtype, copy=False))
