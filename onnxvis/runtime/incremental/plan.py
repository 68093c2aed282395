"""Where to cut, and the crops of every segment for every window.

Each segment between two cuts runs on crops of its input. A crop's origin is a multiple of the segment's strides and
its size has the remainder of the whole map, so at the true borders the graph's own padding is right, and inside the
halo that padding pollutes is not read. The cuts are those of the cheapest way from the picture to the logits:

    cost = sum over segments of (work of the crop + lambda * values moved at the cut) + work of the tail on whole maps

found by dynamic programming over the tensors that separate the picture from the logits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from onnxvis.runtime.incremental.cost import NodeCost
from onnxvis.runtime.incremental.geometry import Geometry, Place, changed, needed

__all__ = ["AxisPlan", "Group", "Plan", "Planner", "Weights"]

_CLASSES = (4, 6)
"""Sizes of crops along one side, where windows are few and where they are many."""
_MANY = 10


@dataclass(frozen=True)
class Weights:
    """What moving data costs, in operations of a dense convolution.

    Attributes:
        per_value: lambda: one value of a crop copied, and reordered by the engine, at a cut.
        per_call: one more segment, for one position.
    """

    per_value: float = 200.0
    per_call: float = 5e5


@dataclass(frozen=True, eq=False)
class AxisPlan:
    """One segment along one side, for every distinct window along that side.

    Attributes:
        origin: ``(P,)`` where the crop of the segment's input begins.
        size: ``(P,)`` how long it is; few different values.
        out_origin: ``(P,)`` where the segment's output of the crop lies in the whole map.
        out_size: ``(P,)`` its length.
        changed: ``(P, 2)`` the positions of the output that the window changes.
    """

    origin: np.ndarray
    size: np.ndarray
    out_origin: np.ndarray
    out_size: np.ndarray
    changed: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Positions whose crops have equal sizes in every segment: they run together.

    Attributes:
        rows: index of each position's window along the rows.
        cols: the same along the columns.
        positions: index of each position, row by row.
    """

    rows: np.ndarray
    cols: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """A way to compute the logits of all positions.

    Attributes:
        cuts: the picture, then the tensors at which the graph is cut; the tail begins at the last.
        sides: for rows and for columns, one :class:`AxisPlan` for each segment.
        input_spans: for rows and columns, the windows ``(P, 2)``.
        groups: all positions, by equal crops.
        operations: share of the operations of running everything whole.
        work: share of its estimated time.
    """

    cuts: tuple[str, ...]
    sides: tuple[tuple[AxisPlan, ...], tuple[AxisPlan, ...]]
    input_spans: tuple[np.ndarray, np.ndarray]
    groups: tuple[Group, ...]
    operations: float
    work: float


@dataclass(frozen=True, eq=False)
class _Crops:
    """A possible segment along one side, every window by itself: how far the crop stays from both borders."""

    near: np.ndarray
    far: np.ndarray
    align: int


