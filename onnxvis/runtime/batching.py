"""Running several images at once on a graph that may have been exported for one.

Whatever the file says, a batch is believed only after it has given the same answers as the images one
by one: a graph with a baked Reshape can run on a batch without an error and return garbage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from onnxvis.errors import OnnxvisError

__all__ = ["BatchPlan", "free_batch", "verify_batch"]

_TOLERANCE = 1e-4
_IMAGES = 3


@dataclass(frozen=True)
class BatchPlan:
    """How batches run.

    Attributes:
        kind: ``free`` (the file allows them), ``freed`` (made free by an edit), or ``looped``.
        reason: one sentence for people.
        fixed: the batch size that the file fixes, 0 if none.
    """

    kind: str
    reason: str
    fixed: int


def free_batch(model: onnx.ModelProto, image_input: str) -> onnx.ModelProto:
    """A copy of the model whose image input has a free batch axis, and no declared shapes after it."""
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    for value in edited.graph.input:
        if value.name == image_input:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for value in edited.graph.output:
        value.type.tensor_type.ClearField("shape")
    del edited.graph.value_info[:]
    return edited


def verify_batch(
    batched: Callable[[np.ndarray], np.ndarray],
    singly: Callable[[np.ndarray], np.ndarray],
    sample: np.ndarray,
) -> str | None:
    """Whether a batch gives what its images give one by one.

    Args:
        batched: runs ``(N, ...)`` at once; returns ``(N, K)``.
        singly: runs the same images one by one.
        sample: one image ``(1, ...)``; the images tried are noisy and shifted copies of it.

    Returns:
        ``None`` when they agree to 1e-4 of the largest value, else what happened.
    """
    rng = np.random.default_rng(0)
    images = [sample]
    spread = float(np.std(sample.astype(np.float64))) or 1.0
    for shift in range(1, _IMAGES):
        noise = rng.normal(0.0, 0.5 * spread, sample.shape)
        moved = np.roll(sample, shift * 3, axis=-1).astype(np.float64) + noise
        if sample.dtype.kind in "ui":
            info = np.iinfo(sample.dtype)
            moved = np.clip(np.rint(moved), info.min, info.max)
        images.append(moved.astype(sample.dtype))
    x = np.concatenate(images)
    try:
        together = batched(x)
    except OnnxvisError as error:
        return f"a batch of {_IMAGES} fails ({str(error)[:160]})"
    alone = singly(x)
    if together.shape != alone.shape:
        return f"a batch of {_IMAGES} returns shape {together.shape} instead of {alone.shape}"
    scale = max(float(np.abs(alone).max(initial=0.0)), 1e-12)
    difference = float(np.abs(together - alone).max(initial=0.0)) / scale
    if not difference <= _TOLERANCE:
        return f"a batch of {_IMAGES} answers differently from its images one by one (relative error {difference:.1e})"
    return None
