"""The table: ONNX operator -> how a gradient passes back through it.

A rule is a function of one :class:`Call`, the node seen from its rule: ``n.x`` is its first input, ``n.y`` its first
output, ``n.g`` the gradient that arrives there. It returns the gradient of the first input, or a tuple with one for
each input (``None`` where there is none).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxvis.errors import ConversionError
from onnxvis.graph.gradient.tensor import Tape, Tensor
from onnxvis.graph.index import GraphIndex

__all__ = ["ALTERNATIVES", "RULES", "STEPS", "Call", "Entry", "Found", "Function", "alternative", "rule", "rules_of"]

Found = Tensor | Sequence[Tensor | None]

STEPS = frozenset({"Floor", "Ceil", "Round", "Sign", "Hardmax", "Shape", "Size", "ArgMax", "ArgMin"})
"""Operators whose derivative is 0 wherever it exists: nothing passes back."""


@dataclass(frozen=True, eq=False)
class Call:
    """One node, as its rule sees it.

    Attributes:
        tape: where the rule writes.
        index: the graph.
        node: the node.
        inputs: its inputs, ``None`` where one is left out.
        outputs: its outputs.
        grads: what arrives at each output, ``None`` where nothing does.
        active: whether each input needs a gradient.
    """

    tape: Tape
    index: GraphIndex
    node: onnx.NodeProto
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    grads: tuple[Tensor | None, ...]
    active: tuple[bool, ...]

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Tensor:
        """The first output."""
        out = self.outputs[0]
        assert out is not None
        return out

    @property
    def g(self) -> Tensor:
        """The gradient at the first output.

        Raises:
            ConversionError: the gradient arrives at another output, which the rule does not cover.
        """
        arrived = self.grads[0]
        if arrived is None or any(g is not None for g in self.grads[1:]):
            raise self.refuse("only its first output can be differentiated")
        return arrived

    def has(self, position: int) -> bool:
        """Whether an input is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def input(self, position: int) -> Tensor:
        """An input that must be given."""
        found = self.inputs[position] if position < len(self.inputs) else None
        if found is None:
            raise self.refuse(f"its input number {position + 1} is missing")
        return found

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value."""
        return self.index.attrs(self.node).get(name, default)

    def constant(self, position: int) -> np.ndarray | None:
        """The value of an input that is the same for every picture, else ``None``."""
        return self.index.constant(self.input(position).name) if self.has(position) else None

    def rank(self, position: int = 0) -> int:
        """Number of axes of an input.

        Raises:
            ConversionError: it is not known before the graph runs.
        """
        dims = self.input(position).dims
        if dims is None:
            raise self.refuse("the number of axes of its input is not known before it runs")
        return len(dims)

    def refuse(self, why: str) -> ConversionError:
        """The error that names the operator and the node."""
        return ConversionError(
            f"{self.node.op_type} node {self.index.label(self.node)!r} cannot be differentiated as ONNX operators: "
            f"{why}. The torch backend (gradients='torch') may know it; a perturbation method (occlusion) needs no "
            "gradient."
        )


Function = Callable[[Call], Found]


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        function: the rule.
        broadcasts: whether inputs are stretched to a common shape, so that gradients are summed back.
    """

    function: Function
    broadcasts: bool = False


RULES: dict[str, Entry] = {}
ALTERNATIVES: dict[str, dict[str, Entry]] = {"backprop": {}, "deconvnet": {}, "guided": {}}


def rule(*operators: str, broadcasts: bool = False) -> Callable[[Function], Function]:
    """Register the rule of one or more operators."""

    def register(function: Function) -> Function:
        RULES.update({operator: Entry(function, broadcasts) for operator in operators})
        return function

    return register


def rules_of(rows: dict[str, Function], broadcasts: bool = False) -> None:
    """Register several one-line rules."""
    RULES.update({operator: Entry(function, broadcasts) for operator, function in rows.items()})


def alternative(name: str, rows: dict[str, Function]) -> None:
    """Register the rows of an alternative ReLU rule: they take precedence over the ordinary ones."""
    ALTERNATIVES[name].update({operator: Entry(function) for operator, function in rows.items()})
