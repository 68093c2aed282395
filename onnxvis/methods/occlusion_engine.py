"""How an occlusion map is computed: everything whole, or only what each window changes, whichever is faster here.

The exact incremental way is that of Nakandala, Kumar and Papakonstantinou, SIGMOD 2019 (see
:mod:`onnxvis.runtime.incremental`). Whether it pays is measured on a few positions, whose results are also what
the exactness of the map is checked with.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxvis.errors import OnnxvisError
from onnxvis.graph.expose import available_tensors
from onnxvis.graph.index import GraphIndex
from onnxvis.kernels.occlusion import Window
from onnxvis.methods.base import Task
from onnxvis.methods.occlusion_plain import Clock
from onnxvis.prediction import logits_of
from onnxvis.runtime.bfloat16 import Bfloat16
from onnxvis.runtime.engine import Engine
from onnxvis.runtime.incremental import Graphs, Incremental, Refusal, Weights, build, node_costs
from onnxvis.runtime.providers import choose_provider
from onnxvis.runtime.session import Sessions, open_session

__all__ = [
    "TOLERANCE",
    "Batch",
    "Fast",
    "Learned",
    "fast_engine",
    "learned",
    "planning_seconds",
    "relative_error",
    "spend",
]

TOLERANCE = 1e-4
"""Largest error of a logit, relative to the largest logit, that counts as rounding."""

_LARGEST_BATCH = 8
_CALL_SECONDS = 4e-6
_PASSES = 4.0
"""A value that crosses a cut is copied into the crop, reordered twice by the engine, and copied out."""

_NODE_SECONDS = 4e-3
"""Planning and opening sessions, for each node of the graph."""
_BYTES_A_SECOND = 2e8

_built: weakref.WeakKeyDictionary[Engine, tuple[object, Incremental | Refusal]] = weakref.WeakKeyDictionary()
_spent: weakref.WeakKeyDictionary[Engine, dict[object, float]] = weakref.WeakKeyDictionary()
_learned: weakref.WeakKeyDictionary[Engine, dict[object, Learned]] = weakref.WeakKeyDictionary()


@dataclass(eq=False)
class Learned:
    """What maps of one kind have shown about this machine.

    Attributes:
        batch_gain: time of a whole picture in a batch, as a part of its time alone, on both clocks.
        slower: maps on which crops turned out slower than whole pictures.
    """

    batch_gain: Clock | None = None
    slower: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """Positions that run together in the incremental way."""

    group: Any
    chosen: slice
    positions: np.ndarray


@dataclass(eq=False)
class Fast:
    """Logits of occluded pictures, computing only what each window changes.

    Attributes:
        runner: plan and sessions.
        operations: share of the operations of the whole network.
    """

    task: Task
    runner: Incremental
    cover: Any
    places: Sequence[Window]
    operations: float = field(init=False)

    def __post_init__(self) -> None:
        self.operations = self.runner.plan.operations

    def start(self, row: int) -> float:
        """Cache the activations of a picture; the relative error of its own logits."""
        task = self.task
        found = self._logits(self.runner.start(np.ascontiguousarray(task.x[row : row + 1])), 1)
        return relative_error(found, task.logits[row : row + 1])

    def batches(self, wanted: np.ndarray) -> list[Batch]:
        """Batches for those positions that are marked in ``wanted`` ``(P,) bool``."""
        size = min(self.task.batch_size, _LARGEST_BATCH)
        found = []
        for group in self.runner.plan.groups:
            left = type(group)(*(a[wanted[group.positions]] for a in (group.rows, group.cols, group.positions)))
            for start in range(0, len(left.positions), size):
                chosen = slice(start, start + size)
                found.append(Batch(left, chosen, left.positions[chosen]))
        return found

    def __call__(self, batch: Batch) -> np.ndarray:
        """The logits of a batch, ``(n, ...)``."""
        found = self.runner.logits(batch.group, batch.chosen, self._cover)
        return self._logits(found, len(batch.positions))

    def _cover(self, position: int) -> np.ndarray:
        window = self.places[position]
        channels = self.task.x.shape[1 if self.task.model.layout == "NCHW" else 3]
        values = np.broadcast_to(self.cover(window), (channels, window.y1 - window.y0, window.x1 - window.x0))
        return values if self.task.model.layout == "NCHW" else np.moveaxis(values, 0, -1)

    def _logits(self, values: np.ndarray, count: int) -> np.ndarray:
        return logits_of(self.task.model, {self.task.model.logits.tensor: values}, count)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected value; infinite where shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / scale


def fast_engine(
    task: Task, places: Sequence[Window], cover: Any, seconds_each: float | None, lowered: Bfloat16 | None = None
) -> Fast | str:
    """The incremental way for one model, picture size and set of windows, or why there is none.

    Args:
        task: the task.
        places: all windows.
        cover: from a window to what stands in it.
        seconds_each: time of one whole forward pass, which sets the cost model's unit; None takes a usual value.
        lowered: runs the parts in bfloat16; they are planned and tried in float32 all the same.
    """
    engine = task.model.engine
    if len(places) < 2:
        return "there is only one window"
    if engine.precision != "float32":
        return f"the file computes in {engine.precision}, whose rounding depends on what is computed together"
    plan = engine.batch_plan(task.x[:1])
    if plan.kind == "looped":
        return "pictures run one by one on this file"
    key = (*_key(task, places), lowered is None)
    stored = _built.get(engine)
    if stored is None or stored[0] != key:
        try:
            stored = (key, _build(task, places, seconds_each, lowered))
        except OnnxvisError as error:
            stored = (key, Refusal(f"the graph cannot be followed ({error})"))
        _built[engine] = stored
    found = stored[1]
    return found.reason if isinstance(found, Refusal) else Fast(task, found, cover, places)


def planning_seconds(task: Task, places: Sequence[Window]) -> float:
    """What it is expected to cost to build the incremental way; nothing where it is there."""
    stored = _built.get(task.model.engine)
    if stored is not None and stored[0] == (*_key(task, places), True):
        return 0.0
    graph = task.model.canonical.model.graph
    return _NODE_SECONDS * len(graph.node) + sum(len(t.raw_data) for t in graph.initializer) / _BYTES_A_SECOND


def spend(task: Task, places: Sequence[Window], seconds: float = 0.0) -> float:
    """Seconds that maps of this kind have taken in whole pictures so far, now ``seconds`` more.

    One small map is not worth a plan; many are, and nobody says beforehand how many will come.
    """
    known, key = _spent.setdefault(task.model.engine, {}), _key(task, places)
    known[key] = known.get(key, 0.0) + seconds
    return known[key]


def learned(task: Task, places: Sequence[Window], lowered: bool) -> Learned:
    """What maps of this kind, in float32 or lowered, have shown so far; to be added to."""
    return _learned.setdefault(task.model.engine, {}).setdefault((*_key(task, places), lowered), Learned())


def _key(task: Task, places: Sequence[Window]) -> tuple[object, ...]:
    size = min(task.batch_size, _LARGEST_BATCH)
    return (task.x.shape[1:], task.x.dtype.str, tuple(places), size, task.model.logits.tensor)


def _build(
    task: Task, places: Sequence[Window], seconds_each: float | None, lowered: Bfloat16 | None
) -> Incremental | Refusal:
    model, sample = task.model, task.x[:1]
    sessions = model.engine.batched(sample)
    graphs = Graphs(
        sessions.model,
        lambda part: open_session(part, sessions.provider, sessions.data_folder),
        model.canonical,
        _shapes(task),
        model.image_input.name,
        model.layout,
        model.logits.tensor,
        model.engine.constants,
        None if lowered is None else lambda part: open_session(part, lowered.provider, sessions.data_folder),
    )
    weights = Weights() if seconds_each is None else _weights(graphs, seconds_each)
    return build(graphs, places, np.ascontiguousarray(sample), weights, min(task.batch_size, _LARGEST_BATCH))


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """Shapes of the canonical graph's tensors at the size of the pictures at hand."""
    model = task.model
    if task.x.shape[1:] == model.example_shape()[1:]:
        return model.shapes
    graph = model.canonical.model
    feeds = {**model.engine.constants, model.image_input.name: task.x[:1]}
    arrays = Sessions(graph, choose_provider("cpu")).run(feeds, available_tensors(graph))
    return {name: tuple(array.shape) for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _weights(graphs: Graphs, seconds_each: float) -> Weights:
    """The cost of moving data on this machine, from the time of a forward pass and of a copy."""
    costs = node_costs(GraphIndex(graphs.canonical.model, graphs.shapes), graphs.image, graphs.logits)
    rate = sum(c.work for c in costs) / max(seconds_each, 1e-9)
    source, crop = np.ones((64, 56, 56), np.float32), np.empty((64, 28, 28), np.float32)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        crop[...] = source[:, 14:42, 14:42]
        times.append(time.perf_counter() - began)
    per_value = _PASSES * min(times) / crop.size * rate
    return Weights(float(np.clip(per_value, 50.0, 2000.0)), float(np.clip(rate * _CALL_SECONDS, 1e4, 1e7)))
