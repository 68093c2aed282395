"""From a model and its windows to something that runs, or to the reason why there is nothing to gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxvis.errors import ModelError, OnnxvisError
from onnxvis.graph.canonical import Canonical
from onnxvis.graph.cut import cut
from onnxvis.graph.index import GraphIndex, Shapes
from onnxvis.kernels.occlusion import Window
from onnxvis.runtime.incremental.cost import node_costs
from onnxvis.runtime.incremental.geometry import Geometry, trace
from onnxvis.runtime.incremental.plan import Plan, Planner, Weights
from onnxvis.runtime.incremental.run import Incremental, Piece

__all__ = ["Graphs", "Refusal", "Workshop", "build", "cut_tensors"]

TOLERANCE = 1e-4
_WORTH = 0.9
_SHAPES = ("Shape", "Size")
_ACTIVATIONS = ("Relu", "Clip", "BatchNormalization", "LeakyRelu", "PRelu", "Elu", "Identity", "Dropout")


@dataclass(frozen=True)
class Refusal:
    """Why everything runs whole, in one sentence."""

    reason: str


@dataclass(frozen=True, eq=False)
class Graphs:
    """What :func:`build` needs to know of a model.

    Attributes:
        deployed: the graph as deployed, its batch axis free.
        open: makes a session of a part of it.
        canonical: the canonical form.
        shapes: of every tensor of the canonical form, for the pictures at hand.
        image: the image input.
        layout: its layout, "NCHW" or "NHWC".
        logits: the explained tensor.
        constants: the other inputs.
        reopen: makes the sessions that are used once a plan has been tried, in another precision; None keeps those
            that it was tried with.
    """

    deployed: onnx.ModelProto
    open: Callable[[onnx.ModelProto], Any]
    canonical: Canonical
    shapes: Shapes
    image: str
    layout: str
    logits: str
    constants: Mapping[str, np.ndarray]
    reopen: Callable[[onnx.ModelProto], Any] | None = None


def build(
    graphs: Graphs, windows: Sequence[Window], x: np.ndarray, weights: Weights, batch_size: int = 8
) -> Incremental | Refusal:
    """Plan, cut, and try every segment on crops of a picture.

    Args:
        graphs: the model.
        windows: all positions: the product of their rows and columns, row by row.
        x: a picture ``(1, ...)``, on which the segments are tried.
        weights: of the cost model.
        batch_size: positions at once.
    """
    index = GraphIndex(graphs.canonical.model, graphs.shapes)
    geometry = trace(index, graphs.image, graphs.layout)
    cuts = cut_tensors(graphs, index, geometry)
    if isinstance(cuts, Refusal):
        return cuts
    rows = np.array(sorted({(w.y0, w.y1 - 1) for w in windows}), np.int64)
    cols = np.array(sorted({(w.x0, w.x1 - 1) for w in windows}), np.int64)
    planner = Planner(geometry, node_costs(index, graphs.image, graphs.logits), cuts, rows, cols)
    workshop = Workshop(graphs, geometry, batch_size)
    last, why = len(cuts), ""
    while True:
        plan = planner.plan(weights, last)
        if len(plan.cuts) < 2 or plan.work > _WORTH:
            return Refusal(why or _nothing_to_gain(geometry, cuts, plan))
        runner, bad = workshop.make(plan, x)
        if runner is not None:
            return runner
        last, why = cuts.index(bad.tensor), f"the file cannot be cut at {bad.tensor!r}: {bad.reason}"
        if last < 2:
            return Refusal(why)


def _nothing_to_gain(geometry: Geometry, cuts: Sequence[str], plan: Plan) -> str:
    stop = next(iter(geometry.stops.values()), "")
    where = f"; the part that follows the windows ends where {stop}" if stop else ""
    if len(cuts) < 2:
        return f"no tensor before the logits separates the network into parts that can be computed by windows{where}"
    gain = "" if len(plan.cuts) < 2 else f" (the best plan would still do {plan.work:.0%} of the work)"
    return f"a window changes most of every activation, so there is too little to save{gain}{where}"


def cut_tensors(graphs: Graphs, index: GraphIndex, geometry: Geometry) -> tuple[str, ...] | Refusal:
    """Tensors to cut at, the picture first: local, in the file, and the only way through in both graphs."""
    deployed = GraphIndex(graphs.deployed, graphs.shapes)  # with shapes, arithmetic on them is no way for the picture
    if graphs.logits not in deployed.tensors:
        return Refusal(f"the explained tensor {graphs.logits!r} exists only in the rewritten graph")
    separators = set(deployed.cut_tensors(graphs.image, graphs.logits))
    found = []
    for name in index.cut_tensors(graphs.image, graphs.logits):
        place = geometry.places.get(name)
        readers = deployed.consumers(name)
        fused = len(readers) == 1 and readers[0].op_type in _ACTIVATIONS
        if place is None or name not in separators or name in graphs.canonical.twins:
            continue
        if name == graphs.image or (len(place.shape) == 4 and place.shape[0] == 1 and not fused):
            found.append(name)
    if not found or found[0] != graphs.image or geometry.places[graphs.image].shape[0] != 1:
        return Refusal("the picture's rows and columns cannot be followed through this graph")
    return tuple(name for name in found if name != graphs.logits)


@dataclass(frozen=True)
class BadCut:
    """A tensor at which the deployed graph cannot be cut, and why."""

    tensor: str
    reason: str


class Workshop:
    """Cuts pieces and tries them; pieces are kept between attempts.

    Args:
        graphs: the model.
        geometry: of its canonical form.
        batch_size: positions at once.
    """

    def __init__(self, graphs: Graphs, geometry: Geometry, batch_size: int) -> None:
        self._graphs, self._geometry, self._batch = graphs, geometry, batch_size
        self._pieces: dict[tuple[str, str], Piece] = {}
        self._parts: dict[tuple[str, str], onnx.ModelProto] = {}

    def make(self, plan: Plan, x: np.ndarray) -> tuple[Incremental | None, BadCut]:
        """A plan that has been tried, or the cut that does not work."""
        targets = (*plan.cuts[1:], self._graphs.logits)
        pieces: list[Piece] = []
        dtype = x.dtype
        values = x
        for source, target in zip(plan.cuts, targets, strict=True):
            try:
                pieces.append(self._piece(source, target, dtype, x))
                values = pieces[-1](values)
            except OnnxvisError as error:
                return None, BadCut(plan.cuts[1] if source == plan.cuts[0] else source, str(error))
            dtype = values.dtype
        runner = Incremental(plan, self._geometry.places, tuple(pieces), self._batch)
        runner.start(x)
        for k in range(runner.segments):
            reason = _try(runner, k)
            if reason:
                return None, BadCut(plan.cuts[k + 1], reason)
        if self._graphs.reopen is not None:
            pieces = [replace(p, session=self._graphs.reopen(self._parts[p.source, p.target])) for p in pieces]
            runner = Incremental(plan, self._geometry.places, tuple(pieces), self._batch)
        return runner, BadCut("", "")

    def _piece(self, source: str, target: str, dtype: np.dtype[Any], x: np.ndarray) -> Piece:
        if (source, target) not in self._pieces:
            graphs = self._graphs
            rank = len(self._geometry.places[source].shape)
            types = {source: (helper.np_dtype_to_tensor_dtype(dtype), [None] * rank)}
            part = cut(graphs.deployed, (source,), (target,), types)
            names = {v.name for v in part.graph.input} - {t.name for t in part.graph.initializer} - {source}
            blank = None
            if graphs.image in names:
                names.remove(graphs.image)
                blank = (graphs.image, np.zeros((self._batch, *x.shape[1:]), x.dtype))
                if any(n.op_type not in _SHAPES and graphs.image in n.input for n in part.graph.node):
                    raise ModelError(f"the part up to {target!r} also reads the picture")
            if not names <= set(graphs.constants):
                raise ModelError(f"the part up to {target!r} also reads {min(names)!r}")
            for value in (*part.graph.output, *part.graph.value_info):
                if value.type.HasField("tensor_type"):
                    value.type.tensor_type.ClearField("shape")
            feeds = {n: graphs.constants[n] for n in names}
            if graphs.reopen is not None:
                self._parts[source, target] = part
            self._pieces[source, target] = Piece(source, target, graphs.open(part), feeds, blank)
        return self._pieces[source, target]


def _try(runner: Incremental, k: int) -> str:
    """Run a segment on a crop of every size and at the corners; "" when each gives the values of the whole map."""
    plan = runner.plan
    last = (len(plan.input_spans[0]) - 1, len(plan.input_spans[1]) - 1)
    trials = {(int(g.rows[len(g.rows) // 2]), int(g.cols[len(g.cols) // 2])) for g in plan.groups[:4]}
    for row, col in sorted(trials | {(0, 0), last}):
        try:
            error = runner.crop_error(k, row, col)
        except OnnxvisError as failure:
            return str(failure)
        if not error <= TOLERANCE:
            return f"a part of the graph gives other values on a crop (relative error {error:.1e})"
    return ""
