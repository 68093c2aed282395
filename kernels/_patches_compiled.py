"""The compiled body of :func:`onnxvis.kernels.patches.cut_patches`; importing it imports numba."""

from __future__ import annotations

from typing import Any

from onnxvis.kernels._jit import jit

__all__ = ["cut_boxes"]


def _cut_boxes(picture: Any, boxes: Any, patches: Any, inside: Any, start: int, stop: int) -> None:
    height, width, channels = picture.shape
    for n in range(start, stop):
        y0 = boxes[n, 0]
        x0 = boxes[n, 2]
        first = max(x0, 0)
        last = min(boxes[n, 3], width)
        for y in range(max(y0, 0), min(boxes[n, 1], height)):
            for x in range(first, last):
                inside[n, y - y0, x - x0] = True
                for c in range(channels):
                    patches[n, y - y0, x - x0, c] = picture[y, x, c]


cut_boxes: Any = jit(_cut_boxes)
