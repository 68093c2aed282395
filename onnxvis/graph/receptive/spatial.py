"""Rules of the operators that compute along the image's axes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from onnxvis.graph.receptive.field import ReceptiveField, Window, spread
from onnxvis.graph.receptive.state import State, Step
from onnxvis.graph.receptive.windows import (
    Kernel,
    conv_window,
    merge_window,
    pad_window,
    pick_window,
    resize_window,
    split_window,
    transposed_window,
    whole_window,
)

__all__ = [
    "convolution",
    "depth_to_space",
    "gather",
    "global_pool",
    "pad",
    "reduction",
    "resize",
    "slicing",
    "space_to_depth",
    "split",
    "tile",
    "transposed_convolution",
]

_MIXES = "mixes the positions as channels"


def convolution(step: Step) -> State:
    """``Conv`` and local pooling, with each side's pads, dilation and ``auto_pad``."""
    attrs, before, after = step.attrs, step.before, step.after
    begin = 1 if attrs.get("channels_last", 0) else 2
    windows = {}
    for q, kernel in enumerate(_kernels(step)):
        extent = before[begin + q], after[begin + q]
        padded = kernel.padded(attrs.get("pads"), q, attrs.get("auto_pad", "NOTSET"), extent)
        windows[begin + q] = conv_window(*extent, padded)
    state = step.state.through(windows)
    if step.node.op_type.endswith("Pool"):
        return state
    return state.without({len(before) - 1 if begin == 1 else 1}, f"{step.label} {_MIXES}")


def _kernels(step: Step) -> list[Kernel]:
    attrs = step.attrs
    sizes = attrs.get("kernel_shape")
    if sizes is None:
        name = step.node.input[3 if step.node.op_type == "QLinearConv" else 1]
        sizes = (step.index.constant_shape(name) or step.index.shapes[name])[2:]
    ones = [1] * len(sizes)
    strides, dilations = attrs.get("strides", ones), attrs.get("dilations", ones)
    return [Kernel(k, s, d) for k, s, d in zip(sizes, strides, dilations, strict=True)]


def transposed_convolution(step: Step) -> State:
    """``ConvTranspose``: the hull over the output phases."""
    attrs, before, after = step.attrs, step.before, step.after
    auto, pads = attrs.get("auto_pad", "NOTSET"), attrs.get("pads")
    windows = {}
    for q, kernel in enumerate(_kernels(step)):
        n_in, n_out = before[2 + q], after[2 + q]
        pad = 0 if pads is None else pads[q]
        if auto.startswith("SAME") or "output_shape" in attrs:
            extra = attrs["output_padding"][q] if "output_padding" in attrs else 0
            total = max(kernel.stride * (n_in - 1) + extra + kernel.reach + 1 - n_out, 0)
            pad = total // 2 if auto == "SAME_UPPER" else total - total // 2
        windows[2 + q] = transposed_window(n_in, n_out, kernel._replace(pad=pad))
    return step.state.through(windows).without({1}, f"{step.label} {_MIXES}")


def global_pool(step: Step) -> State:
    """Pooling over the whole map; the one unit that is left sees what all units saw."""
    begin = 1 if step.attrs.get("channels_last", 0) else 2
    state = step.state
    return state.through({a: whole_window(step.before[a]) for a in state.axes if a >= begin})


def reduction(step: Step) -> State:
    """``Reduce*`` and ``ArgMax``/``ArgMin``: a reduced axis becomes one unit, or goes."""
    rank, state = len(step.before), step.state
    if step.node.op_type in ("ArgMax", "ArgMin"):
        given: list[int] | None = [step.attrs.get("axis", 0)]
    else:
        given = step.ints(1, "axes")
    if not given:
        given = [] if step.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    axes = {a % rank for a in given}
    pooled = state.through({a: whole_window(step.before[a]) for a in axes})
    if step.attrs.get("keepdims", 1):
        return pooled
    places = {a: a - sum(r < a for r in axes) for a in range(rank) if a not in axes}
    return pooled.moved(places, f"{step.label} pools over the whole axis")


def pad(step: Step) -> State:
    """``Pad`` on either side."""
    rank, state = len(step.before), step.state
    amounts, axes = step.ints(1, "pads"), step.ints(3, "axes") if step.has(3) else list(range(rank))
    mode = step.attrs.get("mode", "constant")
    windows = {}
    for axis in state.axes:
        n_in, n_out = step.before[axis], step.after[axis]
        if amounts is None or axes is None:
            if n_in != n_out:
                return state.without({axis}, f"{step.label} pads by amounts known only at run time")
            continue
        begins = {a % rank: amounts[i] for i, a in enumerate(axes)}
        if axis in begins:
            windows[axis] = pad_window(n_in, n_out, begins[axis], mode)
    return state.through(windows)


