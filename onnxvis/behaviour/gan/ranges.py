"""In which numbers a generator paints: read off what ends its graph, never off its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxvis.errors import UsageError
from onnxvis.graph.index import GraphIndex

__all__ = ["ValueRange", "find_range", "parse_range"]

_BOUNDED = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0)}
_PASSES = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Resize", "Dropout")
_NAMED = {"tanh": (-1.0, 1.0), "unit": (0.0, 1.0), "byte": (0.0, 255.0)}


@dataclass(frozen=True)
class ValueRange:
    """The values that stand for black and for full brightness, and how they are known."""

    low: float
    high: float
    reason: str

    def to_bytes(self, values: np.ndarray) -> np.ndarray:
        """Values of a picture as uint8, clipped to the range and rounded to the nearest."""
        scaled = (values.astype(np.float32) - np.float32(self.low)) * np.float32(255 / (self.high - self.low))
        return np.asarray(np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)), np.uint8)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}: {self.reason}"


def parse_range(given: str | Sequence[float]) -> ValueRange:
    """A range as a user says it: "tanh" (-1..1), "unit" (0..1), "byte" (0..255), or two numbers.

    Raises:
        UsageError: anything else.
    """
    if isinstance(given, str) and given.lower() in _NAMED:
        return ValueRange(*_NAMED[given.lower()], "as given")
    try:
        low, high = (float(n) for n in (given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError):
        raise UsageError(f"a value range is tanh, unit, byte or LOW,HIGH, not {given!r}.") from None
    if not low < high:
        raise UsageError(f"a value range rises from black to bright, which {low:g},{high:g} does not.")
    return ValueRange(low, high, "as given")


def find_range(index: GraphIndex, output: str, elem_type: int) -> ValueRange:
    """The range of an output, from the last bounded operator before it and the arithmetic in between.

    Args:
        index: of the generator.
        output: the picture.
        elem_type: its element type.

    Raises:
        UsageError: nothing bounds the output.
    """
    if elem_type == onnx.TensorProto.UINT8:
        return ValueRange(0.0, 255.0, "the output holds bytes")
    steps: list[tuple[str, float, bool]] = []
    tensor, node = output, index.producer(output)
    while node is not None:
        bounds = _bounds(index, node)
        if bounds is not None:
            return _after(bounds, steps, node.op_type)
        data = [name for name in node.input if name and not index.is_constant(name)]
        step = _affine(index, node, data)
        if step is not None:
            steps.append(step)
        elif node.op_type not in _PASSES and node.op_type != "Cast":
            break
        if len(data) != 1:
            break
        tensor, node = data[0], index.producer(data[0])
    raise UsageError(
        f"the value range of the pictures is not known: nothing bounds {tensor!r} (no Tanh, Sigmoid or Clip before the "
        "output). Say it with value_range=... (--range): tanh (-1..1), unit (0..1), byte (0..255) or LOW,HIGH."
    )


def _bounds(index: GraphIndex, node: onnx.NodeProto) -> tuple[float, float] | None:
    if node.op_type in _BOUNDED:
        return _BOUNDED[node.op_type]
    if node.op_type != "Clip":
        return None
    attrs = index.attrs(node)
    found = [attrs.get("min"), attrs.get("max")]
    for place in (1, 2):
        if len(node.input) > place and node.input[place]:
            value = index.constant(node.input[place])
            found[place - 1] = None if value is None else float(value.reshape(-1)[0])
    low, high = found
    return None if low is None or high is None or not low < high else (float(low), float(high))


def _affine(index: GraphIndex, node: onnx.NodeProto, data: Sequence[str]) -> tuple[str, float, bool] | None:
    """(operator, number, whether the number comes first) of arithmetic with one number; else None."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(data) != 1:
        return None
    constant = next(name for name in node.input if name != data[0])
    value = index.constant(constant)
    if value is None or value.size == 0 or not (value == value.reshape(-1)[0]).all():
        return None
    return node.op_type, float(value.reshape(-1)[0]), node.input[0] == constant


def _after(bounds: tuple[float, float], steps: Sequence[tuple[str, float, bool]], operator: str) -> ValueRange:
    ends = list(bounds)
    for kind, number, first in reversed(steps):
        ends = [_apply(kind, number, first, end) for end in ends]
    low, high = min(ends), max(ends)
    rest = f", then {len(steps)} operations with one number" if steps else ""
    return ValueRange(low, high, f"the graph ends in {operator}{rest}")


def _apply(kind: str, number: float, first: bool, value: float) -> float:
    left, right = (number, value) if first else (value, number)
    if kind == "Add":
        return left + right
    if kind == "Sub":
        return left - right
    return left * right if kind == "Mul" else left / right
