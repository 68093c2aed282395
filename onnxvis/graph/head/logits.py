"""From the output back to the logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx.onnx_pb import ModelProto, NodeProto

from onnxvis.errors import ModelError, UsageError, did_you_mean
from onnxvis.graph.head.results import Activation, Logits, LogitsKind
from onnxvis.graph.index import GraphIndex, Shapes
from onnxvis.graph.receptive import TensorField, receptive_fields

__all__ = ["find_logits"]

_SAME_VALUES = {"Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"}
_SAME_ORDER = {"Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose"}
_ACTIVATIONS: dict[str, Activation] = {
    "Softmax": "softmax",
    "LogSoftmax": "log-softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
    "QLinearSoftmax": "softmax",
    "QLinearSigmoid": "sigmoid",
}
_RANK: dict[LogitsKind, int] = {"classifier": 0, "dense": 1, "detection": 2, "unknown": 3}


@dataclass(frozen=True)
class _Squashing:
    """A final nonlinearity: its kind, what enters it, its axis, and the operators it is written with."""

    kind: Activation
    source: str
    axis: int | None
    operators: tuple[str, ...]


def find_logits(
    model: ModelProto,
    output: str | None,
    shapes: Shapes,
    *,
    fields: Mapping[str, TensorField] | None = None,
    index: GraphIndex | None = None,
) -> Logits:
    """The tensor that explanations are about: what enters the final softmax or sigmoid.

    Operators that only rename, cast or add and drop unit axes are passed on the way. A softmax written out
    as ``Exp``, ``ReduceSum`` and ``Div`` (with or without the maximum subtracted) is recognized. An
    ``ArgMax`` at the end is passed too: its input holds the scores. Where no such operator stands at the
    end, the output itself is the logits.

    Args:
        model: the graph.
        output: the graph output to explain; None chooses one: a classifier before a dense map before
            detections, then one with a softmax (boxes and embeddings have none), then the one with most classes,
            then the deepest (auxiliary heads come second). An output that another candidate is computed from,
            such as an embedding, is passed over.
        shapes: concrete shape of every tensor.
        fields: receptive fields of the same model, to save computing them.
        index: an index of the same model and shapes, to save building it.

    Raises:
        UsageError: if ``output`` is not an output of the graph.
        ModelError: if it does not depend on the picture.
    """
    index = index or GraphIndex(model, shapes)
    fields = fields if fields is not None else receptive_fields(model, shapes, index=index)
    if output is not None and output not in index.outputs:
        raise UsageError(
            f"The graph has no output {output!r}; it has {', '.join(map(repr, index.outputs))}."
            f"{did_you_mean(str(output), index.outputs)}"
        )
    candidates = [o for o in index.outputs if o in fields and o in shapes]
    if not candidates or (output is not None and output not in candidates):
        raise ModelError(
            f"Output {output or index.outputs[0]!r} does not depend on the picture, so there is nothing to "
            "explain. Name another output."
        )
    if output is not None or len(candidates) == 1:
        chosen = output or candidates[0]
        found = _from_output(index, fields, chosen)
        return replace(found, others=tuple(o for o in candidates if o != chosen))
    return _choose([_from_output(index, fields, o) for o in candidates], index)


def _choose(found: list[Logits], index: GraphIndex) -> Logits:
    """The main output of several, with the reason added."""
    above = {item.output: index.ancestors(item.tensor) for item in found}
    feeding = {a.output for a in found for b in found if a.tensor != b.tensor and a.tensor in above[b.output]}
    pool = [item for item in found if item.output not in feeding] or found

    def order(item: Logits) -> tuple[int, bool, int, int]:
        classes = index.shapes[item.tensor][item.class_axis]
        ends_in_softmax = item.activation in ("softmax", "log-softmax")
        return _RANK[item.kind], not ends_in_softmax, -classes, -len(above[item.output])

    best = min(pool, key=order)
    why = "the only one that no other output is computed from"
    if len(pool) > 1:
        rivals = [order(item) for item in pool if item is not best]
        reasons = (f"the only {best.kind} output", "the only one with a softmax", "the one with most classes")
        why = next(
            (why for n, why in enumerate(reasons, 1) if all(r[:n] > order(best)[:n] for r in rivals)), "the deepest"
        )
    others = tuple(item.output for item in found if item is not best)
    reason = f"{best.reason}; of {len(found)} outputs it is {why} (also there: {', '.join(map(repr, others))})"
    return replace(best, reason=reason, others=others)


def _from_output(index: GraphIndex, fields: Mapping[str, TensorField], output: str) -> Logits:
    suppressed = _before_suppression(index, output)
    if suppressed is not None:
        return suppressed
    tensor, activation, skipped, axis = _peel(index, output)
    shape = index.shapes[tensor]
    kind, class_axis, spatial, what = _describe(shape, fields[tensor], axis)
    dims = "×".join(map(str, shape))
    if activation is None and tensor == output:
        reason = f"output {output!r} ({dims}) ends in no softmax or sigmoid, so it is explained as it is"
    elif activation is None:
        reason = f"{tensor!r} ({dims}) enters the final ArgMax of output {output!r}"
    else:
        reason = f"{tensor!r} ({dims}) enters the final {activation} of output {output!r}"
    return Logits(tensor, output, activation, skipped, f"{reason}; {what}", class_axis, kind, spatial)


def _before_suppression(index: GraphIndex, output: str) -> Logits | None:
    """The scores that enter a NonMaxSuppression on the way to the output: what it selects has no derivative."""
    behind = index.ancestors(output) | {output}
    makers = (index.producer(tensor) for tensor in behind)
    node = next((m for m in makers if m is not None and m.op_type == "NonMaxSuppression"), None)
    if node is None or node.input[1] not in index.shapes:
        return None
    scores = node.input[1]
    classes = index.shapes[scores][1]
    tensor, activation, skipped, _ = _peel(index, scores)
    shape = index.shapes[tensor]
    axis = next((a for a in range(1, len(shape)) if shape[a] == classes), None)
    if axis is None:
        tensor, activation, skipped, shape, axis = scores, None, (), index.shapes[scores], 1
    rest = shape[2 if axis == 1 else 1]
    reason = (
        f"{tensor!r} ({'×'.join(map(str, shape))}) holds the scores that enter NonMaxSuppression "
        f"{index.label(node)!r}, cut before it because selecting boxes has no derivative; "
        f"{rest} boxes of {classes} classes"
    )
    return Logits(tensor, output, activation, (*skipped, "NonMaxSuppression"), reason, axis, "detection")


def _peel(index: GraphIndex, output: str) -> tuple[str, Activation | None, tuple[str, ...], int | None]:
    """Walk back to what enters the activation; stay at the output where there is none."""
    tensor, path = output, list[str]()
    found = output, 0
    while (node := index.producer(tensor)) is not None:
        squashing = _squashing(index, node)
        if squashing is not None:
            path += squashing.operators
            source, more = _in_the_outputs_shape(index, squashing.source, index.shapes.get(output))
            return source, squashing.kind, (*path, *more), squashing.axis
        data = index.data_inputs(node)
        if len(data) != 1 or not (_keeps_values(index, node) or node.op_type == "ArgMax"):
            break
        path.append(node.op_type)
        tensor = data[0]
        if node.op_type == "ArgMax":
            found = tensor, len(path)
    return found[0], None, tuple(path[: found[1]]), None


def _in_the_outputs_shape(index: GraphIndex, tensor: str, shape: tuple[int, ...] | None) -> tuple[str, tuple[str, ...]]:
    """Step back over a flattening that was put in only for a softmax of one axis and is undone after it."""
    node = index.producer(tensor)
    if node is not None and node.op_type in _SAME_ORDER and _keeps_values(index, node):
        before = node.input[0]
        if index.shapes.get(before) == shape and before in index.data_inputs(node):
            return before, (node.op_type,)
    return tensor, ()


def _keeps_values(index: GraphIndex, node: NodeProto) -> bool:
    if node.op_type == "Cast":
        # A cast of class indices is passed as well: the ArgMax behind it decides.
        return True
    if node.op_type in _SAME_ORDER:
        before, after = ([n for n in index.shapes.get(t, ()) if n != 1] for t in (node.input[0], node.output[0]))
        return before == after
    return node.op_type in _SAME_VALUES


def _squashing(index: GraphIndex, node: NodeProto) -> _Squashing | None:
    """The softmax or sigmoid that ends in ``node``, whole or written out."""
    attrs = index.attrs(node)
    if node.op_type in _ACTIVATIONS:
        axis = None if "igmoid" in node.op_type else attrs.get("axis", -1)
        return _Squashing(_ACTIVATIONS[node.op_type], node.input[0], axis, (node.op_type,))
    if node.op_type == "Div":
        return _written_softmax(index, node)
    if node.op_type == "Log":
        inner = index.producer(node.input[0])
        found = _squashing(index, inner) if inner is not None else None
        if found is not None and found.kind == "softmax":
            return _Squashing("log-softmax", found.source, found.axis, ("Log", *found.operators))
    if node.op_type == "Sub":
        return _written_log_softmax(index, node)
    return None


def _written_softmax(index: GraphIndex, node: NodeProto) -> _Squashing | None:
    """``Exp(z) / ReduceSum(Exp(z))``."""
    exp, total = index.producer(node.input[0]), index.producer(node.input[1])
    if exp is None or total is None or exp.op_type != "Exp" or total.op_type != "ReduceSum":
        return None
    if total.input[0] != node.input[0]:
        return None
    source, more = _without_maximum(index, exp.input[0])
    return _Squashing("softmax", source, _reduced_axis(index, total), ("Div", "ReduceSum", "Exp", *more))


def _written_log_softmax(index: GraphIndex, node: NodeProto) -> _Squashing | None:
    """``z - Log(ReduceSum(Exp(z)))`` or ``z - ReduceLogSumExp(z)``."""
    log = index.producer(node.input[1])
    if log is None:
        return None
    if log.op_type == "ReduceLogSumExp" and log.input[0] == node.input[0]:
        return _Squashing("log-softmax", node.input[0], _reduced_axis(index, log), ("Sub", "ReduceLogSumExp"))
    total = index.producer(log.input[0]) if log.op_type == "Log" else None
    exp = index.producer(total.input[0]) if total is not None and total.op_type == "ReduceSum" else None
    if total is None or exp is None or exp.op_type != "Exp" or exp.input[0] != node.input[0]:
        return None
    source, more = _without_maximum(index, node.input[0])
    operators = ("Sub", "Log", "ReduceSum", "Exp", *more)
    return _Squashing("log-softmax", source, _reduced_axis(index, total), operators)


def _without_maximum(index: GraphIndex, tensor: str) -> tuple[str, tuple[str, ...]]:
    """``x`` of ``z = x - ReduceMax(x)``, which exporters add for numerical safety."""
    shift = index.producer(tensor)
    if shift is not None and shift.op_type == "Sub":
        top = index.producer(shift.input[1])
        if top is not None and top.op_type == "ReduceMax" and top.input[0] == shift.input[0]:
            return shift.input[0], ("Sub", "ReduceMax")
    return tensor, ()


def _reduced_axis(index: GraphIndex, node: NodeProto) -> int | None:
    axes = index.attrs(node).get("axes")
    if axes is None and len(node.input) > 1:
        value = index.constant(node.input[1])
        axes = None if value is None else value.reshape(-1).tolist()
    return int(axes[0]) if axes else None


def _describe(
    shape: tuple[int, ...], field: TensorField, softmax_axis: int | None
) -> tuple[LogitsKind, int, tuple[int, int] | None, str]:
    """Kind, class axis, spatial axes and a phrase, from the shape and what is known of positions."""
    rank = len(shape)
    spatial = field.spatial_axes
    if spatial is not None and shape[spatial[0]] * shape[spatial[1]] > 1:
        rest = [a for a in range(rank) if a not in spatial]
        axis = rest[-1] if rest else 0
        return "dense", axis, spatial, f"it holds {shape[axis]} scores at each position of a map"
    long = [a for a in range(1, rank) if shape[a] > 1]
    if rank == 1 or len(long) <= 1:
        axis = 0 if rank == 1 else (long or [1])[0]
        return "classifier", axis, None, f"it holds one score for each of {shape[axis]} classes"
    if softmax_axis is not None:
        axis = softmax_axis % rank
        return "dense", axis, None, f"it holds {shape[axis]} scores at each step of a sequence"
    positions = [f.axis for f in (field.rows, field.cols) if f is not None and shape[f.axis] > 1]
    if len(long) == 2 and len(positions) == 1:
        axis = next(a for a in long if a not in positions)
        return "dense", axis, None, f"it holds {shape[axis]} scores at each step of a sequence"
    if rank == 3:
        axis = min(long, key=lambda a: shape[a])
        rows = shape[next(a for a in long if a != axis)] if len(long) > 1 else 1
        return "detection", axis, None, f"it looks like {rows} detections of {shape[axis]} numbers each"
    if rank == 5:
        return "detection", rank - 1, None, f"it looks like anchors on a grid, {shape[-1]} numbers each"
    return "unknown", 1, None, "its axes could not be told apart"