def slicing(step: Step) -> State:
    """``Slice`` with steps, forwards or backwards."""
    rank, state = len(step.before), step.state
    starts, ends = step.ints(1, "starts"), step.ints(2, "ends")
    if starts is None or ends is None:
        changed = {a for a in state.axes if step.before[a] != step.after[a]}
        return state.without(changed, f"{step.label} cuts at positions known only at run time")
    axes = step.ints(3, "axes") or list(range(len(starts)))
    steps = step.ints(4, "steps") or [1] * len(starts)
    windows = {}
    for begin, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        n_in = step.before[axis % rank]
        stop = None if stride < 0 and end < -n_in else end
        indices = np.arange(n_in, dtype=np.int64)[slice(begin, stop, stride)]
        windows[axis % rank] = pick_window(indices, stride)
    return state.through(windows)


def gather(step: Step) -> State:
    """``Gather`` with constant indices."""
    rank, state = len(step.before), step.state
    axis = step.attrs.get("axis", 0) % rank
    indices = step.index.constant(step.node.input[1])
    if indices is None or step.node.input[0] not in step.states:
        return state.without(set(state.axes), f"{step.label} picks positions known only at run time")
    if indices.ndim == 1:
        wrapped = np.where(indices < 0, indices + step.before[axis], indices).astype(np.int64)
        return state.through({axis: pick_window(wrapped)})
    places = {a: a + (indices.ndim - 1 if a > axis else 0) for a in range(rank) if a != axis}
    return state.moved(places, f"{step.label} takes single positions out of the axis")


def split(step: Step) -> list[State]:
    """``Split``: one state for each output."""
    axis = step.attrs.get("axis", 0) % len(step.before)
    states, begin = [], 0
    for name in step.node.output:
        size = step.index.shapes[name][axis]
        indices = np.arange(begin, begin + size, dtype=np.int64)
        states.append(step.state.through({axis: pick_window(indices, 1)}))
        begin += size
    return states


def resize(step: Step) -> State:
    """``Resize`` and ``Upsample``: a hull over phases; stretching one value is a global path."""
    before, after, attrs = step.before, step.after, step.attrs
    if step.opset < 11 or step.node.op_type == "Upsample":
        attrs = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **attrs}
    scales = _scales(step)
    axes: dict[int, ReceptiveField] = {}
    for axis, field in step.state.axes.items():
        n_in, n_out = before[axis], after[axis]
        if n_in == n_out:
            axes[axis] = field
        elif n_in == 1:
            axes[axis] = spread(field, axis, n_out)
        else:
            factor = None if scales is None else scales.get(axis)
            axes[axis] = resize_window(n_in, n_out, factor, attrs)(field)
    return replace(step.state, axes=axes)


def _scales(step: Step) -> dict[int, float] | None:
    """The factors a file gives; None where it gives sizes."""
    position = 1 if step.opset < 11 or step.node.op_type == "Upsample" else 2
    if step.has(position):
        value = step.index.constant(step.node.input[position])
        given = None if value is None else [float(v) for v in value.reshape(-1)]
    else:
        given = step.attrs.get("scales")
    if not given:
        return None
    axes = step.attrs.get("axes", list(range(len(step.before))))
    return {a % len(step.before): s for a, s in zip(axes, given, strict=True)}


def depth_to_space(step: Step) -> State:
    """``DepthToSpace``: each position becomes a block of positions."""
    block = step.attrs["blocksize"]
    return step.state.through({a: merge_window(step.after[a], block) for a in step.state.axes if a >= 2})


def space_to_depth(step: Step) -> State:
    """``SpaceToDepth``: each block becomes one position; the field is the union over the new channels."""
    block = step.attrs["blocksize"]
    return step.state.through({a: split_window(step.before[a], block) for a in step.state.axes if a >= 2})


def tile(step: Step) -> State:
    """``Tile``: repeated positions; of a single one, a global path."""
    axes: dict[int, ReceptiveField] = {}
    for axis, field in step.state.axes.items():
        n_in, n_out = step.before[axis], step.after[axis]
        if n_in == 1 and n_out > 1:
            axes[axis] = spread(field, axis, n_out)
        else:
            index = np.arange(n_out, dtype=np.int64) % n_in
            same = n_in == n_out
            window = pick_window(index, 1) if same else Window.fit(Fraction(1), index[:, None])
            axes[axis] = window(field)
    return replace(step.state, axes=axes)
