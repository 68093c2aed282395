"""One image's values in the order that people and methods count in: channels, rows, columns."""

from __future__ import annotations

import numpy as np

__all__ = ["as_float", "channels_first", "in_layout"]


def as_float(x: np.ndarray) -> np.ndarray:
    """The input as float32 (float64 stays), whatever the file's own type: integers have no derivative."""
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def channels_first(values: np.ndarray, layout: str) -> np.ndarray:
    """One image's values as ``(C, H, W)``; a map without channels gets one."""
    if values.ndim == 2:
        return values[None]
    return values if layout == "NCHW" else np.moveaxis(values, -1, 0)


def in_layout(values: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of :func:`channels_first`: ``(C, H, W)`` values in a model's own order and ``shape``."""
    return (values if layout == "NCHW" else np.moveaxis(values, 0, -1)).reshape(shape)
