"""Rules of the operators that move axes about, join branches or mix positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxvis.graph.receptive.field import NOTHING, ImageAxis, ReceptiveField, fitted, hull, spread
from onnxvis.graph.receptive.state import State, Step
from onnxvis.graph.receptive.windows import merge_window, split_window

__all__ = [
    "concat",
    "elementwise",
    "gemm",
    "lost",
    "matmul",
    "normalization",
    "reshape",
    "softmax",
    "squeeze",
    "transpose",
    "unsqueeze",
]


def transpose(step: Step) -> State:
    """Axes follow the permutation."""
    perm = step.attrs.get("perm") or list(range(len(step.before)))[::-1]
    return step.state.moved({axis: place for place, axis in enumerate(perm)}, "")


def squeeze(step: Step) -> State:
    """Dropped unit axes."""
    rank = len(step.before)
    given = step.ints(1, "axes")
    gone = {a % rank for a in given} if given else {a for a, n in enumerate(step.before) if n == 1}
    places = {a: a - sum(g < a for g in gone) for a in range(rank) if a not in gone}
    return step.state.moved(places, f"{step.label} drops the axis")


def unsqueeze(step: Step) -> State:
    """New unit axes."""
    rank = len(step.after)
    new = {a % rank for a in step.ints(1, "axes") or []}
    old = [a for a in range(rank) if a not in new]
    return step.state.moved(dict(enumerate(old)), "")


def reshape(step: Step) -> State:
    """``Reshape``/``Flatten``: axes whose neighbors do not run into them are kept.

    Both shapes are cut into the smallest groups of equal product. An axis alone in its group is kept; one
    that is split keeps its outer part (blocks), one that is merged as the outer part keeps its position
    repeated (both occur in space-to-depth and pixel shuffle written with reshapes); rows merged with
    columns are lost.
    """
    before, after, state = step.before, step.after, step.state
    places = _unit_places(before, after)
    windows = {}
    for old, new in _groups(before, after):
        tracked = [a for a in old if a in state.axes]
        if len(old) == len(new) == 1:
            places[old[0]] = new[0]
        elif len(tracked) == 1 and tracked[0] == old[0] and 1 in (len(old), len(new)):
            places[old[0]] = new[0]
            if len(old) == 1:
                windows[old[0]] = split_window(before[old[0]], before[old[0]] // after[new[0]])
            else:
                windows[old[0]] = merge_window(after[new[0]], after[new[0]] // before[old[0]])
    gone = [a for a in state.axes if a not in places]
    does = f"merges positions ({'×'.join(map(str, before))} to {'×'.join(map(str, after))})"
    if all(before[a] == 1 for a in gone):
        does = "drops an axis of one unit"
    return state.through(windows).moved(places, f"{step.label} {does}")


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Axes longer than 1 in smallest groups of equal product."""
    old = [a for a, n in enumerate(before) if n != 1]
    new = [a for a, n in enumerate(after) if n != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while old and new:
        a, b = [old.pop(0)], [new.pop(0)]
        p, q = before[a[0]], after[b[0]]
        while p != q and (old if p < q else new):
            if p < q:
                a.append(old.pop(0))
                p *= before[a[-1]]
            else:
                b.append(new.pop(0))
                q *= after[b[-1]]
        groups.append((a, b))
    return groups


def _unit_places(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Where axes of length 1 go: in order, between the same longer neighbors."""
    places: dict[int, int] = {}
    slots: dict[int, list[int]] = {}
    for axis, n in enumerate(after):
        if n == 1:
            slots.setdefault(sum(m != 1 for m in after[:axis]), []).append(axis)
    for axis, n in enumerate(before):
        free = slots.get(sum(m != 1 for m in before[:axis]), []) if n == 1 else []
        if free:
            places[axis] = free.pop(0)
    return places


def elementwise(step: Step) -> State:
    """Branches that meet by broadcasting: the hull, with stretched single values as a side path."""
    return join(step, [step.states[t] for t in step.tracked], [step.index.shapes[t] for t in step.tracked])


def join(step: Step, states: list[State], shapes: list[tuple[int, ...]]) -> State:
    """The union of states aligned at their last axes with the first output."""
    after = step.after
    arrivals: dict[int, list[ReceptiveField]] = {}
    for state, shape in zip(states, shapes, strict=True):
        shift = len(after) - len(shape)
        for axis, field in state.axes.items():
            place = axis + shift
            stretched = shape[axis] == 1 and after[place] > 1
            moved = spread(field, place, after[place]) if stretched else replace(field, axis=place)
            arrivals.setdefault(place, []).append(moved)
    return _joined(step, states, {axis: _meet(fields) for axis, fields in arrivals.items()})


def _meet(fields: list[ReceptiveField]) -> tuple[ReceptiveField | None, bool]:
    """The hull of local fields, and whether global ones were left out; None where axes disagree."""
    local = [f for f in fields if not f.spread]
    chosen = local or fields
    if len({f.image_axis for f in chosen}) > 1:
        return None, True
    return hull(chosen), bool(local) and len(local) < len(fields)


def _joined(step: Step, states: list[State], met: dict[int, tuple[ReceptiveField | None, bool]]) -> State:
    axes = {axis: field for axis, (field, _) in met.items() if field is not None}
    kept: set[ImageAxis] = {f.image_axis for f in axes.values()}
    reasons = {a: r for state in states for a, r in state.lost.items()}
    if any(field is None for field, _ in met.values()):
        crossed = f"{step.label} combines rows with columns"
        reasons = {f.image_axis: crossed for s in states for f in s.axes.values()} | reasons
    side = any(s.side for s in states) or any(flag for _, flag in met.values())
    side = side or any(a in kept for a in reasons)
    return State(axes, {a: r for a, r in reasons.items() if a not in kept}).flagged(side)


def concat(step: Step) -> State:
    """Channels side by side are a hull; positions side by side follow one another."""
    along = step.attrs["axis"] % len(step.after)
    names = step.tracked
    states = [step.states[t] for t in names]
    if not any(along in s.axes for s in states):
        return elementwise(step)
    rest = [replace(s, axes={a: f for a, f in s.axes.items() if a != along}) for s in states]
    joined = join(step, rest, [step.index.shapes[t] for t in names])
    support = np.empty((step.after[along], 2), np.int64)
    support[:] = NOTHING
    parts: list[tuple[ReceptiveField, int]] = []
    offset = 0
    for name in step.node.input:
        size = (step.index.constant_shape(name) or step.index.shapes[name])[along]
        field = step.states[name].axes.get(along) if name in step.states else None
        if field is not None:
            parts.append((field, offset))
            support[offset : offset + size] = field.support
        offset += size
    if len({f.image_axis for f, _ in parts}) > 1:
        return joined
    return replace(joined, axes={**joined.axes, along: replace(fitted(parts, support), spread=False)})


def softmax(step: Step) -> State:
    """Elementwise, but normalized over positions it is a global side path."""
    rank, state = len(step.before), elementwise(step)
    axis = step.attrs.get("axis", -1 if step.opset >= 13 else 1) % rank
    mixed = range(axis, rank) if step.opset < 13 else range(axis, axis + 1)
    return state.flagged(any(a in state.axes and step.after[a] > 1 for a in mixed))


def normalization(step: Step) -> State:
    """Statistics over the map (instance, group, layer normalization): local values, a global side path."""
    rank, state = len(step.before), elementwise(step)
    over = {
        "LayerNormalization": range(step.attrs.get("axis", -1) % rank, rank),
        "RMSNormalization": range(step.attrs.get("axis", -1) % rank, rank),
        "SimplifiedLayerNormalization": range(step.attrs.get("axis", -1) % rank, rank),
        "SkipLayerNormalization": range(rank - 1, rank),
        "MeanVarianceNormalization": step.attrs.get("axes", [0, 2, 3]),
        "LpNormalization": [step.attrs.get("axis", -1) % rank],
        "CumSum": range(rank),
    }.get(step.node.op_type, range(2, rank))
    return state.flagged(any(a in state.axes and step.after[a] > 1 for a in over))


def gemm(step: Step) -> State:
    """``Gemm``: the summed axis goes."""
    summed = 0 if step.attrs.get("transA", 0) else 1
    return step.state.moved({1 - summed: 0}, f"{step.label} sums over the positions")


def matmul(step: Step) -> State:
    """``MatMul`` of two tensors or of one and a weight."""
    rank, reason = len(step.after), f"{step.label} sums over the positions"
    moved: list[State] = []
    for name in step.tracked:
        own = len(step.index.shapes[name])
        left = name == step.node.input[0]
        summed = own - 1 if left or own == 1 else own - 2
        places = {a: a + rank - own for a in range(own) if a != summed and own > 1}
        moved.append(step.states[name].moved(places, reason))
    return join(step, moved, [step.after] * len(moved))


def lost(step: Step, reason: str) -> State:
    """A node after which no position is known."""
    gone: dict[ImageAxis, str] = {}
    for name in step.index.reads(step.node):
        state = step.states.get(name)
        if state is not None:
            gone |= {f.image_axis: reason for f in state.axes.values()}
            gone |= {a: r for a, r in state.lost.items() if a not in gone}
    return State({}, gone)
