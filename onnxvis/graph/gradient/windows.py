"""Geometry that convolutions and pools share: kernel, strides, dilations and explicit padding of a node."""

from __future__ import annotations

from dataclasses import dataclass

from onnxvis.graph.gradient.table import Call

__all__ = ["Windows", "windows_of"]


@dataclass(frozen=True)
class Windows:
    """Per spatial axis: kernel, stride, dilation, padding before and after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How far a window extends beyond its first place."""
        return tuple(d * (k - 1) for d, k in zip(self.dilations, self.kernel, strict=True))

    @property
    def unit_stride(self) -> bool:
        """Whether windows move one place at a time."""
        return all(s == 1 for s in self.strides)


def windows_of(n: Call, kernel: tuple[int, ...]) -> Windows:
    """The geometry of a Conv, with ``auto_pad`` written out.

    Raises:
        ConversionError: the padding depends on a size that is known only while the graph runs.
    """
    axes = len(kernel)
    strides = tuple(n.attr("strides") or [1] * axes)
    dilations = tuple(n.attr("dilations") or [1] * axes)
    pads = tuple(n.attr("pads") or [0] * 2 * axes)
    before, after = pads[:axes], pads[axes:]
    mode = n.attr("auto_pad", "NOTSET")
    if mode == "VALID":
        before = after = (0,) * axes
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        total = []
        for axis in range(axes):
            reach, size = dilations[axis] * (kernel[axis] - 1), n.x.extent(axis + 2)
            if strides[axis] == 1:
                total.append(reach)
            elif size is None:
                raise n.refuse(f"auto_pad={mode} with a stride needs the input's size, which is free in this graph")
            else:
                steps = -(-size // strides[axis]) - 1
                total.append(max(0, steps * strides[axis] + reach + 1 - size))
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Windows(kernel, strides, dilations, before, after)
