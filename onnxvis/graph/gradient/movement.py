"""Operators that move values and compute nothing.

Where an operator has an exact opposite, that is the rule. Any other is run on the positions 0, 1, 2 ... of its
input's values: what comes out says where each value came from, and the gradients are added there.
"""

from __future__ import annotations

import numpy as np

from onnxvis.graph.gradient.pooling import scatter
from onnxvis.graph.gradient.table import Call, Found, rule, rules_of
from onnxvis.graph.gradient.tensor import Known, Tensor

__all__: list[str] = []


def _reshaped(n: Call) -> Tensor:
    return n.g.reshape(n.x.shape)


def _traced(n: Call) -> Found:
    """Run the operator on positions, and add the gradients where they point."""
    tape, size = n.tape, n.x.static
    if size is not None:
        positions = tape.constant(np.arange(int(np.prod(size))).reshape(size))
    else:
        zero, one = tape.constant(np.array(0)), tape.constant(np.array(1))
        positions = tape.op("Range", zero, n.x.op("Size"), one).reshape(n.x.shape)
    copy = type(n.node)()
    copy.CopyFrom(n.node)
    copy.input[0] = positions.name
    del copy.output[1:]
    (moved,) = tape.repeat(copy, 1)
    tape.known[moved.name] = Known(7)
    return scatter(n, n.g, moved)


rules_of(
    {
        **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshaped),
        **dict.fromkeys(("Gather", "GatherElements", "GatherND", "Tile", "Compress", "ReverseSequence"), _traced),
        "Trilu": lambda n: n.g.op("Trilu", *n.inputs[1:], upper=n.attr("upper", 1)),
    }
)


@rule("Transpose")
def _transpose(n: Call) -> Found:
    perm = n.attr("perm")
    return n.g.op("Transpose", perm=None if perm is None else [perm.index(i) for i in range(len(perm))])


def _extents(n: Call, tensors: tuple[Tensor | None, ...], axis: int) -> Tensor:
    """The sizes of some tensors along an axis, int64."""
    tape = n.tape
    given = [t for t in tensors if t is not None]
    sizes = [t.extent(axis) for t in given]
    if all(size is not None for size in sizes):
        return tape.integers(*(size or 0 for size in sizes))
    parts = [tape.op("Gather", t.shape, tape.integers(axis)) for t in given]
    return parts[0] if len(parts) == 1 else tape.op("Concat", *parts, axis=0)


@rule("Concat")
def _concat(n: Call) -> Found:
    axis = int(n.attr("axis"))
    if len(n.inputs) == 1:
        return n.g
    return n.tape.ops("Split", n.g, _extents(n, n.inputs, axis), outputs=len(n.inputs), axis=axis)


@rule("Split")
def _split(n: Call) -> Found:
    parts = []
    for out, gradient in zip(n.outputs, n.grads, strict=True):
        if out is None:
            raise n.refuse("one of its outputs has no name")
        parts.append(gradient if gradient is not None else out.zeros(n.x.dtype))
    return parts[0] if len(parts) == 1 else n.tape.op("Concat", *parts, axis=int(n.attr("axis", 0)))


@rule("Slice")
def _slice(n: Call) -> Found:
    """A plain cut is undone by padding with zeros; any other is traced."""
    values = [n.constant(i) for i in range(1, 5)]
    starts, ends, axes, steps = values
    if starts is None or ends is None or (n.has(3) and axes is None) or (n.has(4) and steps is None):
        return _traced(n)
    which = range(len(starts)) if axes is None else [int(a) % n.rank() for a in axes]
    sizes = [n.x.extent(a) for a in which]
    if any(s is None for s in sizes) or (steps is not None and (steps != 1).any()):
        return _traced(n)
    before, after = [0] * n.rank(), [0] * n.rank()
    for start, end, axis, size in zip(starts, ends, which, sizes, strict=True):
        first, last, _ = slice(int(start), int(end)).indices(size or 0)
        before[axis], after[axis] = first, (size or 0) - max(last, first)
    return n.g.op("Pad", n.tape.integers(*before, *after))


@rule("Pad")
def _pad(n: Call) -> Found:
    """Zero padding is cut off again; padding that copies values is traced."""
    if n.attr("mode", "constant") != "constant":
        return _traced(n)
    if n.has(3):
        return _traced_pad(n)
    return n.g.op("Pad", n.input(1).op("Neg"))


def _traced_pad(n: Call) -> Found:
    """Padding of some axes: their widths are spread over all axes first."""
    axes, widths = n.constant(3), n.constant(1)
    if axes is None or widths is None:
        raise n.refuse("its axes depend on the picture")
    full = np.zeros(2 * n.rank(), np.int64)
    for i, axis in enumerate(axes.reshape(-1)):
        full[int(axis) % n.rank()] = -widths[i]
        full[int(axis) % n.rank() + n.rank()] = -widths[i + axes.size]
    return n.g.op("Pad", n.tape.constant(full))


@rule("DepthToSpace")
def _depth_to_space(n: Call) -> Found:
    block = int(n.attr("blocksize"))
    if n.attr("mode", "DCR") == "DCR":
        return n.g.op("SpaceToDepth", blocksize=block)
    # CRD: (N, C, H b, W b) -> (N, C, H, b, W, b) -> (N, C b b, H, W).
    tape = n.tape
    height, width = _extents(n, (n.x,), 2), _extents(n, (n.x,), 3)
    b = tape.integers(block)
    apart = n.g.reshape(tape.op("Concat", tape.integers(0, 0), height, b, width, b, axis=0))
    return apart.op("Transpose", perm=[0, 1, 3, 5, 2, 4]).reshape(n.x.shape)


@rule("SpaceToDepth")
def _space_to_depth(n: Call) -> Found:
    return n.g.op("DepthToSpace", blocksize=int(n.attr("blocksize")), mode=n.attr("mode", "DCR"))


def _scattered(n: Call, kept: Tensor, written: Tensor) -> Found:
    """What is written over gets nothing; what is added to keeps all."""
    reduction = n.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise n.refuse(f"its reduction {reduction!r} is not supported")
    return (kept if reduction == "none" else n.g, None, written)


@rule("ScatterND")
def _scatter_nd(n: Call) -> Found:
    indices = n.input(1)
    return _scattered(n, n.g.op("ScatterND", indices, n.input(2).zeros()), n.g.op("GatherND", indices))


@rule("ScatterElements")
def _scatter_elements(n: Call) -> Found:
    indices, axis = n.input(1), int(n.attr("axis", 0))
    kept = n.g.op("ScatterElements", indices, n.input(2).zeros(), axis=axis)
    return _scattered(n, kept, n.g.op("GatherElements", indices, axis=axis))
