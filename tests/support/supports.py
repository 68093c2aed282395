"""The pixels that each unit of a graph really depends on, found by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from support.shapes import run_all

__all__ = ["pixel_supports"]


def pixel_supports(
    model: onnx.ModelProto, height: int, width: int, *, layout: str = "NCHW", tolerance: float = 0.0
) -> dict[str, np.ndarray[Any, Any]]:
    """For every tensor with the batch first: ``(height * width, *rest)``, True where a pixel reaches a unit.

    Every pixel alone is lit in a batch of black pictures, and what differs from the black picture's answer
    depends on it (by more than ``tolerance`` of the largest difference). Exact for graphs of one input
    channel with positive weights, where nothing cancels.
    """
    pictures = np.zeros((height * width + 1, 1, height, width), np.float32)
    lit = np.arange(height * width)
    pictures[lit, :, lit // width, lit % width] = 1.0
    if layout == "NHWC":
        pictures = pictures.transpose(0, 2, 3, 1)
    values = run_all(model, {model.graph.input[0].name: np.ascontiguousarray(pictures)})
    batched = {n: v for n, v in values.items() if np.ndim(v) and len(v) == len(pictures)}
    changes = {name: np.abs(value[:-1] - value[-1:]) for name, value in batched.items()}
    return {name: change > tolerance * change.max(initial=0) for name, change in changes.items()}
