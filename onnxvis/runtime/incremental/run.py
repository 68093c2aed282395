"""Running a plan: crops out of cached activations, unmodified pieces of the graph, changes pasted back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.errors import ModelError
from onnxvis.runtime.incremental.geometry import Place
from onnxvis.runtime.incremental.plan import Group, Plan

__all__ = ["Cover", "Incremental", "Piece"]

Cover = Callable[[int], np.ndarray]
"""From a position's index to what stands in its window: ``(C, h, w)``, or ``(h, w, C)`` for an NHWC input."""

Box = tuple[slice, ...]


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
        self._segments, self._tail = pieces[:-1], pieces[-1]
        self._batch = batch_size
        self._base: list[np.ndarray] = []
        self._buffers: dict[int, np.ndarray] = {}
        self._whole: np.ndarray | None = None

    def start(self, x: np.ndarray) -> np.ndarray:
        """Compute and keep the activations of a picture ``(1, ...)``; returns its logits ``(1, ...)``."""
        self._base = [x]
        for piece in self._segments:
            self._base.append(piece(self._base[-1]))
        last = self._base[-1]
        self._whole = np.repeat(last, self._batch, axis=0)
        return self._tail(last)

    def logits(self, group: Group, chosen: slice, cover: Cover) -> np.ndarray:
        """Logits of some positions of a group, at most a batch: ``(n, ...)``."""
        rows, cols = group.rows[chosen], group.cols[chosen]
        changes = [(self._segment_cover(position, row, col, cover)) for position, row, col in zip(
            group.positions[chosen], rows, cols, strict=True)]  # fmt: skip
        for k, piece in enumerate(self._segments):
            made = piece(self._crops(k, rows, cols, changes))
            changes = [self._change(k, row, col, made[i]) for i, (row, col) in enumerate(zip(rows, cols, strict=True))]
        return self._finish(changes)

    def _segment_cover(self, position: int, row: int, col: int, cover: Cover) -> tuple[np.ndarray, np.ndarray]:
        spans = np.stack([self.plan.input_spans[0][row], self.plan.input_spans[1][col]])
        return spans, cover(int(position))

    def _crops(
        self, k: int, rows: np.ndarray, cols: np.ndarray, changes: list[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """The input of a segment: cached activations with the changes so far."""
        place, base = self._places[k], self._base[k][0]
        down, across = self.plan.sides[0][k], self.plan.sides[1][k]
        height, width = int(down.size[rows[0]]), int(across.size[cols[0]])
        shape = list(base.shape)
        shape[place.axes[0] - 1], shape[place.axes[1] - 1] = height, width
        crops = self._buffer(k, (len(rows), *shape), base.dtype)
        for i, (row, col) in enumerate(zip(rows, cols, strict=True)):
            top, left = int(down.origin[row]), int(across.origin[col])
            crops[i] = base[_box(place, top, top + height, left, left + width)]
            _paste(crops[i], place, (top, left), *changes[i])
        return crops

    def _change(self, k: int, row: int, col: int, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a segment changed: spans in the whole map, and the values there."""
        down, across = self.plan.sides[0][k], self.plan.sides[1][k]
        spans = np.stack([down.changed[row], across.changed[col]])
        top, left = spans[:, 0] - (down.out_origin[row], across.out_origin[col])
        bottom, right = spans[:, 1] - (down.out_origin[row], across.out_origin[col])
        return spans, made[_box(self._places[k + 1], int(top), int(bottom) + 1, int(left), int(right) + 1)]

    def _finish(self, changes: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Paste the changes into whole maps, run the tail, restore the maps."""
        whole, place, base = self._whole, self._places[-1], self._base[-1][0]
        assert whole is not None
        for i, (spans, values) in enumerate(changes):
            _paste(whole[i], place, (0, 0), spans, values)
        logits = self._tail(whole[: len(changes)])
        for i, (spans, _) in enumerate(changes):
            box = _box(place, int(spans[0, 0]), int(spans[0, 1]) + 1, int(spans[1, 0]), int(spans[1, 1]) + 1)
            whole[i][box] = base[box]
        return logits

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
        down, across = self.plan.sides[0][k], self.plan.sides[1][k]
        nothing = (np.array([[0, -1], [0, -1]]), np.zeros(0, self._base[k].dtype))
        made = self._segments[k](self._crops(k, np.array([row]), np.array([col]), [nothing]))
        place, whole = self._places[k + 1], self._base[k + 1]
        sizes = (made.shape[place.axes[0]], made.shape[place.axes[1]])
        if sizes != (int(down.out_size[row]), int(across.out_size[col])):
            raise ModelError(f"a crop of {self._segments[k].source!r} makes {made.shape} of {place.shape}")
        spans, values = self._change(k, row, col, made[0])
        box = _box(place, int(spans[0, 0]), int(spans[0, 1]) + 1, int(spans[1, 0]), int(spans[1, 1]) + 1)
        scale = max(float(np.abs(whole).max()), 1e-12)
        return float(np.abs(values.astype(np.float64) - whole[0][box]).max()) / scale

    @property
    def segments(self) -> int:
        """How many segments run on crops."""
        return len(self._segments)


def _box(place: Place, top: int, bottom: int, left: int, right: int) -> Box:
    """Index of a rectangle in one picture's tensor."""
    index = [slice(None)] * (len(place.shape) - 1)
    index[place.axes[0] - 1] = slice(top, bottom)
    index[place.axes[1] - 1] = slice(left, right)
    return tuple(index)


def _paste(crop: np.ndarray, place: Place, origin: tuple[int, int], spans: np.ndarray, values: np.ndarray) -> None:
    """Write ``values``, which lie at ``spans`` of the whole map, into a crop of it that begins at ``origin``."""
    sizes = crop.shape[place.axes[0] - 1], crop.shape[place.axes[1] - 1]
    low = [max(int(spans[s, 0]), origin[s]) for s in (0, 1)]
    high = [min(int(spans[s, 1]) + 1, origin[s] + sizes[s]) for s in (0, 1)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return
    into = _box(place, low[0] - origin[0], high[0] - origin[0], low[1] - origin[1], high[1] - origin[1])
    y, x = int(spans[0, 0]), int(spans[1, 0])
    crop[into] = values[_box(place, low[0] - y, high[0] - y, low[1] - x, high[1] - x)]
