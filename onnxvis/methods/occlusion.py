"""Occlusion: how much the target's score drops when a window of the picture is covered.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2. A
window slides over the picture; each pixel gets the mean drop of the score over the windows that cover
it (the definition of Captum's ``Occlusion``). Positive: the pixel supports the target.

Only the deployed file runs; no gradient, no conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.kernels.occlusion import OcclusionBatches, Window, mean_drop, windows
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.layout import channels_first
from onnxvis.prediction import logits_of
from onnxvis.preprocessing import Prepared

__all__ = ["METHOD", "OcclusionOptions"]

_DEFAULT_PART = 7


@dataclass(frozen=True)
class OcclusionOptions:
    """Options of occlusion."""

    window: Any = option(None, "size of the window in input pixels, a number or height,width (a seventh of each side)")
    stride: Any = option(None, "step of the window in input pixels, a number or rows,columns (half the window)")
    baseline: Any = option(0.0, "what covers: a number in units of the model's input, 'mean' (of each channel of the "
                                "picture), or in Python an array (C, H, W) or broadcastable to it")  # fmt: skip


def attribute(task: Task) -> list[list[Attribution]]:
    """Occlusion maps of every score of every image, ``(H, W)`` in the input grid."""
    options: OcclusionOptions = task.options
    window, stride = _geometry(task.grid, options)
    places = windows(task.grid, window, stride)
    total = len(places) * len(task.x)
    results = []
    for row in range(len(task.x)):
        image = channels_first(task.x[row], task.model.layout)
        baseline = _storable(_baseline(options.baseline, image), image.dtype)
        drops = _drops(task, row, image, baseline, places, (row * len(places), total))
        maps = mean_drop(task.grid, places, drops)
        parameters = {
            "window": list(window),
            "stride": list(stride),
            "baseline": options.baseline if isinstance(options.baseline, str | int | float) else "array",
            "positions": len(places),
        }
        note = _note(task, row, options.baseline, len(places), window, stride)
        results.append(
            [Attribution(m.astype(np.float32), "drop of the logit", parameters=parameters, notes=note) for m in maps]
        )
    return results


def _drops(
    task: Task,
    row: int,
    image: np.ndarray,
    baseline: np.ndarray,
    places: Sequence[Window],
    progress: tuple[int, int],
) -> np.ndarray:
    """Drop of each score at each window, ``(P, T)`` float64."""
    model, name = task.model, task.model.logits.tensor
    batches = OcclusionBatches(image, baseline, task.batch_size, task.model.layout == "NHWC")
    base = task.logits[row : row + 1]
    rows = []
    done, total = progress
    for batch in batches(places):
        x = batch.reshape(len(batch), *task.x.shape[1:])
        logits = logits_of(model, model.engine.forward(x, (name,), task.batch_size), len(x))
        rows.append(np.stack([score.value(base) - score.value(logits) for score in task.scores[row]], axis=1))
        done += len(batch)
        task.progress("occlusion", done, total)
    return np.concatenate(rows)


def _pair(value: Any, name: str) -> tuple[int, int]:
    try:
        parts = [int(part) for part in value.split(",")] if isinstance(value, str) else value
        pair = (parts, parts) if isinstance(parts, int | np.integer) else tuple(int(p) for p in parts)
    except (TypeError, ValueError):
        pair = ()
    if len(pair) == 1:
        pair = (pair[0], pair[0])
    if len(pair) != 2 or min(pair) < 1:
        raise UsageError(f"occlusion {name} is a number of pixels or a pair of them, at least 1, not {value!r}.")
    return int(pair[0]), int(pair[1])


def _geometry(grid: tuple[int, int], options: OcclusionOptions) -> tuple[tuple[int, int], tuple[int, int]]:
    default = tuple(max(1, round(n / _DEFAULT_PART)) for n in grid)
    window = _pair(default if options.window is None else options.window, "window")
    window = (min(window[0], grid[0]), min(window[1], grid[1]))
    half = (max(1, window[0] // 2), max(1, window[1] // 2))
    stride = _pair(half if options.stride is None else options.stride, "stride")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise UsageError(
            f"occlusion stride {stride} is larger than the window {window}: pixels between the windows would have no "
            "value. Use a stride of at most the window."
        )
    return window, stride


def _baseline(value: Any, image: np.ndarray) -> np.ndarray:
    if isinstance(value, str):
        if value.strip().lower() == "mean":
            return np.asarray(image.astype(np.float64).mean(axis=(1, 2), keepdims=True))
        try:
            value = float(value)
        except ValueError:
            raise UsageError(f"occlusion baseline is a number, 'mean' or an array, not {value!r}.") from None
    array = np.asarray(value, dtype=np.float64)
    try:
        shaped: np.ndarray = np.broadcast_to(array, image.shape)
    except ValueError:
        raise UsageError(
            f"an occlusion baseline of shape {array.shape} does not fit an image of shape {image.shape} (C, H, W)."
        ) from None
    if not np.isfinite(shaped).all():
        raise UsageError("the occlusion baseline holds NaN or infinity.")
    return shaped


def _storable(baseline: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A baseline that the model's input type can hold: rounded for whole numbers, never wrapped around.

    Raises:
        UsageError: it lies outside the type's range.
    """
    if dtype.kind == "f":
        return baseline
    rounded, limits = np.rint(baseline), np.iinfo(dtype)
    if rounded.min() < limits.min or rounded.max() > limits.max:
        raise UsageError(
            f"the occlusion baseline lies outside what the model's input can hold ({dtype}: {limits.min} to "
            f"{limits.max})."
        )
    return np.asarray(rounded)


def _note(
    task: Task, row: int, baseline: Any, count: int, window: tuple[int, int], stride: tuple[int, int]
) -> tuple[str, ...]:
    what = baseline if isinstance(baseline, str) else "an array" if np.ndim(baseline) else f"{float(baseline):g}"
    notes = [f"{count} windows of {window[0]} x {window[1]} pixels, every {stride[0]} x {stride[1]}, covered by {what}"]
    if np.ndim(baseline) == 0 and not isinstance(baseline, str):
        notes += _color(task.prepared[row], float(baseline))
    plan = task.model.engine.batch_plan(task.x[row : row + 1]) if count > 1 else None
    if plan is not None:
        notes.append(f"batch: {plan.reason}")
    return tuple(notes)


def _color(prepared: Prepared, value: float) -> list[str]:
    """What an input value looks like in the picture, where the preprocessing is known."""
    spec = prepared.preprocessing
    if spec is None:
        return []
    axis = 1 if prepared.layout == "NCHW" else 3
    shape = [1, 1, 1, 1]
    shape[axis] = prepared.tensor.shape[axis]
    red, green, blue = (int(v) for v in spec.display(np.full(shape, value), prepared.layout)[0, 0])
    return [f"that value is the color RGB {red}, {green}, {blue} in the picture"]


METHOD = Method(
    name="occlusion",
    title="Occlusion",
    summary="how much the score drops when a window of the picture is covered",
    paper="Zeiler & Fergus, ECCV 2014",
    attribute=attribute,
    options=OcclusionOptions,
    quick={"window": 10**6},
    caution="The answer depends on the window's size and on what covers it; parts that stand in for each other hide.",
)
