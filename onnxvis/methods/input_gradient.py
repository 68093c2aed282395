"""What methods share that differentiate with respect to the picture.

The parity record of all of them answers one question: does the converted model have the derivative of the
deployed graph? It is checked on the ordinary gradient, even where a method changes the backward pass: what a
rule like guided backprop computes is the derivative of nothing, so no finite difference could confirm it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from onnxvis.methods.base import Attribution, Task, rows_of
from onnxvis.methods.layout import as_float, channels_first
from onnxvis.runtime.gradients import Gradients
from onnxvis.runtime.parity import GradientCheck, Parity
from onnxvis.target import Score

__all__ = [
    "RuleMaps",
    "gradients_at",
    "input_gradients",
    "input_parity",
    "micro_batch",
    "ordinary_parity",
    "parity_at_picture",
    "rule_attributions",
    "rule_maps",
]


def input_gradients(task: Task, x: np.ndarray, cotangents: Sequence[np.ndarray], rule: str = "backprop") -> Gradients:
    """Gradients of the logits' combinations with respect to the picture.

    Args:
        task: what is explained.
        x: images ``(N, ...)`` in the model's layout, of any number type.
        cotangents: d score / d logits, each ``(N, ...)``.
        rule: what a ReLU does on the way back.
    """
    name = task.model.image_input.name
    feeds = {name: as_float(x)}
    return task.model.engine.gradients(feeds, task.model.logits.tensor, cotangents, (name,), rule, float64=task.float64)


def input_parity(
    task: Task, row: int, logits: np.ndarray, gradient: np.ndarray | None, cotangent: np.ndarray
) -> Parity:
    """The parity record for a gradient with respect to the picture.

    Args:
        task: what is explained.
        row: which image.
        logits: of the converted model on that image.
        gradient: the ordinary gradient there; ``None`` computes it, if the check is still to be made.
        cotangent: d score / d logits of the differentiated score.
    """
    model = task.model
    name = model.image_input.name

    def check() -> GradientCheck | None:
        if task.x.dtype.kind != "f":
            return None  # whole-number inputs cannot be moved by a small step
        x = rows_of(task.x, slice(row, row + 1))
        on = task.picture_name(row)
        return model.engine.difference_check({name: x}, name, model.logits.tensor, cotangent, on, task.float64)

    return model.engine.parity(logits, task.logits[row], check, (model.logits.tensor, name), task.float64)


def parity_at_picture(task: Task, row: int) -> Parity:
    """The parity record at the picture itself, for a method that differentiates at other points."""
    one = slice(row, row + 1)
    cotangent = task.cotangents(one)[0]
    found = input_gradients(task, rows_of(task.x, one), [cotangent])
    gradient = found.grads[0][task.model.image_input.name][0]
    return input_parity(task, row, found.output[0], gradient, cotangent[0])


def ordinary_parity(parity: Parity) -> Parity:
    """The record of a method whose backward pass is no derivative: it says what was checked instead."""
    if parity.gradient is None:
        return parity
    on = f"{parity.gradient.on}; the ordinary gradient, since a changed backward pass is no derivative"
    return dataclasses.replace(parity, gradient=dataclasses.replace(parity.gradient, on=on))


@dataclasses.dataclass(frozen=True, eq=False)
class RuleMaps:
    """One image's maps under a rule: one ``(C, H, W)`` for each score, with what is to be said about them."""

    maps: list[np.ndarray]
    parity: Parity
    notes: tuple[str, ...]


def rule_maps(task: Task, rule: str) -> list[RuleMaps]:
    """The modified gradient of every score of every image with respect to the picture.

    One forward pass for all scores of a batch. The parity record is that of the ordinary gradient.
    """
    name = task.model.image_input.name
    results = []
    for rows in task.rows():
        x = rows_of(task.x, rows)
        cotangents = task.cotangents(rows)
        found = input_gradients(task, x, cotangents, rule)
        for i in range(len(x)):
            row = rows.start + i
            gradient = found.grads[0][name][i] if rule == "backprop" else None
            parity = input_parity(task, row, found.output[i], gradient, cotangents[0][i])
            maps = [channels_first(g[name][i], task.model.layout) for g in found.grads[: len(task.scores[row])]]
            results.append(RuleMaps(maps, parity if rule == "backprop" else ordinary_parity(parity), found.notes))
    return results


def rule_attributions(task: Task, rule: str, units: str) -> list[list[Attribution]]:
    """What a method answers whose map is a modified gradient, kept signed: ``(C, H, W)`` in the input grid.

    Args:
        task: what is explained.
        rule: what a ReLU does on the way back.
        units: of the map.
    """
    return [
        [
            Attribution(
                values=np.ascontiguousarray(values, dtype=np.float32),
                units=units,
                reduction="max-abs",
                parity=one.parity,
                notes=(*one.notes, "drawn as the largest absolute value over the channels of a pixel"),
            )
            for values in one.maps
        ]
        for one in rule_maps(task, rule)
    ]


def micro_batch(task: Task) -> int:
    """How many changed copies of one picture may run at once."""
    looped = task.batch_size > 1 and task.model.engine.batch_plan(task.x[:1]).kind == "looped"
    return 1 if looped else task.batch_size


def gradients_at(task: Task, scores: Sequence[Score], points: np.ndarray) -> list[np.ndarray]:
    """The ordinary gradient of each score at some points of the input space.

    Args:
        task: what is explained.
        scores: of one image.
        points: ``(M, ...)`` in the model's layout.

    Returns:
        For each score ``(M, ...)``. A score that is no fixed combination of the logits (a callable) is
        differentiated at the logits of each point, which takes one more forward pass.
    """
    name = task.model.image_input.name
    logits = np.empty(0)
    if any(score.function is not None for score in scores):
        logits = input_gradients(task, points, ()).output
    cotangents = [
        np.stack([score.derivative(logits[i]) for i in range(len(logits))])
        if score.function is not None
        else np.repeat(score.cotangent[None], len(points), axis=0)
        for score in scores
    ]
    return [grads[name] for grads in input_gradients(task, points, cotangents).grads]
