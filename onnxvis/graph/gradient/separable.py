"""Linear operators that act on each spatial axis by itself: Resize and AveragePool.

Such an operator is a matrix R for each axis. Running the operator itself on an identity matrix gives R, in the
runtime's own convention for edges, rounding and coordinates; the gradient multiplies by R transposed.
"""

from __future__ import annotations

import numpy as np

from onnxvis.graph.gradient.table import Call, Found, rule
from onnxvis.graph.gradient.tensor import Tensor

__all__ = ["identity_of"]


def identity_of(n: Call, axis: int) -> tuple[Tensor, Tensor]:
    """An identity matrix as wide as an axis of the input, and that width as int64 ``[1]``."""
    tape, size = n.tape, n.x.extent(axis)
    dtype = n.g.dtype
    if size is not None:
        width = tape.integers(size)
        ones = tape.constant(np.arange(size))
    else:
        width = tape.op("Gather", n.x.shape, tape.integers(axis))
        ones = tape.op("Range", tape.constant(np.array(0)), width.reshape([]), tape.constant(np.array(1)))
    # One row for each place: Equal of a column and a row of numbers.
    return ones.reshape([-1, 1]).equals(ones.reshape([1, -1])).cast(dtype), width


def _apply(n: Call, g: Tensor, matrix: Tensor, axis: int, rank: int) -> Tensor:
    """``g`` times the transposed operator along one axis; ``matrix`` is (input places, output places)."""
    if axis == rank - 1:
        return g @ matrix.op("Transpose", perm=[1, 0])
    if axis == rank - 2:
        return matrix @ g
    order = [a for a in range(rank) if a != axis] + [axis]
    back = [order.index(a) for a in range(rank)]
    moved = g.op("Transpose", perm=order) @ matrix.op("Transpose", perm=[1, 0])
    return moved.op("Transpose", perm=back)


@rule("AveragePool")
def _average_pool(n: Call) -> Found:
    g, rank = n.g, n.rank()
    count = rank - 2
    per_axis = {name: n.attr(name) for name in ("kernel_shape", "strides", "dilations")}
    pads = n.attr("pads")
    for axis in range(count):
        own = {name: [values[axis]] for name, values in per_axis.items() if values}
        if pads:
            own["pads"] = [pads[axis], pads[axis + count]]
        for name in ("auto_pad", "ceil_mode", "count_include_pad"):
            own[name] = n.attr(name)
        identity, _ = identity_of(n, axis + 2)
        pooled = identity.op("Unsqueeze", n.tape.integers(0)).op("AveragePool", **own)
        g = _apply(n, g, pooled.op("Squeeze", n.tape.integers(0)), axis + 2, rank)
    return g


_KEPT = (
    *("coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value"),
    *("mode", "nearest_mode", "antialias"),
)


@rule("Resize")
def _resize(n: Call) -> Found:
    if n.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise n.refuse("cropping while resizing (tf_crop_and_resize) is not supported")
    if n.attr("axes") is not None or n.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise n.refuse("its form with axes or with a kept aspect ratio is not supported")
    g, rank, tape = n.g, n.rank(), n.tape
    by_scales = n.has(2) and (n.constant(2) is None or n.constant(2).size > 0)  # type: ignore[union-attr]
    options = {name: n.attr(name) for name in _KEPT}
    for axis in range(rank):
        if _untouched(n, axis, by_scales):
            continue
        identity, width = identity_of(n, axis)
        image = identity.op("Unsqueeze", tape.integers(0, 1))
        at = tape.integers(axis)
        if by_scales:
            three = tape.constant(np.ones(3, np.float32))
            scale = tape.op("Concat", three, n.input(2).op("Gather", at), axis=0)
            resized = tape.op("Resize", image, None, scale, **options)
        else:
            target = tape.op("Concat", tape.integers(1, 1), width, n.input(3).op("Gather", at), axis=0)
            resized = tape.op("Resize", image, None, None, target, **options)
        g = _apply(n, g, resized.op("Squeeze", tape.integers(0, 1)), axis, rank)
    return g


def _untouched(n: Call, axis: int, by_scales: bool) -> bool:
    """Whether an axis keeps its size, as far as that is known; the batch and channel axes of a 4-D Resize do."""
    if by_scales:
        scales = n.constant(2)
        return scales is not None and float(scales[axis]) == 1.0
    before, after = n.x.extent(axis), n.y.extent(axis)
    if before is not None and after is not None:
        return before == after
    dims, out = n.x.dims, n.y.dims
    same_symbol = dims is not None and out is not None and dims[axis] is not None and dims[axis] == out[axis]
    return same_symbol or (axis == 0 and n.rank() >= 3)
