"""Running a plan: crops out of cached activations, unmodified pieces of the graph, changes pasted back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.errors import ModelError
from onnxvis.runtime.incremental.geometry import Place
from onnxvis.runtime.incremental.plan import AxisPlan, Group, Plan

__all__ = ["Cover", "Incremental", "Piece"]

Cover = Callable[[int], np.ndarray]
"""From a position's index to what stands in its window: ``(C, h, w)``, or ``(h, w, C)`` for an NHWC input."""

Box = tuple[slice, ...]
_ALL = slice(None)
_USUAL = (2, 3)
Rectangle = tuple[int, int, int, int]
"""Rows and columns of a whole map, half-open: top, bottom, left, right."""

_NOWHERE: Rectangle = (0, 0, 0, 0)

Change = tuple[Rectangle, np.ndarray]
"""Where one position's activations differ from the cached ones, and the values there."""


@dataclass(frozen=True, eq=False)
class Piece:
    """An unmodified part of the deployed graph, from one tensor to another.

    Attributes:
        source: the tensor that goes in, rows and columns of any length.
        target: the tensor that comes out.
        session: that runs it.
        feeds: the model's other inputs, where this part reads them.
        blank: name and any value of the image input, a row for each position, where this part asks for its shape (for
            the number of pictures, as some exporters write a flattening); None where it does not.
    """

    source: str
    target: str
    session: Any
    feeds: Mapping[str, np.ndarray]
    blank: tuple[str, np.ndarray] | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Run it.

        Raises:
            ModelError: the part cannot run on values of this shape.
        """
        try:
            feeds = {**self.feeds, self.source: values}
            if self.blank is not None:
                feeds[self.blank[0]] = self.blank[1][: len(values)]
            found = self.session.run([self.target], feeds)[0]
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            first = " ".join(str(error).split())[:300]
            raise ModelError(f"the part from {self.source!r} to {self.target!r} fails: {first}") from error
        return np.asarray(found)


@dataclass(frozen=True, eq=False)
class _Side:
    """One segment along one side as plain numbers, by window: what numpy's scalars would cost is felt here."""

    origin: list[int]
    size: list[int]
    out_origin: list[int]
    out_size: list[int]
    first: list[int]
    end: list[int]

    @classmethod
    def of(cls, axis: AxisPlan) -> _Side:
        """From the plan's arrays."""
        spans = axis.changed
        arrays = (axis.origin, axis.size, axis.out_origin, axis.out_size, spans[:, 0], spans[:, 1] + 1)
        return cls(*(array.tolist() for array in arrays))


