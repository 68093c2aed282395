"""Convolutions by their input.

The gradient of a convolution by its input is a transposed convolution with the same weight. With stride 1 it is
also a convolution with the kernel turned around, which onnxruntime runs faster where the kernel is depthwise, or
dense with enough channels; otherwise ConvTranspose shares the stored weight.
"""

from __future__ import annotations

from onnxvis.graph.gradient.table import Call, Found, rule
from onnxvis.graph.gradient.tensor import Tensor
from onnxvis.graph.gradient.windows import Windows, windows_of

__all__: list[str] = []

_DENSE_FROM = 8
"""Channels of the input from which the turned kernel is faster (measured on one CPU thread)."""


def _kernel(n: Call) -> tuple[int, ...]:
    dims = n.input(1).static
    if dims is None:
        raise n.refuse("the shape of its weight is not known before it runs")
    return dims


def _bias_gradient(n: Call) -> Tensor | None:
    if not n.has(2) or not n.active[2]:
        return None
    return n.g.sum([axis for axis in range(n.rank()) if axis != 1], keepdims=False)


@rule("Conv")
def _conv(n: Call) -> Found:
    shape, groups = _kernel(n), int(n.attr("group", 1))
    windows = windows_of(n, shape[2:])
    by_input = _turned(n, windows, groups) if _prefers_turned(windows, shape, groups) else None
    if by_input is None:
        by_input = _transposed(n, windows, groups)
    return (by_input, None, _bias_gradient(n))


def _prefers_turned(windows: Windows, shape: tuple[int, ...], groups: int) -> bool:
    fits = all(r >= max(b, a) for r, b, a in zip(windows.reach, windows.before, windows.after, strict=True))
    depthwise = shape[1] == 1 and shape[0] == groups
    return windows.unit_stride and fits and (depthwise or (groups == 1 and shape[1] >= _DENSE_FROM))


def _turned(n: Call, windows: Windows, groups: int) -> Tensor:
    tape, weight, axes = n.tape, n.input(1), len(windows.kernel)
    flipped = [axis + 2 for axis in range(axes) if windows.kernel[axis] > 1]
    if flipped:
        back, lowest = [-1] * len(flipped), [-(2**31)] * len(flipped)
        weight = weight.op(
            "Slice", tape.integers(*back), tape.integers(*lowest), tape.integers(*flipped), tape.integers(*back)
        )
    if groups == 1:
        weight = weight.op("Transpose", perm=[1, 0, *range(2, axes + 2)])
    pads = [r - b for r, b in zip(windows.reach, windows.before, strict=True)]
    pads += [r - a for r, a in zip(windows.reach, windows.after, strict=True)]
    return n.g.op("Conv", weight, group=groups, dilations=windows.dilations, pads=pads, kernel_shape=windows.kernel)


def _transposed(n: Call, windows: Windows, groups: int) -> Tensor:
    """ConvTranspose. What the strides leave over at the end is known, or cropped to while the graph runs."""
    axes = range(len(windows.kernel))
    common = {"group": groups, "strides": windows.strides, "dilations": windows.dilations}
    sizes = [(n.x.extent(a + 2), n.y.extent(a + 2)) for a in axes]
    if all(x is not None and y is not None for x, y in sizes):
        rest = []
        for a, (x, y) in zip(axes, sizes, strict=True):
            reached = windows.strides[a] * ((y or 0) - 1) + windows.reach[a] + 1 - windows.before[a] - windows.after[a]
            rest.append((x or 0) - reached)
        if all(0 <= r < s for r, s in zip(rest, windows.strides, strict=True)):
            pads, over = [*windows.before, *windows.after], rest if any(rest) else None
            return n.g.op(
                "ConvTranspose", n.input(1), pads=pads, output_padding=over, kernel_shape=windows.kernel, **common
            )
    pads = [*windows.before, *([0] * len(axes))]
    uncropped = n.g.op("ConvTranspose", n.input(1), pads=pads, kernel_shape=windows.kernel, **common)
    ends = n.x.shape - n.tape.op("Shape", uncropped)
    return uncropped.op("Pad", n.tape.op("Concat", n.tape.integers(*[0] * n.rank()), ends, axis=0))


@rule("ConvTranspose")
def _conv_transpose(n: Call) -> Found:
    kernel = _kernel(n)[2:]
    strides = list(n.attr("strides") or [1] * len(kernel))
    dilations = list(n.attr("dilations") or [1] * len(kernel))
    over = list(n.attr("output_padding") or [0] * len(kernel))
    if any(o >= s for o, s in zip(over, strides, strict=True)):
        raise n.refuse("its output_padding is not below its stride")
    pads = list(n.attr("pads") or [0] * 2 * len(kernel))
    if n.attr("output_shape") is not None or n.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        pads = _output_pads(n, kernel, strides, dilations, over)
    by_input = n.g.op(
        "Conv",
        n.input(1),
        group=int(n.attr("group", 1)),
        strides=strides,
        dilations=dilations,
        pads=pads,
        kernel_shape=kernel,
    )
    return (by_input, None, _bias_gradient(n))


def _output_pads(
    n: Call, kernel: tuple[int, ...], strides: list[int], dilations: list[int], over: list[int]
) -> list[int]:
    """The padding that leads to the stated output size, split as the standard says."""
    upper = n.attr("auto_pad", "NOTSET") == "SAME_UPPER"
    before, after = [], []
    for axis, size in enumerate(kernel):
        x, y = n.x.extent(axis + 2), n.y.extent(axis + 2)
        if x is None or y is None:
            raise n.refuse("its padding follows from an output size that is free in this graph")
        total = max(0, strides[axis] * (x - 1) + over[axis] + dilations[axis] * (size - 1) + 1 - y)
        before.append(total // 2 if upper else total - total // 2)
        after.append(total - before[-1])
    return [*before, *after]
