"""What is known of one tensor during the walk, and what a rule gets to see of one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnx.onnx_pb import NodeProto

from onnxvis.graph.index import GraphIndex
from onnxvis.graph.receptive.field import COLS, ROWS, ImageAxis, ReceptiveField, TensorField, Window

__all__ = ["State", "Step"]


@dataclass(frozen=True)
class State:
    """The spatial axes of one tensor.

    Attributes:
        axes: tensor axis -> the field of its units.
        lost: image axis -> why no tensor axis follows it any more.
        side: a global side path reaches every unit.
    """

    axes: Mapping[int, ReceptiveField] = field(default_factory=dict)
    lost: Mapping[ImageAxis, str] = field(default_factory=dict)
    side: bool = False

    def moved(self, places: Mapping[int, int], reason: str) -> State:
        """The same fields on other axes; an axis without a new place is lost for ``reason``."""
        axes = {places[a]: replace(f, axis=places[a]) for a, f in self.axes.items() if a in places}
        gone = {f.image_axis: reason for a, f in self.axes.items() if a not in places}
        return replace(self, axes=axes, lost={**self.lost, **gone})

    def through(self, windows: Mapping[int, Window]) -> State:
        """The fields after an operator that keeps the axes in place."""
        axes = {a: windows[a](f) if a in windows else f for a, f in self.axes.items()}
        return replace(self, axes=axes)

    def without(self, axes: set[int], reason: str) -> State:
        """The fields after an operator that mixes the positions of ``axes``."""
        return self.moved({a: a for a in self.axes if a not in axes}, reason)

    def flagged(self, side: bool) -> State:
        """The same with the side-path flag raised where ``side``."""
        return replace(self, side=True) if side and self.axes else self

    def public(self) -> TensorField:
        """What the caller gets."""
        rows = next((f for f in self.axes.values() if f.image_axis == ROWS), None)
        cols = next((f for f in self.axes.values() if f.image_axis == COLS), None)
        missing: list[ImageAxis] = [a for a, f in ((ROWS, rows), (COLS, cols)) if f is None]
        reasons = dict.fromkeys(self.lost.get(a, f"no axis follows the image's {a}") for a in missing)
        return TensorField(rows, cols, self.side, "; ".join(reasons))


@dataclass(frozen=True)
class Step:
    """One node, with what a rule may ask about it."""

    node: NodeProto
    index: GraphIndex
    states: Mapping[str, State]
    opset: int

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes as Python values."""
        return self.index.attrs(self.node)

    @property
    def label(self) -> str:
        """Operator and name, for messages."""
        return f"{self.node.op_type} {self.index.label(self.node)!r}"

    @property
    def tracked(self) -> list[str]:
        """The inputs that depend on the image."""
        return [t for t in self.node.input if t in self.states]

    @property
    def source(self) -> str:
        """The first input that depends on the image."""
        return self.tracked[0]

    @property
    def state(self) -> State:
        """The state of :attr:`source`."""
        return self.states[self.source]

    @property
    def before(self) -> tuple[int, ...]:
        """Shape of :attr:`source`."""
        return tuple(self.index.shapes[self.source])

    @property
    def after(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return tuple(self.index.shapes[self.node.output[0]])

    def ints(self, position: int, attribute: str) -> list[int] | None:
        """A list of integers given as a constant input or as an attribute."""
        if len(self.node.input) > position and self.node.input[position]:
            value = self.index.constant(self.node.input[position])
            return None if value is None else [int(v) for v in value.reshape(-1)]
        given = self.attrs.get(attribute)
        if given is None:
            return None
        return [int(v) for v in given] if isinstance(given, list | tuple) else [int(given)]

    def has(self, position: int) -> bool:
        """True where an optional input is given."""
        return len(self.node.input) > position and bool(self.node.input[position])