class Incremental:
    """Logits of one picture with any of the planned windows covered.

    Args:
        plan: with at least two cuts.
        places: rows and columns of each cut tensor.
        pieces: the segments in order, then the tail.
        batch_size: positions at once.
    """

    def __init__(self, plan: Plan, places: Mapping[str, Place], pieces: tuple[Piece, ...], batch_size: int) -> None:
        self.plan = plan
        self._places = [places[c] for c in plan.cuts]
        self._sides = [(_Side.of(down), _Side.of(across)) for down, across in zip(*plan.sides, strict=True)]
        self._segments, self._tail = pieces[:-1], pieces[-1]
        self._batch = batch_size
        self._base: list[np.ndarray] = []
        self._buffers: dict[int, np.ndarray] = {}
        self._whole: np.ndarray | None = None
        self._pasted: list[Rectangle] = []

    def start(self, x: np.ndarray) -> np.ndarray:
        """Compute and keep the activations of a picture ``(1, ...)``; returns its logits ``(1, ...)``."""
        self._base = [x]
        for piece in self._segments:
            self._base.append(piece(self._base[-1]))
        last = self._base[-1]
        self._whole = np.repeat(last, self._batch, axis=0)
        self._pasted = [_NOWHERE] * self._batch
        return self._tail(last)

    def logits(self, group: Group, chosen: slice, cover: Cover) -> np.ndarray:
        """Logits of some positions of a group, at most a batch: ``(n, ...)``."""
        pairs = list(zip(group.rows[chosen].tolist(), group.cols[chosen].tolist(), strict=True))
        rows, cols = self.plan.input_spans
        changes: list[Change] = []
        for position, (row, col) in zip(group.positions[chosen].tolist(), pairs, strict=True):
            (y0, y1), (x0, x1) = rows[row].tolist(), cols[col].tolist()
            changes.append(((y0, y1 + 1, x0, x1 + 1), cover(position)))
        made: np.ndarray | None = None
        for k, piece in enumerate(self._segments):
            made = piece(self._crops(k, pairs, changes, made))
            changes = [self._change(k, row, col, one) for (row, col), one in zip(pairs, made, strict=True)]
        return self._finish(changes, made)

    def _crops(
        self, k: int, pairs: Sequence[tuple[int, int]], changes: Sequence[Change], made: np.ndarray | None = None
    ) -> np.ndarray:
        """The input of a segment: cached activations with the changes so far.

        Where the segment before made exactly this, ``made`` itself.
        """
        place, base = self._places[k], self._base[k][0]
        down, across = self._sides[k]
        height, width = down.size[pairs[0][0]], across.size[pairs[0][1]]
        shape = list(base.shape)
        shape[place.axes[0] - 1], shape[place.axes[1] - 1] = height, width
        areas = [(y, y + height, x, x + width) for y, x in ((down.origin[r], across.origin[c]) for r, c in pairs)]
        if made is not None and made.shape[1:] == tuple(shape) and _all_of(areas, changes):
            return made
        crops = self._buffer(k, (len(pairs), *shape), base.dtype)
        for crop, area, change in zip(crops, areas, changes, strict=True):
            if not _covers(change[0], area):
                crop[...] = base[_box(place, *area)]
            _paste(crop, place, area, change)
        return crops

    def _change(self, k: int, row: int, col: int, made: np.ndarray) -> Change:
        """What a segment changed at one position."""
        down, across = self._sides[k]
        y, x = down.out_origin[row], across.out_origin[col]
        area = (down.first[row], down.end[row], across.first[col], across.end[col])
        return area, made[_box(self._places[k + 1], area[0] - y, area[1] - y, area[2] - x, area[3] - x)]

    def _finish(self, changes: Sequence[Change], made: np.ndarray | None) -> np.ndarray:
        """Paste the changes into whole maps and run the tail.

        A row is put back only where the next change leaves something of the last one to be seen.
        """
        whole, place, base = self._whole, self._places[-1], self._base[-1][0]
        assert whole is not None
        everywhere = (0, place.lengths[0], 0, place.lengths[1])
        if made is not None and made.shape[1:] == base.shape and _all_of([everywhere] * len(changes), changes):
            return self._tail(made)
        for row, (area, values) in enumerate(changes):
            before = self._pasted[row]
            if not _covers(area, before):
                whole[row][_box(place, *before)] = base[_box(place, *before)]
            whole[row][_box(place, *area)] = values
            self._pasted[row] = area
        return self._tail(whole[: len(changes)])

    def _buffer(self, k: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Memory of a segment's crops, used again for every batch."""
        size = int(np.prod(shape))
        if k not in self._buffers or self._buffers[k].size < size:
            self._buffers[k] = np.empty(size, dtype)
        return self._buffers[k][:size].reshape(shape)

    def crop_error(self, k: int, row: int, col: int) -> float:
        """Whether a segment works on a crop: largest relative error where the crop's output would be used.

        Raises:
            ModelError: the segment does not run on a crop, or makes one of another size than planned.
        """
        down, across = self._sides[k]
        nothing = (_NOWHERE, np.zeros(0, self._base[k].dtype))
        made = self._segments[k](self._crops(k, [(row, col)], [nothing]))
        place, whole = self._places[k + 1], self._base[k + 1]
        sizes = (made.shape[place.axes[0]], made.shape[place.axes[1]])
        if sizes != (down.out_size[row], across.out_size[col]):
            raise ModelError(f"a crop of {self._segments[k].source!r} makes {made.shape} of {place.shape}")
        area, values = self._change(k, row, col, made[0])
        scale = max(float(np.abs(whole).max()), 1e-12)
        return float(np.abs(values.astype(np.float64) - whole[0][_box(place, *area)]).max()) / scale

    @property
    def segments(self) -> int:
        """How many segments run on crops."""
        return len(self._segments)


def _covers(outer: Rectangle, inner: Rectangle) -> bool:
    return outer[0] <= inner[0] and outer[1] >= inner[1] and outer[2] <= inner[2] and outer[3] >= inner[3]


def _all_of(areas: Sequence[Rectangle], changes: Sequence[Change]) -> bool:
    """Whether each change is all of its area, no more and no less."""
    return all(area == change[0] for area, change in zip(areas, changes, strict=True))


def _box(place: Place, top: int, bottom: int, left: int, right: int) -> Box:
    """Index of a rectangle in one picture's tensor."""
    if place.axes == _USUAL and len(place.shape) == 4:
        return _ALL, slice(top, bottom), slice(left, right)
    index = [_ALL] * (len(place.shape) - 1)
    index[place.axes[0] - 1] = slice(top, bottom)
    index[place.axes[1] - 1] = slice(left, right)
    return tuple(index)


def _paste(crop: np.ndarray, place: Place, where: Rectangle, change: Change) -> None:
    """Write what changed into a crop that lies at ``where`` in the whole map."""
    (y0, y1, x0, x1), values = change
    top, bottom, left, right = max(y0, where[0]), min(y1, where[1]), max(x0, where[2]), min(x1, where[3])
    if top < bottom and left < right:
        into = _box(place, top - where[0], bottom - where[0], left - where[2], right - where[2])
        crop[into] = values[_box(place, top - y0, bottom - y0, left - x0, right - x0)]
