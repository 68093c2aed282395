"""Occlusion: how much the target's score drops when a window of the picture is covered.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2. A
window slides over the picture; each pixel gets the mean drop of the score over the windows that cover
it (the definition of Captum's ``Occlusion``). Positive: the pixel supports the target.

Only the deployed file runs; no gradient, no conversion. Where it is faster, only the part of each activation that
a window changes is computed again, which gives the same logits: the exact incremental inference of Nakandala, Kumar
and Papakonstantinou, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN Explanations",
SIGMOD 2019, here on unmodified pieces of the deployed graph (:mod:`onnxvis.runtime.incremental`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.kernels.occlusion import Window, mean_drop, windows
from onnxvis.methods.arguments import one_of
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.baseline import baseline_color, baseline_name, make_baseline
from onnxvis.methods.checkpoint import Checkpoint, fingerprint
from onnxvis.methods.layout import channels_first
from onnxvis.methods.probability import probabilities, probability_note
from onnxvis.prediction import logits_of

if TYPE_CHECKING:
    from onnxvis.methods.occlusion_drops import Drops, Findings
    from onnxvis.runtime.bfloat16 import Bfloat16

__all__ = ["METHOD", "OcclusionOptions"]

_DEFAULT_PART = 7
_LOCAL_MEAN = "local-mean"

Cover = Callable[[Window], np.ndarray]


@dataclass(frozen=True)
class OcclusionOptions:
    """Options of occlusion.

    Raises:
        UsageError: a value that does not exist.
    """

    window: Any = option(
        None, "size of the window: input pixels, or a part of the side (0.1), or height,width (a seventh of each side)"
    )
    stride: Any = option(
        None, "step of the window: input pixels, or a part of the side, or rows,columns (half the window)"
    )
    baseline: Any = option(
        0.0,
        "what covers: a number in units of the model's input, 'mean' (of each channel of the picture), 'blur' (the "
        "picture blurred), 'local-mean' (the mean of the pixels around the window), or in Python an array (C, H, W)",
    )
    score: str = option("logit", "what drops: 'logit' or 'probability'")
    engine: str = option(
        "auto",
        "'auto' (the faster, as measured), 'plain' (whole pictures; the same bits from run to run) or 'incremental' "
        "(only what changes)",
    )
    exact_check: str = option(
        "sample", "incremental positions recomputed in full: 'sample' (2 to 8, by the seed), 'all' or 'none'"
    )
    precision: str = option(
        "float32", "'float32', or 'bf16': faster and less precise, with the extra bf16 installed; checked by a sample"
    )
    checkpoint: Any = option(None, "folder for what is finished of an interrupted run, which then goes on from there")

    def __post_init__(self) -> None:
        one_of("occlusion", "score", self.score, ("logit", "probability"))
        one_of("occlusion", "engine", self.engine, ("auto", "plain", "incremental"))
        one_of("occlusion", "exact_check", self.exact_check, ("sample", "all", "none"))
        one_of("occlusion", "precision", self.precision, ("float32", "bf16"))


def attribute(task: Task) -> list[list[Attribution]]:
    """Occlusion maps of every score of every image, ``(H, W)`` in the input grid."""
    # the runtime, which a list of methods does not need
    from onnxvis.methods.occlusion_drops import Drops, Settings
    from onnxvis.methods.precision import lowered

    options: OcclusionOptions = task.options
    window, stride = _geometry(task.grid, options)
    places = windows(task.grid, window, stride)
    low = lowered("occlusion", options.precision, task)
    if options.score == "probability" and any(s.function is not None for scores in task.scores for s in scores):
        raise UsageError("a target function gets logits; turn them into probabilities in it and leave score=logit.")
    results = []
    tables: list[Checkpoint] = []
    earlier: Drops | None = None
    for row in range(len(task.x)):
        image = channels_first(task.x[row], task.model.layout)
        cover = _cover(options.baseline, image)
        base = _scores(task, row, task.logits[row : row + 1])[0]
        key = _key(task, row, (window, stride, options.score, options.precision), cover, places)
        table = Checkpoint(options.checkpoint, key, (len(places), len(task.scores[row])))
        tables.append(table)

        own = base if low is None else _low_scores(task, row, low)
        settings = Settings(options.engine, options.exact_check, task.seed, low, _drop(task, row, base))
        earlier = Drops(task, row, image, cover, places, _drop(task, row, own), settings, table, earlier)
        found = earlier.run()
        parameters = _record(options, (window, stride), len(places), found)
        notes = _notes(task, row, options, places, (window, stride), found, table)
        units = f"drop of the {options.score}"
        results.append(
            [
                Attribution(m.astype(np.float32), units, parameters=parameters, notes=notes, score=float(value))
                for m, value in zip(mean_drop(task.grid, places, table.values), base, strict=True)
            ]
        )
    for table in tables:  # not before all pictures of the task are finished: until then nothing is handed back
        table.remove()
    return results


def _scores(task: Task, row: int, logits: np.ndarray) -> np.ndarray:
    """Every score of one image at some logits ``(n, ...)``: ``(n, T)`` float64."""
    values = probabilities(task.model, logits) if task.options.score == "probability" else logits
    return np.stack([score.value(values) for score in task.scores[row]], axis=1)


def _low_scores(task: Task, row: int, low: Bfloat16) -> np.ndarray:
    """The scores of the uncovered picture in bfloat16: what both sides of a difference have in common cancels."""
    name = task.model.logits.tensor
    logits = logits_of(task.model, low(np.ascontiguousarray(task.x[row : row + 1]), name), 1)
    return np.asarray(_scores(task, row, logits)[0])


def _drop(task: Task, row: int, base: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda logits: np.asarray(base - _scores(task, row, logits))


# --- options --------------------------------------------------------------------------------------


def _pair(value: Any, name: str, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns in pixels, from a number or a pair, in pixels or as parts of the side."""
    try:
        parts = value.split(",") if isinstance(value, str) else [value] if np.ndim(value) == 0 else list(value)
        numbers = [0.0 if isinstance(part, bool) else float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    if len(numbers) != 2 or not all(0 < n < 1 or (n >= 1 and n.is_integer()) for n in numbers):
        raise UsageError(
            f"occlusion {name} is a whole number of pixels of at least 1, or a part of the side between 0 and 1, or a "
            f"pair of them, not {value!r}."
        )
    pixels = [max(1, round(n * side)) if n < 1 else int(n) for n, side in zip(numbers, grid, strict=True)]
    return pixels[0], pixels[1]


def _geometry(grid: tuple[int, int], options: OcclusionOptions) -> tuple[tuple[int, int], tuple[int, int]]:
    default = tuple(max(1, round(n / _DEFAULT_PART)) for n in grid)
    window = _pair(default if options.window is None else options.window, "window", grid)
    window = (min(window[0], grid[0]), min(window[1], grid[1]))
    half = (max(1, window[0] // 2), max(1, window[1] // 2))
    stride = _pair(half if options.stride is None else options.stride, "stride", grid)
    if stride[0] > window[0] or stride[1] > window[1]:
        raise UsageError(
            f"occlusion stride {stride} is larger than the window {window}: pixels between the windows would have no "
            "value. Use a stride of at most the window."
        )
    return window, stride


def _cover(value: Any, image: np.ndarray) -> Cover:
    """What stands in a window: ``(C, h, w)`` or ``(C, 1, 1)`` in the image's type."""
    if isinstance(value, str) and value.strip().lower() == _LOCAL_MEAN:
        return lambda w: _storable(_rim_mean(image, w), image.dtype)
    if isinstance(value, str) and value.strip().lower() not in ("mean", "blur"):
        try:
            float(value)
        except ValueError:
            raise UsageError(
                f"occlusion baseline is a number, 'mean', 'blur', 'local-mean' or an array, not {value!r}."
            ) from None
    baseline = _storable(make_baseline(value, image, "occlusion"), image.dtype)
    return lambda w: baseline[:, w.y0 : w.y1, w.x0 : w.x1]


def _rim_mean(image: np.ndarray, w: Window) -> np.ndarray:
    """Mean of each channel over the pixels just outside a window; of the whole image where there are none."""
    y0, y1, x0, x1 = max(w.y0 - 1, 0), w.y1 + 1, max(w.x0 - 1, 0), w.x1 + 1
    outer, inner = image[:, y0:y1, x0:x1].astype(np.float64), image[:, w.y0 : w.y1, w.x0 : w.x1].astype(np.float64)
    count = outer[0].size - inner[0].size
    if not count:
        return np.asarray(inner.mean(axis=(1, 2), keepdims=True))
    return np.asarray((outer.sum(axis=(1, 2), keepdims=True) - inner.sum(axis=(1, 2), keepdims=True)) / count)


def _storable(baseline: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A baseline in the model's input type: rounded for whole numbers, never wrapped around.

    Raises:
        UsageError: it lies outside the type's range.
    """
    if dtype.kind not in "ui":
        return np.asarray(baseline.astype(dtype))
    rounded, limits = np.rint(baseline), np.iinfo(dtype)
    if rounded.min() < limits.min or rounded.max() > limits.max:
        raise UsageError(
            f"the occlusion baseline lies outside what the model's input can hold ({dtype}: {limits.min} to "
            f"{limits.max})."
        )
    return np.asarray(rounded.astype(dtype))


def _key(task: Task, row: int, options: object, cover: Cover, places: list[Window]) -> str:
    """A fingerprint of everything that the drops depend on."""
    model = task.model
    if task.options.checkpoint is None:
        return ""
    covers = [np.ascontiguousarray(cover(place)) for place in places]
    scores = [part for s in task.scores[row] for part in (s.name, s.spec, np.ascontiguousarray(s.cotangent))]
    return fingerprint([model.sha256, model.logits.tensor, model.provider.name, options, task.x[row], *scores, *covers])


# --- what is told ---------------------------------------------------------------------------------


def _record(
    options: OcclusionOptions, sizes: tuple[tuple[int, int], tuple[int, int]], positions: int, found: Findings
) -> dict[str, Any]:
    check = found.checked
    return {
        "window": list(sizes[0]),
        "stride": list(sizes[1]),
        "baseline": options.baseline if isinstance(options.baseline, str | int | float) else "array",
        "score": options.score,
        "positions": positions,
        "engine": found.engine,
        "engine_reason": found.reason,
        "operations": round(found.operations, 4),
        "forecast_seconds": None if found.forecast is None else round(found.forecast, 2),
        "exact_check": None if check is None else {"positions": check[0], "largest_relative_error": check[1]},
        "precision": options.precision,
        "precision_check": None if found.precise is None else found.precise.record(),
    }


def _notes(
    task: Task,
    row: int,
    options: OcclusionOptions,
    places: list[Window],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    found: Findings,
    table: Checkpoint,
) -> tuple[str, ...]:
    window, stride = sizes
    image = channels_first(task.x[row], task.model.layout)
    local = isinstance(options.baseline, str) and options.baseline.strip().lower() == _LOCAL_MEAN
    what = "the mean of the pixels around it" if local else baseline_name(options.baseline, image)
    notes = [
        f"{len(places)} windows of {window[0]} x {window[1]} pixels, every {stride[0]} x {stride[1]}, covered by {what}"
    ]
    if np.ndim(options.baseline) == 0:
        notes += baseline_color(task.prepared[row], options.baseline)
    if options.score == "probability":
        notes.append(probability_note(task.model, task.logits[row : row + 1]))
    notes.append(f"engine: {found.engine} ({found.reason})")
    if found.checked is not None:
        count, error = found.checked
        notes.append(f"{count} positions were recomputed in full: largest error {error:.1e} of the largest logit")
    if options.precision == "bf16":
        notes.append("precision: bfloat16, as asked for, by OpenVINO's execution provider; the score is of float32")
        notes.append(
            found.precise.note("positions") if found.precise else "its precision was not checked, as asked for"
        )
    notes += found.notes
    if table.resumed:
        notes.append(f"{table.resumed} of {len(places)} positions were taken from an interrupted run")
    if table.problem:
        notes.append(f"started from the beginning: {table.problem}")
    plan = task.model.engine.batch_plan(task.x[row : row + 1]) if len(places) > 1 else None
    if plan is not None:
        notes.append(f"batch: {plan.reason}")
    return tuple(notes)


METHOD = Method(
    name="occlusion",
    title="Occlusion",
    summary="how much the score drops when a window of the picture is covered",
    paper="Zeiler & Fergus, ECCV 2014; incremental inference: Nakandala et al., SIGMOD 2019",
    attribute=attribute,
    options=OcclusionOptions,
    quick={"window": 10**6},
    caution="The answer depends on the window's size and on what covers it; parts that stand in for each other hide.",
)
