"""Pictures that are no pictures: inputs for trying and timing a model where none is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxvis.preprocessing import Prepared

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["smooth_noise"]

_CELL = 8


def smooth_noise(model: Model, seed: int = 0) -> Prepared:
    """Blocks of normal noise of about unit size, or around 128 for whole-number inputs, in the model's input shape."""
    rng = np.random.default_rng(seed)
    shape = model.one_image_shape()
    axes = [len(shape) - 2, len(shape) - 1] if model.layout == "NCHW" else [len(shape) - 3, len(shape) - 2]
    values = rng.standard_normal([-(-n // _CELL) if i in axes else n for i, n in enumerate(shape)])
    for axis in axes:
        values = np.repeat(values, _CELL, axis=axis)
    values = values[tuple(slice(0, n) for n in shape)]
    dtype = np.dtype(model.image_input.dtype)
    if dtype.kind in "ui":
        values = np.clip(np.rint(values * 50 + 128), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return Prepared.from_array(values.astype(dtype), model.image_input.shape, dtype, model.layout)
