"""Evaluate one ONNX node in numpy when all its inputs are known.

Only the operators that exporters put between a stored weight (or a shape) and its use are here; anything
else is answered with ``None``, never guessed. Semantics follow the operator's page in the ONNX operator
reference, for the old form (axes as attributes) and the new one (axes as inputs) alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from onnx.onnx_pb import NodeProto, TensorProto

__all__ = ["attributes", "fold", "is_loaded", "tensor_values"]

Array = np.ndarray[Any, Any]
Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as plain Python values; byte strings are decoded."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def is_loaded(tensor: TensorProto) -> bool:
    """False for external data that was left on disk (only its dims and type are known)."""
    return tensor.data_location != TensorProto.EXTERNAL


def tensor_values(tensor: TensorProto) -> Array | None:
    """The values of a stored tensor, or None where they were left in an external file."""
    return np.asarray(numpy_helper.to_array(tensor)) if is_loaded(tensor) else None


def fold(node: NodeProto, inputs: Inputs) -> list[Array] | None:
    """The outputs of ``node`` for known inputs, or None when the operator is not in the table.

    Args:
        node: a node of the standard domain (``QuantizeLinear`` pairs of com.microsoft included).
        inputs: one array for each input; None for an input that is left out.
    """
    if node.op_type == "Constant":
        value = _constant(attributes(node))
        return None if value is None else [value]
    rule = _RULES.get(node.op_type)
    if rule is None or (node.domain not in ("", "ai.onnx") and node.op_type not in _SHARED_WITH_MICROSOFT):
        return None
    result = rule(inputs, attributes(node))
    if result is None:
        return None
    return [np.asarray(r) for r in result] if isinstance(result, list) else [np.asarray(result)]


_SHARED_WITH_MICROSOFT = {"QuantizeLinear", "DequantizeLinear"}


def _constant(attrs: Attributes) -> Array | None:
    if "value" in attrs:
        return tensor_values(attrs["value"])
    for name, dtype in (
        ("value_float", "f4"),
        ("value_floats", "f4"),
        ("value_int", "i8"),
        ("value_ints", "i8"),
    ):
        if name in attrs:
            return np.asarray(attrs[name], dtype)
    return None


def _axes(inputs: Inputs, attrs: Attributes, position: int = 1) -> list[int] | None:
    given = inputs[position] if len(inputs) > position else None
    if given is not None:
        return [int(a) for a in np.atleast_1d(given)]
    return [int(a) for a in attrs["axes"]] if "axes" in attrs else None


def _first(inputs: Inputs) -> Array:
    value = inputs[0]
    assert value is not None
    return value


def _cast(inputs: Inputs, attrs: Attributes) -> Array:
    return _first(inputs).astype(helper.tensor_dtype_to_np_dtype(attrs["to"]))


def _reshape(inputs: Inputs, attrs: Attributes) -> Array | None:
    data, shape = _first(inputs), inputs[1] if len(inputs) > 1 else np.asarray(attrs["shape"])
    if shape is None:
        return None
    keep_zero = attrs.get("allowzero", 0)
    dims = [data.shape[i] if d == 0 and not keep_zero else int(d) for i, d in enumerate(shape)]
    return data.reshape(dims)


def _squeeze(inputs: Inputs, attrs: Attributes) -> Array:
    axes = _axes(inputs, attrs)
    return np.squeeze(_first(inputs), None if axes is None else tuple(axes))


def _unsqueeze(inputs: Inputs, attrs: Attributes) -> Array:
    return np.expand_dims(_first(inputs), tuple(_axes(inputs, attrs) or ()))


def _flatten(inputs: Inputs, attrs: Attributes) -> Array:
    data, axis = _first(inputs), attrs.get("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return data.reshape(math.prod(data.shape[:axis]), -1)


def _dequantize(inputs: Inputs, attrs: Attributes) -> Array | None:
    data, scale, zero = _first(inputs), inputs[1], inputs[2] if len(inputs) > 2 else None
    if scale is None or attrs.get("block_size", 0):
        return None
    if scale.size > 1:
        along = [1] * data.ndim
        along[attrs.get("axis", 1)] = -1
        scale = scale.reshape(along)
        zero = None if zero is None else zero.reshape(along)
    # float64 holds every int32 and every float8 exactly.
    centered = data.astype(np.float64) - (0.0 if zero is None else zero.astype(np.float64))
    result: Array = (centered * scale).astype(scale.dtype)
    return result


def _constant_of_shape(inputs: Inputs, attrs: Attributes) -> Array:
    value = tensor_values(attrs["value"]) if "value" in attrs else np.zeros(1, np.float32)
    assert value is not None
    return np.full(tuple(int(d) for d in _first(inputs)), value.reshape(-1)[0], value.dtype)


def _slice(inputs: Inputs, attrs: Attributes) -> Array | None:
    data = _first(inputs)
    starts, ends = (inputs[1], inputs[2]) if len(inputs) > 2 else (attrs.get("starts"), attrs.get("ends"))
    if starts is None or ends is None:
        return None
    axes = _axes(inputs, attrs, 3) or list(range(len(starts)))
    given = inputs[4] if len(inputs) > 4 else None
    steps = [1] * len(starts) if given is None else [int(s) for s in given]
    window = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        reaches_front = step < 0 and int(end) < -data.shape[axis]
        window[axis] = slice(int(start), None if reaches_front else int(end), step)
    return data[tuple(window)]


def _gather(inputs: Inputs, attrs: Attributes) -> Array:
    indices = inputs[1]
    assert indices is not None
    taken: Array = np.take(_first(inputs), indices.astype(np.int64), axis=attrs.get("axis", 0))
    return taken


def _concat(inputs: Inputs, attrs: Attributes) -> Array:
    return np.concatenate([i for i in inputs if i is not None], axis=attrs["axis"])


def _div(inputs: Inputs, attrs: Attributes) -> Array:
    a, b = _both(inputs)
    if np.issubdtype(a.dtype, np.integer):
        # ONNX truncates integer division towards zero; numpy's // rounds down.
        quotient: Array = (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
        return quotient
    return np.asarray(a / b)


def _both(inputs: Inputs) -> tuple[Array, Array]:
    a, b = inputs[0], inputs[1]
    assert a is not None
    assert b is not None
    return a, b


def _elementwise(function: Callable[..., Any]) -> Callable[[Inputs, Attributes], Any]:
    return lambda inputs, attrs: function(*[i for i in inputs if i is not None])


def _expand(inputs: Inputs, attrs: Attributes) -> Array:
    data, shape = _both(inputs)
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(int(d) for d in shape)))


def _reduce(function: Callable[..., Any]) -> Callable[[Inputs, Attributes], Any]:
    def rule(inputs: Inputs, attrs: Attributes) -> Any:
        axes = _axes(inputs, attrs)
        keep = bool(attrs.get("keepdims", 1))
        return function(_first(inputs), axis=None if axes is None else tuple(axes), keepdims=keep)

    return rule


def _transpose(inputs: Inputs, attrs: Attributes) -> Array:
    return np.transpose(_first(inputs), attrs.get("perm"))


def _identity(inputs: Inputs, attrs: Attributes) -> Array:
    return _first(inputs)


def _range(inputs: Inputs, attrs: Attributes) -> Array | None:
    start, limit, delta = inputs
    if start is None or limit is None or delta is None:
        return None
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _split(inputs: Inputs, attrs: Attributes) -> list[Array] | None:
    sizes = inputs[1] if len(inputs) > 1 else attrs.get("split")
    if sizes is None:
        return None
    return np.split(_first(inputs), np.cumsum(sizes)[:-1], axis=attrs.get("axis", 0))


_RULES: dict[str, Callable[[Inputs, Attributes], Any]] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "Cast": _cast,
    "Ceil": _elementwise(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Dropout": _identity,
    "Equal": _elementwise(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Identity": _identity,
    "Max": _elementwise(lambda *a: functools.reduce(np.maximum, a)),
    "Min": _elementwise(lambda *a: functools.reduce(np.minimum, a)),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Range": _range,
    "Reciprocal": _elementwise(np.reciprocal),
    "ReduceMax": _reduce(np.max),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(np.where),
}
