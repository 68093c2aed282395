"""Receptive fields as values, and how one grows through an operator.

Along one axis of a tensor, unit ``u`` sees the pixels ``start + u * jump ... start + u * jump + size - 1``
of the model's input grid. That is the padding-aware form: it may begin before pixel 0. Beside it stands the
*support*, one interval of real pixels for each unit, which knows about borders, crops and resampling and is
what a map is drawn with. The arithmetic is that of Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks" (Distill, 2019), with each side's padding kept apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from onnxvis.errors import LayerError

__all__ = ["COLS", "ROWS", "ImageAxis", "ReceptiveField", "TensorField", "Window", "fitted", "hull", "spread"]

ImageAxis = Literal["rows", "cols"]
ROWS: ImageAxis = "rows"
COLS: ImageAxis = "cols"
Intervals = np.ndarray[Any, np.dtype[np.int64]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
NOTHING = (np.iinfo(np.int64).max // 4, -1)
"""The support of a unit that sees only padding: an interval that any minimum and maximum ignore."""


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """What the units along one tensor axis see of one image axis.

    Attributes:
        image_axis: ``"rows"`` or ``"cols"`` of the model's input.
        axis: the axis of the tensor, counted from 0.
        jump: pixels from one unit's field to the next; a fraction after upsampling, 0 where all units see
            the same.
        start: first pixel that unit 0 sees; negative where padding is seen.
        size: how many pixels a unit sees.
        exact: False where start and size are a hull over units (resampling, transposed convolution, branches
            of unequal stride).
        support: ``(units, 2) int64``: first and last pixel each unit really sees, inside the image; first >
            last where a unit sees padding only.
        spread: one value was stretched over the axis (a global path), so all units see the same.
    """

    image_axis: ImageAxis
    axis: int
    jump: Fraction
    start: Fraction
    size: Fraction
    exact: bool
    support: Intervals
    spread: bool = False

    @property
    def end(self) -> Fraction:
        """Last pixel that unit 0 sees."""
        return self.start + self.size - 1

    def interval(self, unit: int, clip: bool = True) -> tuple[int, int]:
        """Half-open pixel interval of one unit: its support, or with ``clip=False`` the padding-aware one."""
        units = len(self.support)
        if not -units <= unit < units:
            raise LayerError(
                f"Unit {unit} does not exist: the layer has {units} units along the image's {self.image_axis}."
            )
        unit %= units
        if clip:
            first, last = (int(p) for p in self.support[unit])
            return (first, last + 1) if first <= last else (0, 0)
        first = -((-(self.start + unit * self.jump)).__floor__())
        return first, (self.end + unit * self.jump).__floor__() + 1


@dataclass(frozen=True, eq=False)
class TensorField:
    """The receptive field of a tensor's units.

    Attributes:
        rows: the tensor axis that follows the image's rows and what its units see; None where positions
            are lost.
        cols: the same for the columns.
        exact: both axes are exact (see :class:`ReceptiveField`).
        global_side_path: a path from the whole image (squeeze-and-excitation, image-level pooling,
            normalization over the map) also reaches every unit; the fields leave it out.
        reason: why ``rows`` or ``cols`` is None, in one sentence; empty where both are defined.
    """

    rows: ReceptiveField | None
    cols: ReceptiveField | None
    global_side_path: bool
    reason: str

    @property
    def exact(self) -> bool:
        """True where start, jump and size describe every unit that touches no border."""
        return all(f is not None and f.exact for f in (self.rows, self.cols))

    @property
    def spatial_axes(self) -> tuple[int, int] | None:
        """The tensor axes ``(rows, cols)``, or None where a position is lost."""
        return None if self.rows is None or self.cols is None else (self.rows.axis, self.cols.axis)

    def channel_axis(self, rank: int) -> int | None:
        """The channel axis of a map of ``rank`` axes: the last one that follows neither rows nor columns."""
        taken = {f.axis for f in (self.rows, self.cols) if f is not None}
        rest = [a for a in range(rank) if a not in taken]
        return rest[-1] if rest else None

    def box(
        self, row: int, col: int, image_size: tuple[int, int] | None = None, clip: bool = True
    ) -> tuple[int, int, int, int]:
        """The pixels that unit ``(row, col)`` sees.

        Args:
            row: unit along the image's rows; negative counts from the end.
            col: unit along the image's columns.
            image_size: ``(height, width)`` to clip to when it is smaller than the measured input.
            clip: True gives the real pixels; False the padding-aware window, which may leave the image
                and has the same size for every unit of an exact field.

        Returns:
            ``(x0, y0, x1, y1)``, half-open, in pixels of the model's input.

        Raises:
            LayerError: where the layer has no positions, or no such unit.
        """
        if self.rows is None or self.cols is None:
            raise LayerError(f"This layer's units have no position in the image: {self.reason}")
        y0, y1 = self.rows.interval(row, clip)
        x0, x1 = self.cols.interval(col, clip)
        if clip and image_size is not None:
            height, width = image_size
            y0, y1, x0, x1 = min(y0, height), min(y1, height), min(x0, width), min(x1, width)
        return x0, y0, x1, y1


@dataclass(frozen=True, eq=False)
class Window:
    """Which input positions an operator reads for each output position along one axis.

    Output ``u`` reads ``u * scale + first ... u * scale + last``; ``reads`` lists the positions with borders
    respected: ``(outputs, taps) int64``, -1 for a tap that falls on padding.
    """

    scale: Fraction
    first: Fraction
    last: Fraction
    reads: Positions
    exact: bool = True

    @classmethod
    def fit(cls, scale: Fraction, reads: Positions) -> Window:
        """The tightest window of that scale that contains ``reads``; not exact."""
        valid = [(u, int(p)) for u, row in enumerate(reads) for p in row if p >= 0]
        first = min((p - scale * u for u, p in valid), default=Fraction(0))
        last = max((p - scale * u for u, p in valid), default=Fraction(0))
        return cls(scale, first, last, reads, exact=False)

    def __call__(self, field: ReceptiveField, axis: int | None = None) -> ReceptiveField:
        """The field of the operator's output, on tensor axis ``axis`` (default: the same one)."""
        ends = (field.jump * self.first, field.jump * self.last)
        start, end = field.start + min(ends), field.end + max(ends)
        return replace(
            field,
            axis=field.axis if axis is None else axis,
            jump=field.jump * self.scale,
            start=start,
            size=end - start + 1,
            exact=field.exact and self.exact,
            support=_union(field.support, self.reads),
        )


