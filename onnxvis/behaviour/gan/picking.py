"""Choosing the units of a concept: by agreement, by their own effect, or as a set that was searched for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxvis.behaviour.gan.concepts import Segmenter
from onnxvis.behaviour.gan.dissection import Dissection
from onnxvis.behaviour.gan.effects import trunks, unit_effects
from onnxvis.behaviour.gan.interventions import WHOLE, Interventions, Region
from onnxvis.behaviour.gan.unit_sets import greedy_set, has_gradient, optimized_set
from onnxvis.errors import UsageError
from onnxvis.progress import Progress, silent

__all__ = ["WAYS", "Picked", "pick_units"]

WAYS = ("iou", "effect", "optimized", "greedy")
_MEASURED, _SEARCHED, _CANDIDATES = 32, 64, 24


@dataclass(frozen=True)
class Picked:
    """Units that were chosen, and how."""

    units: tuple[int, ...]
    reason: str


def pick_units(
    interventions: Interventions,
    segmenter: Segmenter,
    dissection: Dissection,
    concept: str,
    count: int = 8,
    by: str = "iou",
    *,
    ids: Sequence[int],
    seed: int = 0,
    region: Region = WHOLE,
    progress: Progress = silent,
) -> Picked:
    """The units of a concept.

    Args:
        interventions: on the dissected layer.
        segmenter: the one of the dissection.
        dissection: of the layer; its ranking, and its conditional means as values to insert.
        concept: one of the dissection's.
        count: how many units.
        by: "iou" takes the ranking; "effect" the largest average causal effects of single units on 32 samples;
            "optimized" the paper's search by gradients; "greedy" adds units one by one by their measured effect, from
            the 24 of the largest own effect. "optimized" falls back to "greedy", and says so, where the segmenter
            has no differentiable form.
        ids: samples to search on, at least 2; others than those that the result is measured on.
        seed: of everything.
        region: where effects are measured.
        progress: told of every step.

    Raises:
        UsageError: an unknown way, or a count that the layer does not have.
    """
    if by not in WAYS:
        raise UsageError(f"units are picked by {', '.join(WAYS)}, not by {by!r}.")
    if not 1 <= count <= dissection.units:
        raise UsageError(f"the layer has {dissection.units} units, so {count} of them cannot be taken.")
    if by == "iou":
        above = sum(row.above_chance for row in dissection.ranked(concept, count))
        reason = f"the {count} units of the largest IoU with {concept!r}, {above} of them above chance"
        return Picked(tuple(dissection.top_units(concept, count)), reason)
    values = dissection.values(concept)
    if by == "optimized" and has_gradient(segmenter):
        found = optimized_set(
            interventions, segmenter, concept, values, ids=ids[:_SEARCHED], count=count, seed=seed, progress=progress
        )
        return Picked(found.units, found.note)
    samples = trunks(interventions, segmenter, ids[:_MEASURED], seed, region)
    alone = unit_effects(interventions, segmenter, samples, values, progress)
    ranked = alone.ranked(concept)
    if by == "effect":
        reason = f"the {count} units of the largest own causal effect on {concept!r}, on {len(samples.base)} samples"
        return Picked(tuple(ranked[:count]), reason)
    pool = ranked[: max(_CANDIDATES, count)]
    greedy = greedy_set(interventions, segmenter, concept, values, samples, pool, count=count, progress=progress)
    return Picked(greedy.units, greedy.note)