class Planner:
    """Plans for one graph and one set of windows.

    Args:
        geometry: of the canonical graph.
        costs: of its nodes, in topological order.
        cuts: tensors to cut at, in topological order; the first is the picture.
        rows: the distinct windows along the rows, ``(P, 2) int64``, both ends included.
        cols: the same along the columns; a position is a window of each.
    """

    def __init__(
        self,
        geometry: Geometry,
        costs: Sequence[NodeCost],
        cuts: Sequence[str],
        rows: np.ndarray,
        cols: np.ndarray,
    ) -> None:
        self.geometry = geometry
        self.cuts = tuple(cuts)
        self._spans = (rows, cols)
        self._changed = tuple(changed(geometry, side, spans) for side, spans in enumerate(self._spans))
        self._crops: list[dict[tuple[str, str], _Crops]] = []
        for side in (0, 1):
            found: dict[tuple[str, str], _Crops] = {}
            for target in self.cuts[1:]:
                parts = needed(geometry, side, target, self._changed[side][target], self.cuts)
                for source, (near, far, jumps) in parts.items():
                    found[source, target] = _aligned(geometry.places[source], side, near, far, jumps)
            self._crops.append(found)
        order = {cost.output: i for i, cost in enumerate(costs)}
        self._at = [-1, *(order[c] for c in self.cuts[1:])]
        self._work = np.array([c.work for c in costs])
        self._operations = np.array([c.operations for c in costs])
        local = [geometry.places.get(c.output) for c in costs]
        # Pixels of the picture that a whole map stands for; a node that is not local is never inside a segment.
        self._extents = np.array(
            [[float(p.jumps[s] * p.lengths[s]) if p else np.inf for p in local] for s in (0, 1)], dtype=np.float64
        )

    def plan(self, weights: Weights, last: int | None = None) -> Plan:
        """The cheapest plan; one cut (the picture itself) means that running everything whole is cheapest.

        Args:
            weights: of the cost model.
            last: how many of the cuts may be used; all by default.
        """
        count = len(self.cuts) if last is None else min(last, len(self.cuts))
        best: list[float] = [0.0]
        before: list[int] = [-1]
        for j in range(1, count):
            ways = [best[i] + self._segment(i, j, weights) for i in range(j)]
            before.append(int(np.argmin(ways)))
            best.append(ways[before[-1]])
        totals = [best[i] + self._tail(i, weights) for i in range(count)]
        end = int(np.argmin(totals))
        path = [end]
        while before[path[-1]] >= 0:
            path.append(before[path[-1]])
        return self._finished(path[::-1], weights)

    def fixed(self, cuts: Sequence[str], weights: Weights | None = None) -> Plan:
        """The plan with these cuts, the picture first."""
        return self._finished([self.cuts.index(c) for c in cuts], weights or Weights())

    def _fractions(self, i: int, j: int) -> np.ndarray:
        """For each node between two cuts, the share of its output that an average crop makes."""
        nodes = slice(self._at[i] + 1, self._at[j] + 1)
        share = np.ones(nodes.stop - nodes.start)
        for side in (0, 1):
            crops = self._crops[side][self.cuts[i], self.cuts[j]]
            jump = float(self.geometry.places[self.cuts[i]].jumps[side])
            share *= 1.0 - (crops.near + crops.far).mean() * jump / self._extents[side, nodes]
        return np.maximum(share, 0.0)

    def _segment(self, i: int, j: int, weights: Weights) -> float:
        nodes = slice(self._at[i] + 1, self._at[j] + 1)
        work = float(self._work[nodes] @ self._fractions(i, j))
        return work + weights.per_call + weights.per_value * self._values(i, j)

    def _values(self, i: int, j: int) -> float:
        """How many values an average crop of a segment's input holds."""
        place = self.geometry.places[self.cuts[i]]
        share = 1.0
        for side in (0, 1):
            crops = self._crops[side][self.cuts[i], self.cuts[j]]
            share *= 1.0 - float((crops.near + crops.far).mean()) / place.lengths[side]
        return share * float(np.prod(place.shape))

    def _tail(self, i: int, weights: Weights) -> float:
        values = float(np.prod(self.geometry.places[self.cuts[i]].shape)) if i else 0.0
        return float(self._work[self._at[i] + 1 :].sum()) + weights.per_call + weights.per_value * 0.5 * values

    def _finished(self, path: Sequence[int], weights: Weights) -> Plan:
        pairs = list(itertools.pairwise(path))
        classes = [self._classes(side, pairs) for side in (0, 1)]
        sides = tuple(tuple(self._axis_plan(side, i, j, classes[side]) for i, j in pairs) for side in (0, 1))
        at = self._at[path[-1]]
        operations = float(self._operations[at + 1 :].sum())
        work = self._tail(path[-1], weights)
        for k, (i, j) in enumerate(pairs):
            share = self._grouped_share(i, j, (sides[0][k], sides[1][k]))
            nodes = slice(self._at[i] + 1, self._at[j] + 1)
            operations += float(self._operations[nodes] @ share)
            work += float(self._work[nodes] @ share) + weights.per_call + weights.per_value * self._values(i, j)
        whole = self._tail(0, weights)
        return Plan(
            tuple(self.cuts[k] for k in path),
            (sides[0], sides[1]),
            self._spans,
            _groups(classes[0], classes[1]),
            operations / max(float(self._operations.sum()), 1.0),
            work / max(whole, 1.0),
        )

    def _grouped_share(self, i: int, j: int, axes: tuple[AxisPlan, AxisPlan]) -> np.ndarray:
        """As :meth:`_fractions`, with the sizes that the groups really have."""
        nodes = slice(self._at[i] + 1, self._at[j] + 1)
        share = np.ones(nodes.stop - nodes.start)
        place = self.geometry.places[self.cuts[i]]
        for side in (0, 1):
            missing = (place.lengths[side] - axes[side].size).mean() * float(place.jumps[side])
            share *= 1.0 - missing / self._extents[side, nodes]
        return np.maximum(share, 0.0)

    def _classes(self, side: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """A class for each window along one side: windows of one class get crops of equal size, few classes.

        The two classes whose union wastes least are joined until few are left.
        """
        count = len(self._spans[side])
        if not pairs:
            return np.zeros(count, np.int64)
        sizes = np.stack([self._size(side, i, j) for i, j in pairs], axis=1)
        lengths = np.array([self.geometry.places[self.cuts[i]].lengths[side] for i, _ in pairs])
        work = [float(self._work[self._at[i] + 1 : self._at[j] + 1].sum()) for i, j in pairs]
        weight = np.array(work) / lengths
        rows, inverse, members = np.unique(sizes, axis=0, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        parts = [(row, int(n), [k]) for k, (row, n) in enumerate(zip(rows, members, strict=True))]
        while len(parts) > _CLASSES[count >= _MANY]:
            pairs_of_classes = [(a, b) for a in range(len(parts)) for b in range(a)]
            a, b = min(pairs_of_classes, key=lambda ab: _waste(parts[ab[0]], parts[ab[1]], weight))
            one, two = parts[a], parts[b]
            parts = [part for k, part in enumerate(parts) if k not in (a, b)]
            parts.append((np.maximum(one[0], two[0]), one[1] + two[1], one[2] + two[2]))
        label = np.empty(len(rows), np.int64)
        for k, (_, _, own) in enumerate(parts):
            label[own] = k
        return np.asarray(label[inverse])

    def _size(self, side: int, i: int, j: int) -> np.ndarray:
        crops = self._crops[side][self.cuts[i], self.cuts[j]]
        return np.asarray(self.geometry.places[self.cuts[i]].lengths[side] - crops.near - crops.far)

    def _axis_plan(self, side: int, i: int, j: int, classes: np.ndarray) -> AxisPlan:
        source, target = self.geometry.places[self.cuts[i]], self.geometry.places[self.cuts[j]]
        length = source.lengths[side]
        crops = self._crops[side][self.cuts[i], self.cuts[j]]
        own = self._size(side, i, j)
        largest = np.zeros(int(classes.max()) + 1, np.int64)
        np.maximum.at(largest, classes, own)
        size = largest[classes]
        origin = np.minimum(crops.near, length - size)
        ratio = target.jumps[side] / source.jumps[side]
        out_size = target.lengths[side] - _divided(length - size, ratio)
        return AxisPlan(origin, size, _divided(origin, ratio), out_size, self._changed[side][self.cuts[j]])


def _divided(values: np.ndarray, ratio: Fraction) -> np.ndarray:
    return np.asarray(values * ratio.denominator // ratio.numerator)


def _waste(a: tuple[np.ndarray, int, list[int]], b: tuple[np.ndarray, int, list[int]], weight: np.ndarray) -> float:
    union = np.maximum(a[0], b[0])
    return float(((union - a[0]) * a[1] + (union - b[0]) * b[1]) @ weight)


def _aligned(place: Place, side: int, near: np.ndarray, far: np.ndarray, jumps: Sequence[Fraction]) -> _Crops:
    align = math.lcm(*((jump / place.jumps[side]).numerator for jump in jumps))
    return _Crops(near // align * align, far // align * align, align)


def _groups(rows: np.ndarray, cols: np.ndarray) -> tuple[Group, ...]:
    """The product of row classes and column classes, large groups first."""
    found = []
    for r in np.unique(rows):
        for c in np.unique(cols):
            y, x = np.meshgrid(np.flatnonzero(rows == r), np.flatnonzero(cols == c), indexing="ij")
            found.append(Group(y.reshape(-1), x.reshape(-1), (y * len(cols) + x).reshape(-1)))
    return tuple(sorted(found, key=lambda g: -len(g.positions)))