def _union(support: Intervals, reads: Positions) -> Intervals:
    """The union of the supports that each output reads, as intervals."""
    # Index -1 finds the extra last row: padding.
    each = np.vstack([support, [NOTHING]])[reads]
    return np.stack([each[..., 0].min(axis=1), each[..., 1].max(axis=1)], axis=1)


def spread(field: ReceptiveField, axis: int, units: int) -> ReceptiveField:
    """One value broadcast over ``units`` positions: each sees what the one saw."""
    everywhere = np.repeat(field.support, units, axis=0)
    return replace(field, axis=axis, jump=Fraction(0), support=everywhere, spread=True)


def fitted(parts: Sequence[tuple[ReceptiveField, int]], support: Intervals) -> ReceptiveField:
    """One field for ``parts`` laid at offsets along an axis: the hull with the largest jump."""
    model, jump = parts[0][0], max((f.jump for f, _ in parts), key=abs)
    starts, ends = [], []
    for field, offset in parts:
        for unit in (0, len(field.support) - 1):
            shift = unit * field.jump - (offset + unit) * jump
            starts.append(field.start + shift)
            ends.append(field.end + shift)
    same = len({(f.jump, o) for f, o in parts}) == 1
    start = min(starts)
    return replace(
        model,
        jump=jump,
        start=start,
        size=max(ends) - start + 1,
        exact=same and all(f.exact for f, _ in parts),
        support=support,
    )


def hull(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """The union of branches that meet unit by unit on the same tensor axis."""
    if len(fields) == 1:
        return fields[0]
    support = np.stack(
        [
            np.minimum.reduce([f.support[:, 0] for f in fields]),
            np.maximum.reduce([f.support[:, 1] for f in fields]),
        ],
        axis=1,
    )
    return replace(fitted([(f, 0) for f in fields], support), spread=all(f.spread for f in fields))
