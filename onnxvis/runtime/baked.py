"""Constants that hold the batch size: how to see them at a node, and what to put in their place.

Each rule looks at one node with its inputs at two batch sizes, the larger :data:`GROWTH` times the smaller.
Where a constant of the smaller batch is in the way of the larger one, it yields an edit and the input that the
edit makes. A literal -1 or 0 is preferred to a number computed from a shape, since it can be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from onnxvis.errors import ModelError
from onnxvis.graph.batch_edits import Edit, KeepRow, RepeatRow, SetElement, SetToRows
from onnxvis.graph.fold import attributes

if TYPE_CHECKING:
    import torch

__all__ = ["GROWTH", "Change", "Pair", "Rows", "changes"]

GROWTH = 3
_SIZES = {"Resize": 3, "MaxUnpool": 2, "AffineGrid": 1}
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min", "Sum", "Mean", "Where", "MatMul")
_INT64_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class Rows:
    """Where the images of a tensor are: ``axis`` is ``outer`` x images x the rest."""

    axis: int
    outer: int = 1


@dataclass(frozen=True)
class Pair:
    """A tensor at both batch sizes."""

    few: torch.Tensor
    many: torch.Tensor
    rows: Rows | None = None

    @property
    def settled(self) -> bool:
        """Whether its value does not depend on the batch size."""
        return self.few.shape == self.many.shape and bool((self.few == self.many).all())


@dataclass(frozen=True)
class Change:
    """An edit, and the input that it gives the larger batch."""

    edit: Edit
    value: torch.Tensor


def changes(node: onnx.NodeProto, inputs: Sequence[Pair | None], made: torch.Tensor, count: int) -> Iterator[Change]:
    """What to rewrite at a node, given its inputs and what it makes of the smaller batch."""
    if node.op_type == "Reshape":
        yield from _reshape(node, inputs, made, count)
    elif node.op_type in _SIZES:
        yield from _sizes(node, inputs)
    elif node.op_type == "Expand":
        yield from _expand(node, inputs)
    elif node.op_type == "Slice":
        yield from _slice(node, inputs, made)
    elif node.op_type == "Concat":
        yield from _concat(node, inputs)
    elif node.op_type in ("LSTM", "GRU", "RNN"):
        yield from _recurrent(node, inputs)
    elif node.op_type == "GridSample":
        yield from _repeated(node, inputs, 1, 0, 0)
    elif node.op_type in _ELEMENTWISE:
        yield from _elementwise(node, inputs, made, count)


def _numbers(pair: Pair | None) -> list[int] | None:
    """A shape-like input that does not follow the batch."""
    if pair is None or pair.few.is_floating_point() or pair.few.dim() != 1 or not pair.settled:
        return None
    return [int(n) for n in pair.few.tolist()]


def _vector(numbers: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.tensor(list(numbers), dtype=torch.int64)


def _set(node: onnx.NodeProto, index: int, numbers: Sequence[int], element: int, value: int) -> Change:
    changed = [value if i == element else n for i, n in enumerate(numbers)]
    edit = SetElement(_name(node), node.op_type, index, len(numbers), element, value)
    return Change(edit, _vector(changed))


def _name(node: onnx.NodeProto) -> str:
    return str(next(name for name in node.output if name))


def _reshape(node: onnx.NodeProto, inputs: Sequence[Pair | None], made: torch.Tensor, count: int) -> Iterator[Change]:
    data, spec = inputs[0], _numbers(inputs[1] if len(inputs) > 1 else None)
    if data is None or data.rows is None or spec is None:
        return
    before, after = list(data.few.shape), list(made.shape)
    target = _target_axis(before, data.rows, after, spec, count)
    if target is None:
        return  # the node then runs as it is, and what it makes is judged
    wanted = [size * GROWTH if i == target else size for i, size in enumerate(after)]
    larger = list(data.many.shape)
    if _resolved(larger, spec) == wanted:
        return
    axis = data.rows.axis
    options: list[Change] = [_set(node, 1, spec, target, value) for value in (-1, 0)]
    common = math.gcd(after[target], before[axis])
    times, per = after[target] // common, before[axis] // common
    rows = SetToRows(_name(node), node.op_type, 1, len(spec), target, 0, axis, times, per)
    computed = [wanted[target] if i == target else n for i, n in enumerate(spec)]
    options.append(Change(rows, _vector(computed)))
    for option in options:
        if _resolved(larger, option.value.tolist()) == wanted:
            yield option
            return


def _target_axis(before: list[int], rows: Rows, after: list[int], spec: list[int], count: int) -> int | None:
    """The axis of a reshaped tensor that counts images.

    Reshape keeps the order of elements, so the images stand behind the same number of elements as before. At
    a batch of one that can be the end of one axis or the beginning of the next; what is preferred here is a
    guess, and the nodes that follow judge it.
    """
    ahead = math.prod(before[: rows.axis]) * rows.outer
    fitting = []
    for axis, size in enumerate(after):
        outer, rest = divmod(ahead, math.prod(after[:axis]))
        if rest == 0 and outer > 0 and size % (outer * count) == 0:
            fitting.append((axis, outer))
    if not fitting:
        return None
    alone = [axis for axis, outer in fitting if outer == 1 and after[axis] == count]
    kept = [axis for axis, outer in fitting if outer == rows.outer and after[axis] == before[rows.axis]]
    for same in (alone, kept):
        if same:
            return rows.axis if rows.axis in same else same[0]
    free = [axis for axis, _ in fitting if spec[axis] == -1]
    if free:
        return free[0]
    # Fewer axes: rows were merged for a linear layer. More: features were split, as into heads.
    return fitting[0][0] if len(after) < len(before) else fitting[-1][0]


def _resolved(shape: Sequence[int], spec: Sequence[int]) -> list[int] | None:
    """The shape that Reshape makes, ``None`` if it fails."""
    sizes = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(spec)]
    total, known = math.prod(shape), math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) == 1 and known and total % known == 0:
        sizes[sizes.index(-1)] = total // known
    return sizes if -1 not in sizes and math.prod(sizes) == total else None


def _sizes(node: onnx.NodeProto, inputs: Sequence[Pair | None]) -> Iterator[Change]:
    index = _SIZES[node.op_type]
    data, sizes = inputs[0], _numbers(inputs[index] if index < len(inputs) else None)
    axes = attributes(node).get("axes")
    if data is None or data.rows is None or not sizes or axes is not None:
        return
    axis = data.rows.axis
    if sizes[axis] == data.few.shape[axis]:
        edit = SetToRows(_name(node), node.op_type, index, len(sizes), axis, 0, axis)
        larger = [data.many.shape[axis] if i == axis else n for i, n in enumerate(sizes)]
        yield Change(edit, _vector(larger))


def _expand(node: onnx.NodeProto, inputs: Sequence[Pair | None]) -> Iterator[Change]:
    data, shape = inputs[0], _numbers(inputs[1])
    if data is None or data.rows is None or shape is None:
        return
    element = data.rows.axis - data.few.dim() + len(shape)
    if element >= 0 and shape[element] == data.few.shape[data.rows.axis] != 1:
        yield _set(node, 1, shape, element, 1)


def _slice(node: onnx.NodeProto, inputs: Sequence[Pair | None], made: torch.Tensor) -> Iterator[Change]:
    data = inputs[0]
    starts, ends, axes, steps = (_numbers(inputs[i] if i < len(inputs) else None) for i in range(1, 5))
    if data is None or data.rows is None or ends is None or starts is None:
        return
    axis, rank = data.rows.axis, data.few.dim()
    for element, sliced in enumerate(axes or range(len(ends))):
        whole = made.shape[axis] == data.few.shape[axis] and (steps is None or steps[element] == 1)
        if sliced % rank == axis and whole and 0 <= ends[element] < data.many.shape[axis]:
            yield _set(node, 2, ends, element, _INT64_MAX)


def _concat(node: onnx.NodeProto, inputs: Sequence[Pair | None]) -> Iterator[Change]:
    joined = attributes(node).get("axis", 1)
    for source, data in enumerate(inputs):
        if data is not None and data.rows is not None and data.rows.axis != joined % data.few.dim():
            for index in range(len(inputs)):
                yield from _repeated(node, inputs, index, data.rows.axis, source)
            return


def _recurrent(node: onnx.NodeProto, inputs: Sequence[Pair | None]) -> Iterator[Change]:
    data = inputs[0]
    if data is None or data.rows is None:
        return
    state_axis = 0 if attributes(node).get("layout", 0) else 1
    for index, axis in ((4, 0), (5, state_axis), (6, state_axis)):
        yield from _repeated(node, inputs, index, axis, 0)


def _repeated(
    node: onnx.NodeProto, inputs: Sequence[Pair | None], index: int, axis: int, source: int
) -> Iterator[Change]:
    """An input without images beside one that has them: its row is repeated."""
    pair, data = inputs[index] if index < len(inputs) else None, inputs[source]
    if pair is None or data is None or pair.rows is not None or data.rows is None:
        return
    source_axis = data.rows.axis
    if pair.many.shape[axis] == data.many.shape[source_axis]:
        return
    _only_one_row(node, index, pair.few, axis)
    edit = RepeatRow(_name(node), node.op_type, index, pair.few.dim(), axis, source, source_axis)
    sizes = [data.many.shape[source_axis] if i == axis else -1 for i in range(pair.few.dim())]
    yield Change(edit, pair.few.narrow(axis, 0, 1).expand(sizes))


def _elementwise(
    node: onnx.NodeProto, inputs: Sequence[Pair | None], made: torch.Tensor, count: int
) -> Iterator[Change]:
    """A constant with one row per image of a fixed batch: one row broadcasts to any number."""
    rank = made.dim()
    grown = {p.rows.axis - p.few.dim() for p in inputs if p is not None and p.rows is not None}
    if count == 1 or len(grown) != 1:
        return
    axis = grown.pop() + rank
    for index, pair in enumerate(inputs):
        own = -1 if pair is None else axis - rank + pair.few.dim()
        matrix = node.op_type == "MatMul" and axis >= rank - 2
        if pair is None or pair.rows is not None or own < 0 or matrix or pair.many.shape[own] == 1:
            continue
        if pair.settled:
            _only_one_row(node, index, pair.few, own)
            yield Change(KeepRow(_name(node), node.op_type, index, own), pair.few.narrow(own, 0, 1))


def _only_one_row(node: onnx.NodeProto, index: int, value: torch.Tensor, axis: int) -> None:
    if not bool((value == value.narrow(axis, 0, 1)).all()):
        raise ModelError(
            f"node {node.name or _name(node)!r} ({node.op_type}) reads {node.input[index]!r}, which holds another "
            "value for each place in the batch"
        )
