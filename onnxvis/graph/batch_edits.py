"""What has to be rewritten to free a batch axis, as data; :func:`onnxvis.graph.batch.free_batch` applies it.

A node is named by the first tensor that it makes, since the same tensor exists in the file and in its canonical form.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Edit", "KeepRow", "RepeatRow", "SetElement", "SetToRows"]


@dataclass(frozen=True)
class SetElement:
    """One number of a node's integer input, such as the shape of a Reshape, becomes ``value``.

    Attributes:
        tensor: first output of the node, which names it.
        op_type: its operator.
        input: which input.
        length: how many numbers it has.
        element: which of them.
        value: the new number.
    """

    tensor: str
    op_type: str
    input: int
    length: int
    element: int
    value: int


@dataclass(frozen=True)
class SetToRows:
    """One number of a node's integer input becomes ``Shape(inputs[source])[axis] * times / per``.

    Attributes:
        tensor: first output of the node, which names it.
        op_type: its operator.
        input: which input.
        length: how many numbers it has.
        element: which of them.
        source: the input whose shape is read.
        axis: the axis of it that grows with the batch.
        times: factor.
        per: divisor.
    """

    tensor: str
    op_type: str
    input: int
    length: int
    element: int
    source: int
    axis: int
    times: int = 1
    per: int = 1


@dataclass(frozen=True)
class RepeatRow:
    """An input that is the same for every image is repeated to ``Shape(inputs[source])[source_axis]`` rows.

    Attributes:
        tensor: first output of the node, which names it.
        op_type: its operator.
        input: the input to repeat: its first row along ``axis``.
        rank: number of its axes.
        axis: the axis along which it is repeated.
        source: the input whose shape is read.
        source_axis: the axis of it that grows with the batch.
    """

    tensor: str
    op_type: str
    input: int
    rank: int
    axis: int
    source: int
    source_axis: int


@dataclass(frozen=True)
class KeepRow:
    """An input with one equal row per image keeps its first row, which broadcasts.

    Attributes:
        tensor: first output of the node, which names it.
        op_type: its operator.
        input: the input.
        axis: the axis that counts images.
    """

    tensor: str
    op_type: str
    input: int
    axis: int


Edit = SetElement | SetToRows | RepeatRow | KeepRow
