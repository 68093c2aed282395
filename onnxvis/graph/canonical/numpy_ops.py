"""Operators computed with numpy, for constants and shape arithmetic.

Results follow the ONNX standard for the operator set that the model imports. What would grow without bound
(Expand, Tile, Range, ConstantOfShape, broadcasting) is measured before it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["ELEMENTWISE", "STRUCTURAL", "NotComputedError", "evaluate", "result_size"]

Array = np.ndarray
Arrays = Sequence[Array | None]
_Operator = Callable[[ir.Node, list[Any]], Array]


class NotComputedError(ValueError):
    """The standard leaves the result open, or it needs a number type that numpy lacks."""


def _axes(node: ir.Node, arrays: list[Any], index: int = 1) -> list[int] | None:
    given = node.attributes.get_ints("axes", None)
    if given is None and len(arrays) > index and arrays[index] is not None:
        given = np.asarray(arrays[index]).reshape(-1).tolist()
    return None if given is None else [int(axis) for axis in given]


def _squeeze(node: ir.Node, a: list[Any]) -> Array:
    axes = _axes(node, a)
    return np.asarray(np.squeeze(a[0], axis=None if axes is None else tuple(axes)))


def _unsqueeze(node: ir.Node, a: list[Any]) -> Array:
    axes = _axes(node, a) or []
    return np.expand_dims(a[0], tuple(axes))


def _slice(node: ir.Node, a: list[Any]) -> Array:
    attributes = node.attributes
    if "starts" in attributes:
        starts, ends = list(attributes.get_ints("starts", ())), list(attributes.get_ints("ends", ()))
        axes, steps = _axes(node, a[:1]), None
    else:
        starts, ends = (np.asarray(v).reshape(-1).tolist() for v in a[1:3])
        axes = None if len(a) < 4 or a[3] is None else np.asarray(a[3]).reshape(-1).tolist()
        steps = None if len(a) < 5 or a[4] is None else np.asarray(a[4]).reshape(-1).tolist()
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index: list[slice] = [slice(None)] * a[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = a[0].shape[axis]
        first = max(start + extent, 0) if start < 0 else start
        last = end + extent if end < 0 else end
        index[axis] = slice(first, max(last, 0) if last >= 0 or step > 0 else None, step)
    return np.asarray(a[0][tuple(index)])


def _reshape(node: ir.Node, a: list[Any]) -> Array:
    shape = node.attributes.get_ints("shape", None)
    target = list(shape) if shape is not None else np.asarray(a[1]).reshape(-1).tolist()
    if not node.attributes.get_int("allowzero", 0):
        target = [a[0].shape[i] if extent == 0 else extent for i, extent in enumerate(target)]
    return np.reshape(a[0], [int(extent) for extent in target])


def _transpose(node: ir.Node, a: list[Any]) -> Array:
    return np.transpose(a[0], node.attributes.get_ints("perm", None))


def _concat(node: ir.Node, a: list[Any]) -> Array:
    return np.concatenate(a, axis=node.attributes.get_int("axis", 1))


def _gather(node: ir.Node, a: list[Any]) -> Array:
    return np.take(a[0], np.asarray(a[1]), axis=node.attributes.get_int("axis", 0))


def _flatten(node: ir.Node, a: list[Any]) -> Array:
    axis = node.attributes.get_int("axis", 1)
    axis = axis + a[0].ndim if axis < 0 else axis
    return np.reshape(a[0], (math.prod(a[0].shape[:axis]), math.prod(a[0].shape[axis:])))


def _cast(node: ir.Node, a: list[Any]) -> Array:
    target = ir.DataType(node.attributes["to"].as_int()).numpy()
    if target.kind not in "biuf" or a[0].dtype.kind not in "biuf":
        raise NotComputedError("not a plain number type")
    if a[0].dtype.kind == "f" and target.kind in "iu":
        limits = np.iinfo(target)
        if not (np.isfinite(a[0]).all() and (a[0] >= limits.min).all() and (a[0] <= limits.max).all()):
            raise NotComputedError("a number that the target type does not hold")
    return np.asarray(a[0]).astype(target)


def _divide(_: ir.Node, a: list[Any]) -> Array:
    if a[0].dtype.kind in "iu":  # the standard truncates, numpy floors
        if not np.all(a[1]):
            raise NotComputedError("division by zero")
        quotient = np.abs(a[0]) // np.abs(a[1])
        return np.asarray(np.where((a[0] < 0) != (a[1] < 0), -quotient, quotient), dtype=a[0].dtype)
    return np.asarray(np.divide(a[0], a[1]))


def _modulo(node: ir.Node, a: list[Any]) -> Array:
    if not np.all(a[1]):
        raise NotComputedError("division by zero")
    return np.asarray(np.fmod(a[0], a[1]) if node.attributes.get_int("fmod", 0) else np.mod(a[0], a[1]))


def _fill(node: ir.Node, a: list[Any]) -> Array:
    value = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
    return np.broadcast_to(np.asarray(value).reshape(-1)[0], tuple(int(extent) for extent in a[0]))


def _expand(_: ir.Node, a: list[Any]) -> Array:
    shape = np.broadcast_shapes(a[0].shape, tuple(int(extent) for extent in a[1]))
    return np.broadcast_to(a[0], shape)


def _dequantize(node: ir.Node, a: list[Any]) -> Array:
    value, scale, zero = a[0], a[1], a[2] if len(a) > 2 else None
    if node.attributes.get_int("block_size", 0) or value.dtype.kind not in "iu":
        raise NotComputedError("not a plain 8-bit or 32-bit quantization")
    if scale.size > 1:
        axis = node.attributes.get_int("axis", 1)
        shape = [1] * value.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
        zero = None if zero is None else zero.reshape(shape)
    elif scale.ndim:
        scale, zero = scale.reshape(()), None if zero is None else zero.reshape(())
    shifted = value.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
    return np.asarray(shifted.astype(scale.dtype) * scale)


def _reduce(function: Callable[..., Any]) -> _Operator:
    def apply(node: ir.Node, a: list[Any]) -> Array:
        axes = _axes(node, a)
        if not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
            return np.asarray(a[0])
        keep = bool(node.attributes.get_int("keepdims", 1))
        return np.asarray(function(a[0], axis=tuple(axes) if axes else None, keepdims=keep), dtype=a[0].dtype)

    return apply


def _range(_: ir.Node, a: list[Any]) -> Array:
    start, limit, delta = (np.asarray(v).reshape(()) for v in a)
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return np.asarray(start + np.arange(count) * delta, dtype=start.dtype)


def _numpy(function: Callable[..., Any]) -> _Operator:
    return lambda _, a: np.asarray(function(*a))


def _fold(function: Callable[[Any, Any], Any]) -> _Operator:
    def apply(_: ir.Node, a: list[Any]) -> Array:
        result = a[0]
        for other in a[1:]:
            result = function(result, other)
        return np.asarray(result)

    return apply


STRUCTURAL: dict[str, _Operator] = {
    "Concat": _concat,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda _, a: np.asarray(a[0]),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
ELEMENTWISE: dict[str, _Operator] = {
    "Abs": _numpy(np.abs),
    "Add": _numpy(np.add),
    "And": _numpy(np.logical_and),
    "Ceil": _numpy(np.ceil),
    "Div": _divide,
    "Equal": _numpy(np.equal),
    "Floor": _numpy(np.floor),
    "Greater": _numpy(np.greater),
    "GreaterOrEqual": _numpy(np.greater_equal),
    "Less": _numpy(np.less),
    "LessOrEqual": _numpy(np.less_equal),
    "Max": _fold(np.maximum),
    "Min": _fold(np.minimum),
    "Mod": _modulo,
    "Mul": _numpy(np.multiply),
    "Neg": _numpy(np.negative),
    "Not": _numpy(np.logical_not),
    "Or": _numpy(np.logical_or),
    "Reciprocal": _numpy(lambda x: np.reciprocal(x) if x.dtype.kind == "f" else 1 // x),
    "Round": _numpy(np.round),
    "Sqrt": _numpy(np.sqrt),
    "Sub": _numpy(np.subtract),
    "Where": _numpy(np.where),
    "Xor": _numpy(np.logical_xor),
}
_OTHERS: dict[str, _Operator] = {
    "Cast": _cast,
    "ConstantOfShape": _fill,
    "DequantizeLinear": _dequantize,
    "Expand": _expand,
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Shape": lambda n, a: np.asarray(a[0].shape, np.int64)[_window(n)],
    "Size": lambda _, a: np.asarray(a[0].size, np.int64),
    "Tile": lambda _, a: np.tile(a[0], np.asarray(a[1]).tolist()),
}
_TABLE = STRUCTURAL | ELEMENTWISE | _OTHERS


def _window(node: ir.Node) -> slice:
    return slice(int(node.attributes.get_int("start", 0)), node.attributes.get_int("end", None))


def result_size(node: ir.Node, arrays: Arrays) -> int:
    """Elements of the result, measured without computing it, for the operators that can grow."""
    kind, first = node.op_type, arrays[0]
    sizes = [array.size for array in arrays if array is not None]
    if kind == "ConstantOfShape" and first is not None:
        return math.prod(int(extent) for extent in first.reshape(-1))
    if kind == "Expand":
        shape = tuple(int(extent) for extent in arrays[1].reshape(-1)) if arrays[1] is not None else ()
        return math.prod(shape) * max(sizes[0], 1)
    if kind == "Tile" and arrays[1] is not None:
        return sizes[0] * math.prod(int(repeat) for repeat in arrays[1].reshape(-1))
    if kind == "Gather" and first is not None and first.ndim:
        return int(sizes[0] // max(first.shape[int(node.attributes.get_int("axis", 0))], 1) * sizes[1])
    if kind == "Range":
        start, limit, delta = (float(np.asarray(array).reshape(-1)[0]) for array in arrays)
        return math.ceil(abs((limit - start) / delta)) if delta and math.isfinite((limit - start) / delta) else 2**62
    if kind in ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(array.shape for array in arrays if array is not None)))
    return sum(sizes)


def evaluate(node: ir.Node, arrays: Arrays) -> Array | None:
    """The output of a node with one output, or ``None`` when it is not computed here.

    Args:
        node: an operator of the default domain.
        arrays: its inputs; ``None`` for an absent one.
    """
    function = _TABLE.get(node.op_type)
    if function is None or not arrays or arrays[0] is None:
        return None
    broadcast = node.attributes.get_int("broadcast", 0) or ("axis" in node.attributes and node.op_type in ELEMENTWISE)
    if broadcast or any(array is not None and array.dtype.kind not in "biufO" for array in arrays):
        return None
    try:
        with np.errstate(all="ignore"):
            result = function(node, list(arrays))
    except (ValueError, IndexError, OverflowError):
        return None  # a node that cannot be computed stays, and onnxruntime says what is wrong with it
    return np.asarray(result)
