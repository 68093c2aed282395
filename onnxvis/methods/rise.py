"""RISE: the score of randomly masked pictures, averaged over the masks that show a pixel.

Petsiuk, Das & Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
With masks M_i, the picture I and the target's score f (section 3.1, equation 6; masks of section 3.2):

    S(p) = 1 / (E[M] N)  sum over i of  f(I * M_i) M_i(p)

A mask is a grid of ``cells x cells`` places, each seen with probability ``keep``, enlarged bilinearly to
``(cells + 1)`` cells of ``ceil(side / cells)`` pixels and cut to the picture at a random shift within one cell. The
enlarging clamps at the border, so that E[M(p)] = keep at every pixel (half-pixel centers; its weights sum to 1).

S(p) estimates the mean score of the pictures in which p is seen. By default the mean over *all* masked pictures is
taken off, ``1 / (E[M] (N - 1))  sum of (f_i - mean f) (M_i(p) - mean M(p))``: the same map but for a constant, so that
zero means "seen or not, all the same", with less noise. ``center=false`` gives the formula as printed.

The paper's f is a probability; so is ours where the network has one. Masks are drawn one after another from the
seed alone: every picture gets the same, whatever the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import UsageError
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.methods.arguments import a_flag, a_number, a_whole_number, one_of
from onnxvis.methods.base import Attribution, Method, Task, option
from onnxvis.methods.fill import fill_of, fill_words
from onnxvis.methods.layout import channels_first, in_layout
from onnxvis.methods.mask_moments import MaskMoments
from onnxvis.prediction import logits_of

if TYPE_CHECKING:
    from onnxvis.methods.precision import PrecisionCheck
    from onnxvis.runtime.bfloat16 import Bfloat16

__all__ = ["METHOD", "RiseOptions", "block_size", "estimate", "random_masks"]

_SALT = 0x52495345  # keeps these draws apart from those of other methods under the same seed
_LEAST = 128
_MOST_PIXELS = 1 << 22
_CHECKED = 8
Scorer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RiseOptions:
    """Options of RISE."""

    masks: int = option(4000, "random masks, at most; each is one run of the network")
    cells: int = option(7, "places of a mask along each side, before enlarging")
    keep: float = option(0.5, "probability that a place is seen")
    tolerance: Any = option(
        None,
        "stop when the largest standard error of the map is below this, in units of the score, but not before "
        f"{_LEAST} masks; left out: all masks run",
    )
    baseline: Any = option(0.0, "what stands where nothing is seen: a number in units of the model's input, 'mean' (of "
                                "each channel), or in Python an array")  # fmt: skip
    score: str = option("probability", "'probability' (the paper; the logit where there is none) or 'logit'")
    precision: str = option(
        "float32", "'float32', or 'bf16': faster and less precise, with the extra bf16 installed; checked by a sample"
    )
    center: bool = option(True, "take off the mean score of all masked pictures; false is the formula of the paper")

    def __post_init__(self) -> None:
        a_whole_number("rise", "masks", self.masks, 2)
        a_whole_number("rise", "cells", self.cells, 1, 1_024)
        a_number("rise", "keep", self.keep, 0)
        if self.keep >= 1:
            raise UsageError(f"rise keep is a probability between 0 and 1, not {self.keep!r}.")
        if self.tolerance is not None:
            a_number("rise", "tolerance", self.tolerance, 0)
        one_of("rise", "score", self.score, ("probability", "logit"))
        a_flag("rise", "center", self.center)
        one_of("rise", "precision", self.precision, ("float32", "bf16"))


def random_masks(grid: tuple[int, int], cells: int, keep: float, seed: int) -> Iterator[np.ndarray]:
    """Endless masks ``(H, W)`` float32 in 0..1.

    For each mask are drawn, in this order: ``cells x cells`` uniform numbers (seen where below ``keep``), the
    shift down, the shift to the right.
    """
    rng = np.random.default_rng([seed, _SALT])
    steps = [-(-n // cells) for n in grid]
    # The matrix of a separable enlargement is the enlargement of the identity along one axis.
    down, right = (upsample_bilinear(np.eye(cells), (step * (cells + 1), cells)) for step in steps)
    while True:
        seen = (rng.random((cells, cells)) < keep).astype(np.float32)
        y, x = (int(rng.integers(step)) for step in steps)
        yield down[y : y + grid[0]] @ seen @ right[x : x + grid[1]].T


def block_size(grid: tuple[int, int]) -> int:
    """Masks that are held at once: a matter of the picture's size alone, so that sums have one order."""
    return max(8, min(32, _MOST_PIXELS // (grid[0] * grid[1])))


def attribute(task: Task) -> list[list[Attribution]]:
    """RISE of every score of every image; maps ``(H, W)`` in the input grid."""
    return [_results(task, row) for row in range(len(task.x))]


def estimate(task: Task, row: int) -> MaskMoments:
    """Run the masked copies of one image and gather the moments of masks and scores.

    The map of each score and its standard error at each pixel follow from them, see :class:`MaskMoments`.
    """
    return _estimate(task, row)[0]


def _estimate(task: Task, row: int) -> tuple[MaskMoments, PrecisionCheck | None]:
    """The moments, and for scores in bfloat16 what the first masks' scores were held against."""
    from onnxvis.methods.precision import PrecisionCheck, lowered

    options: RiseOptions = task.options
    low, checked = lowered("rise", options.precision, task), None
    scores = _scorer(task, row, low)
    image = channels_first(task.x[row], task.model.layout)
    fill = fill_of("rise", options.baseline, image)
    source = random_masks(task.grid, options.cells, options.keep, task.seed)
    moments = MaskMoments(task.grid, len(task.scores[row]), options.keep)
    while moments.count < options.masks:
        size = min(block_size(task.grid), options.masks - moments.count)
        masks = np.stack([next(source) for _ in range(size)])
        values = [
            scores(_masked(task, image, fill, masks[i : i + task.batch_size])) for i in range(0, size, task.batch_size)
        ]
        moments.add(masks, np.concatenate(values))
        if low is not None and checked is None:
            few = min(size, _CHECKED)
            exact = _scorer(task, row)(_masked(task, image, fill, masks[:few]))
            checked = PrecisionCheck.of(exact, np.concatenate(values)[:few])
        task.progress("rise", row * options.masks + moments.count, len(task.x) * options.masks)
        if options.tolerance is not None and moments.count >= _LEAST:
            largest = moments.standard_error(options.center).max()
            if largest < options.tolerance:
                break
    task.progress("rise", (row + 1) * options.masks, len(task.x) * options.masks)
    return moments, checked


def _masked(task: Task, image: np.ndarray, fill: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Copies of an image ``(C, H, W)`` under masks ``(M, H, W)``, in the model's own order and type."""
    covered = np.asarray(fill, np.float64 if image.dtype == np.float64 else np.float32)
    seen = masks[:, None]
    copies = image * seen if not fill.any() else image * seen + covered * (1 - seen)
    if image.dtype.kind in "ui":
        copies = np.rint(copies)
    shape = task.x.shape[1:]
    ordered = [in_layout(one, task.model.layout, shape) for one in copies]
    return np.stack(ordered).astype(task.x.dtype, copy=False)


def _scorer(task: Task, row: int, low: Bfloat16 | None = None) -> Scorer:
    """Inputs ``(M, ...)`` to the scores ``(M, T)`` that are averaged; in bfloat16 where ``low`` is given."""
    model, name = task.model, task.model.logits.tensor
    squash = _probability(task, row)[0]

    def scores(x: np.ndarray) -> np.ndarray:
        found = model.engine.forward(x, (name,), task.batch_size) if low is None else low(x, name)
        logits = logits_of(model, found, len(x))
        answers = squash(logits)
        return np.stack([score.value(answers) for score in task.scores[row]], axis=1)

    return scores


def _probability(task: Task, row: int) -> tuple[Scorer, str]:
    """The function from logits to what is averaged, and its name with the reason."""
    options: RiseOptions = task.options
    model = task.model
    if options.score == "logit":
        return _same, "logit, as asked for"
    if any(score.function is not None for score in task.scores[row]):
        return _same, "value of the target function of the logits: a callable is taken as it is"
    if model.logits.kind != "classifier":
        return _same, "logit: a dense output has no probability over all of its positions"
    if model.logits.activation == "sigmoid":
        return _sigmoid, "probability (sigmoid, as in the file)"
    if task.logits[row].size == 1:
        return _same, "logit: a single output value has no probability"
    where = "as in the file" if model.logits.activation in ("softmax", "log-softmax") else "the file ends in logits"
    return _softmax, f"probability (softmax, {where})"


def _same(logits: np.ndarray) -> np.ndarray:
    return logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))


def _results(task: Task, row: int) -> list[Attribution]:
    options: RiseOptions = task.options
    moments, checked = _estimate(task, row)
    maps, errors = moments.maps(options.center), moments.standard_error(options.center)
    squash, what = _probability(task, row)
    answers = squash(task.logits[row : row + 1])
    word = "probability" if what.startswith("probability") else "logit"
    units = f"{word} when seen, less the mean" if options.center else f"{word} when seen"
    plan = task.model.engine.batch_plan(task.x[row : row + 1])
    results = []
    for k, (values, error) in enumerate(zip(maps, errors, strict=True)):
        largest, mean = float(error.max()), float(moments.mean_score[k])
        results.append(
            Attribution(
                values=np.ascontiguousarray(values, dtype=np.float32),
                units=units,
                signed=options.center or bool((values < 0).any()),
                parameters={
                    "masks": moments.count,
                    "cells": options.cells,
                    "keep": float(options.keep),
                    "tolerance": options.tolerance,
                    "baseline": options.baseline if isinstance(options.baseline, str | int | float) else "array",
                    "score": word,
                    "center": options.center,
                    "precision": options.precision,
                    "precision_check": None if checked is None else checked.record(),
                    "mean_score": mean,
                    "largest_standard_error": largest,
                    "median_standard_error": float(np.median(error)),
                },
                notes=(
                    f"score: {what}",
                    f"{moments.count} of at most {options.masks} masks of {options.cells} x {options.cells} places, "
                    f"each seen with probability {options.keep:g}, over {fill_words(options.baseline)}",
                    _stopped(options, moments.count, largest),
                    f"mean score of the masked pictures {mean:.4g}{', taken off' if options.center else ''}",
                    *_precision_notes(checked),
                    f"batch: {plan.reason}",
                ),
                score=float(task.scores[row][k].value(answers)[0]),
            )
        )
    return results


def _precision_notes(checked: PrecisionCheck | None) -> tuple[str, ...]:
    if checked is None:
        return ()
    return (
        "precision: bfloat16, as asked for, by OpenVINO's execution provider; the picture's own score is of float32",
        checked.note("masked pictures"),
    )


def _stopped(options: RiseOptions, count: int, largest: float) -> str:
    said = f"largest standard error of the map {largest:.2g}"
    if options.tolerance is None:
        return f"{said}; no tolerance was asked for, so all masks ran"
    if largest < options.tolerance:
        return f"{said}, below the tolerance of {options.tolerance:g}"
    reason = "the masks ran out" if count >= options.masks else "another score of the picture was stopped for"
    return f"{said}, ABOVE the tolerance of {options.tolerance:g}: {reason}"


METHOD = Method(
    name="rise",
    title="RISE",
    summary="how the score depends on a pixel being seen, over random masks of the picture",
    paper="Petsiuk et al., BMVC 2018",
    attribute=attribute,
    options=RiseOptions,
    quick={"masks": 8},
    caution=(
        "Thousands of runs of the network, and still a random estimate: differences below two standard errors mean "
        "nothing. Detail finer than a mask's cell is not resolved."
    ),
)
