"""What a converter is, and the table that finds the one for a node.

A converter reads one node and answers with an :class:`Operator`: a torch module and the names of the
tensors it takes at run time. Converters register themselves with :func:`converter`, one file per operator
family in :mod:`onnxvis.converters.operators`. The table picks the newest registration that is not newer
than the opset the node speaks; operators it does not know are asked of onnx2torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import onnx
from torch import Tensor, nn

from onnxvis.errors import ConversionError

if TYPE_CHECKING:
    from onnxvis.converters.module import TorchGraph

__all__ = [
    "MICROSOFT",
    "ActivationKind",
    "Call",
    "Node",
    "Operator",
    "converter",
    "find_converter",
    "known_operators",
    "operator",
]

MICROSOFT = "com.microsoft"


class ActivationKind(Enum):
    """How an activation behaves under a :class:`~onnxvis.converters.relu.ReluRule`."""

    RELU = "relu"
    """A rectifier: the rule replaces its derivative."""
    RELU_LIKE = "relu-like"
    """A rectifier with an upper bound, a threshold, or fused into another operator: the rule applies too."""
    PLAIN = "plain"
    """Not a rectifier: keeps its ordinary derivative under every rule."""


@dataclass(frozen=True)
class Node:
    """One ONNX node as converters see it.

    Attributes:
        name: the node's name, or a made-up one that names its first output.
        op_type: operator name.
        domain: operator domain, ``""`` for ONNX's own.
        version: opset version of that domain which the model imports.
        inputs: tensor names, ``""`` where an optional input is left out.
        outputs: tensor names, ``""`` where an optional output is not wanted.
        attributes: decoded attributes (str, int, float, lists of them, TensorProto, GraphProto).
        constants: every constant of the graph by name.
        types: ONNX element types by tensor name, as far as the file states them.
        convert_body: turns a GraphProto attribute into (module, captured outer names); see ``control.py``.
    """

    name: str
    op_type: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, Tensor] = field(repr=False)
    types: Mapping[str, int] = field(repr=False)
    convert_body: Callable[[onnx.GraphProto], tuple[TorchGraph, tuple[str, ...]]] = field(repr=False)

    def has(self, index: int) -> bool:
        """Whether the optional input at this position is given."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def constant(self, index: int) -> Tensor | None:
        """The value of the input at this position when it is known now, else None."""
        return self.constants.get(self.inputs[index]) if self.has(index) else None

    def element_type(self, index: int) -> int | None:
        """The ONNX element type of the input at this position, when the file states it."""
        return self.types.get(self.inputs[index]) if self.has(index) else None

    def wants(self, index: int) -> bool:
        """Whether the output at this position is named."""
        return index < len(self.outputs) and self.outputs[index] != ""

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's decoded value."""
        return self.attributes.get(name, default)

    @property
    def operator(self) -> str:
        """Domain, operator and version in one word."""
        return f"{self.domain or 'ai.onnx'}::{self.op_type}-{self.version}"

    @property
    def where(self) -> str:
        """How messages name this node."""
        return f"{self.operator} (node {self.name!r})"

    def refuse(self, reason: str) -> ConversionError:
        """The error for a form of a known operator that cannot be converted."""
        return ConversionError(f"{self.where} cannot be converted to torch: {reason}.")


class Call(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Tensor | Sequence[Tensor]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor | None, **options: Any) -> Tensor | Sequence[Tensor]:
        """Call the function."""
        return self.function(*arguments, **options)


@dataclass(frozen=True)
class Operator:
    """A converted node.

    Attributes:
        module: called with the tensors of ``inputs`` in order (None where absent); returns one tensor, or a
            sequence with one tensor per ONNX output. It must not modify its arguments.
        inputs: tensor names taken at run time.
        host: positions in ``inputs`` that are read as numbers (shapes, axes) and so stay on the CPU.
        activation: set on activations. For RELU and RELU_LIKE the module accepts ``rule=``.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    host: frozenset[int] = frozenset()
    activation: ActivationKind | None = None


Converter = Callable[[Node], Operator]
_TABLE: dict[tuple[str, str], dict[int, Converter]] = {}


def converter(*op_types: str, since: int = 1, domain: str = "") -> Callable[[Converter], Converter]:
    """Register a converter for these operators, from the given opset version on."""

    def register(function: Converter) -> Converter:
        for op_type in op_types:
            versions = _TABLE.setdefault((domain, op_type), {})
            if since in versions:
                raise ValueError(f"{domain or 'ai.onnx'}::{op_type}-{since} is already registered")
            versions[since] = function
        return function

    return register


def operator(
    node: Node,
    function: Callable[..., Tensor | Sequence[Tensor]] | nn.Module,
    *,
    inputs: Sequence[str] | None = None,
    host: Sequence[int] = (),
    activation: ActivationKind | None = None,
) -> Operator:
    """The usual :class:`Operator`: all the node's inputs go to ``function``."""
    module = function if isinstance(function, nn.Module) else Call(function)
    names = node.inputs if inputs is None else tuple(inputs)
    return Operator(module, names, frozenset(host), activation)


def find_converter(domain: str, op_type: str, version: int) -> Converter | None:
    """The newest registered converter not newer than ``version``; None when there is none."""
    versions = _TABLE.get((domain, op_type), {})
    fitting = [since for since in versions if since <= version]
    return versions[max(fitting)] if fitting else None


def known_operators(domain: str = "") -> frozenset[str]:
    """Names of the operators of a domain that have a converter of our own."""
    return frozenset(op_type for where, op_type in _TABLE if where == domain)
