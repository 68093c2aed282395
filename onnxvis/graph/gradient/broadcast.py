"""The way back from broadcasting: a stretched axis is summed."""

from __future__ import annotations

from onnxvis.graph.gradient.tensor import Dims, Tensor

__all__ = ["sum_to"]


def sum_to(gradient: Tensor, dims: Dims | None, x: Tensor) -> Tensor:
    """The gradient of a broadcast result, summed to the shape of one of its operands.

    Where both shapes are known the axes are constants; otherwise they are found while the graph runs, by
    comparing the two shapes.

    Args:
        gradient: of the result.
        dims: the result's shape as far as it is known.
        x: the operand.
    """
    own = x.dims
    if dims is None or own is None:
        return _while_running(gradient, x)
    lead = len(dims) - len(own)
    axes = list(range(lead))
    for axis, (wide, narrow) in enumerate(zip(dims[lead:], own, strict=True), start=lead):
        if narrow == 1:
            axes += [axis] if wide != 1 else []
        elif not (isinstance(narrow, int) or (narrow is not None and wide == narrow)):
            # Equal symbols are equal sizes, and a size above 1 is never stretched; all else is open.
            return _while_running(gradient, x)
    if not axes:
        return gradient
    summed = gradient.sum(axes)
    return summed if lead == 0 else summed.reshape(x.shape)


def _while_running(gradient: Tensor, x: Tensor) -> Tensor:
    tape = x.tape
    wide, narrow = tape.op("Shape", gradient), tape.op("Shape", x)
    missing = wide.op("Shape").op("Sub", narrow.op("Shape"))
    ones = tape.op("Expand", tape.integers(1), missing)
    padded = tape.op("Concat", ones, narrow, axis=0)
    axes = padded.op("Equal", wide).op("Not").op("NonZero").op("Reshape", tape.integers(-1))
    summed = gradient.op("ReduceSum", axes, keepdims=1, noop_with_empty_axes=1)
    return summed.op("Reshape", narrow)
