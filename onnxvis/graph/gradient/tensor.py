"""Symbolic tensors: writing ``g * y * (1 - y)`` writes ONNX nodes.

A :class:`Tape` collects nodes and constants; a :class:`Tensor` is a name on it. Numbers in an expression become
constants of the tensor's own element type, so that one rule serves float32, float64 and float16 graphs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FLOATS", "Dims", "Known", "Tape", "Tensor"]

Dims = tuple[int | str | None, ...]
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_BOOLEAN = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "And", "Or", "Not")
_INTEGER = ("Shape", "Size", "NonZero", "ArgMax")


@dataclass(frozen=True)
class Known:
    """What is known of a tensor before the graph runs: element type (0: nothing), and dims or ``None``."""

    dtype: int = 0
    dims: Dims | None = None


class Tape:
    """Collects the nodes and constants that rules write.

    Args:
        known: element type and dims of the graph's own tensors.
        taken: tensor and node names that may not be used again.
        amend: whether a node of the graph may be given another output (the positions of a MaxPool); otherwise
            the node is repeated.
    """

    def __init__(self, known: dict[str, Known], taken: Iterable[str], amend: bool = True) -> None:
        self.known = dict(known)
        self.amend = amend
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._taken = set(taken)
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
        self._shapes: dict[str, Tensor] = {}
        self.positions: dict[str, str] = {}

    @contextlib.contextmanager
    def inside(self) -> Iterator[list[onnx.NodeProto]]:
        """Nodes written within go into the list, for the body of a Loop or If, and not onto the tape."""
        nodes, shapes = self.nodes, self._shapes
        self.nodes, self._shapes = [], dict(shapes)
        try:
            yield self.nodes
        finally:
            self.nodes, self._shapes = nodes, shapes

    def tensor(self, name: str) -> Tensor:
        """A tensor of the graph, by name."""
        return Tensor(self, name)

    def fresh(self, stem: str) -> str:
        """A name that nothing in the graph has."""
        while True:
            self._count += 1
            name = f"onnxvis/{stem}_{self._count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def ops(self, op_type: str, *inputs: Tensor | None, outputs: int = 1, **attributes: Any) -> tuple[Tensor, ...]:
        """Write a node; attributes that are ``None`` are left out."""
        given = {key: value for key, value in attributes.items() if value is not None}
        label = self.fresh(op_type)
        names = [label] if outputs == 1 else [f"{label}_{i}" for i in range(outputs)]
        self._taken.update(names)
        read = [tensor.name if tensor is not None else "" for tensor in inputs]
        self.nodes.append(helper.make_node(op_type, read, names, name=label, **given))
        kind = self._dtype(op_type, inputs, given)
        for name in names:
            self.known[name] = Known(kind)
        return tuple(Tensor(self, name) for name in names)

    def op(self, op_type: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        """Write a node with one output."""
        return self.ops(op_type, *inputs, **attributes)[0]

    def repeat(self, node: onnx.NodeProto, outputs: int) -> tuple[Tensor, ...]:
        """Write a node of the graph again, with this number of outputs."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        label = self.fresh(node.op_type)
        copy.name = label
        copy.output[:] = [f"{label}_{i}" for i in range(outputs)]
        self._taken.update(copy.output)
        self.nodes.append(copy)
        return tuple(Tensor(self, name) for name in copy.output)

    def positions_of(self, node: onnx.NodeProto) -> str:
        """The second output of a MaxPool: where each maximum was. Amended nodes are listed in ``positions``."""
        first = node.output[0]
        if len(node.output) > 1 and node.output[1]:
            return str(node.output[1])
        if first not in self.positions:
            name = self.fresh("positions") if self.amend else self.repeat(node, 2)[1].name
            self.positions[first] = name
            self.known[name] = Known(int(TensorProto.INT64))
        return self.positions[first]

    def constant(self, array: Any, dtype: Any = None) -> Tensor:
        """A constant; equal small ones are stored once."""
        value = np.ascontiguousarray(array, dtype=dtype)
        value = value.reshape(np.shape(array))
        key = (str(value.dtype), value.shape, value.tobytes() if value.nbytes <= 4096 else b"")
        if value.nbytes <= 4096 and key in self._constants:
            return self._constants[key]
        name = self.fresh("constant")
        self.initializers.append(numpy_helper.from_array(value, name))
        self.known[name] = Known(helper.np_dtype_to_tensor_dtype(value.dtype), tuple(value.shape))
        self._constants[key] = Tensor(self, name)
        return self._constants[key]

    def integers(self, *values: int) -> Tensor:
        """A one-dimensional int64 constant."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: float, like: Tensor) -> Tensor:
        """A scalar constant of another tensor's element type."""
        return self.constant(np.array(value), helper.tensor_dtype_to_np_dtype(like.dtype))

    def shape(self, x: Tensor) -> Tensor:
        """The shape of a tensor as int64: a constant where it is known, else a node, written once."""
        if x.name not in self._shapes:
            dims = x.static
            self._shapes[x.name] = self.integers(*dims) if dims is not None else self.op("Shape", x)
        return self._shapes[x.name]

    def filled(self, shape: Tensor, value: float, dtype: int) -> Tensor:
        """A tensor of one value."""
        made = self.op("ConstantOfShape", shape, value=helper.make_tensor("value", dtype, [1], [value]))
        self.known[made.name] = Known(dtype)
        return made

    @staticmethod
    def _dtype(op_type: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any]) -> int:
        if op_type in _BOOLEAN:
            return int(TensorProto.BOOL)
        if op_type in _INTEGER:
            return int(TensorProto.INT64)
        if op_type == "Cast":
            return int(attributes["to"])
        source = inputs[1] if op_type in ("Where", "OneHot") and len(inputs) > 1 else (inputs[0] if inputs else None)
        return source.dtype if source is not None else 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor on a tape. Arithmetic writes nodes; ``==`` compares Python objects, :meth:`equals` values."""

    tape: Tape
    name: str

    @property
    def dtype(self) -> int:
        """Element type, float32 where the graph does not tell."""
        return self.tape.known.get(self.name, Known()).dtype or int(TensorProto.FLOAT)

    @property
    def dims(self) -> Dims | None:
        """A number, a symbol or ``None`` per axis; ``None`` where not even the rank is known."""
        return self.tape.known.get(self.name, Known()).dims

    @property
    def static(self) -> tuple[int, ...] | None:
        """The dims where all of them are numbers."""
        dims = self.dims
        return None if dims is None or any(not isinstance(d, int) for d in dims) else tuple(int(d or 0) for d in dims)

    def extent(self, axis: int) -> int | None:
        """The size along an axis where it is a known number."""
        size = self.dims[axis] if self.dims is not None and -len(self.dims) <= axis < len(self.dims) else None
        return size if isinstance(size, int) else None

    def op(self, op_type: str, *others: Tensor | None, **attributes: Any) -> Tensor:
        """Write a node whose first input is this tensor."""
        return self.tape.op(op_type, self, *others, **attributes)

    def like(self, value: Tensor | float) -> Tensor:
        """A number as a constant of this tensor's type; a tensor unchanged."""
        return value if isinstance(value, Tensor) else self.tape.number(float(value), self)

    def __add__(self, other: Tensor | float) -> Tensor:
        return self.op("Add", self.like(other))

    def __radd__(self, other: float) -> Tensor:
        return self.like(other).op("Add", self)

    def __sub__(self, other: Tensor | float) -> Tensor:
        return self.op("Sub", self.like(other))

    def __rsub__(self, other: float) -> Tensor:
        return self.like(other).op("Sub", self)

    def __mul__(self, other: Tensor | float) -> Tensor:
        return self.op("Mul", self.like(other))

    def __rmul__(self, other: float) -> Tensor:
        return self.like(other).op("Mul", self)

    def __truediv__(self, other: Tensor | float) -> Tensor:
        return self.op("Div", self.like(other))

    def __rtruediv__(self, other: float) -> Tensor:
        return self.like(other).op("Div", self)

    def __neg__(self) -> Tensor:
        return self.op("Neg")

    def __gt__(self, other: Tensor | float) -> Tensor:
        return self.op("Greater", self.like(other))

    def __lt__(self, other: Tensor | float) -> Tensor:
        return self.op("Less", self.like(other))

    def __and__(self, other: Tensor) -> Tensor:
        return self.op("And", other)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.op("MatMul", other)

    def equals(self, other: Tensor | float) -> Tensor:
        """Where values are equal, bool."""
        return self.op("Equal", self.like(other))

    def power(self, exponent: Tensor | float) -> Tensor:
        """Values raised to a power."""
        return self.op("Pow", self.like(exponent))

    def where(self, yes: Tensor, no: Tensor | float) -> Tensor:
        """Of a condition: ``yes`` where it holds, else ``no``."""
        return self.op("Where", yes, yes.like(no))

    def keep(self, values: Tensor) -> Tensor:
        """Of a condition: the values where it holds, else 0."""
        return self.where(values, 0.0)

    def cast(self, dtype: int) -> Tensor:
        """Converted to another element type."""
        return self if dtype == self.dtype else self.op("Cast", to=dtype)

    def sum(self, axes: Sequence[int], keepdims: bool = True) -> Tensor:
        """Summed over some axes."""
        return self.op("ReduceSum", self.tape.integers(*axes), keepdims=int(keepdims)) if axes else self

    def reshape(self, shape: Tensor | Sequence[int]) -> Tensor:
        """In another shape; 0 in a list keeps an axis, -1 is inferred."""
        return self.op("Reshape", shape if isinstance(shape, Tensor) else self.tape.integers(*shape))

    def expand(self, shape: Tensor) -> Tensor:
        """Repeated along axes of one."""
        return self.op("Expand", shape)

    @property
    def shape(self) -> Tensor:
        """Its shape, int64."""
        return self.tape.shape(self)

    @property
    def size(self) -> Tensor:
        """How many values it has, as a scalar of its own float type."""
        dims = self.static
        if dims is not None:
            return self.tape.number(float(np.prod(dims)), self)
        return self.op("Size").cast(self.dtype)

    def zeros(self, dtype: int | None = None) -> Tensor:
        """Zeros of the same shape."""
        return self.tape.filled(self.shape, 0.0, dtype or self.dtype)
