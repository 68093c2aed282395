"""Does an explanation depend on what the network has learned? The model-parameter randomization test.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 4. Weights are made random from the logits
down (*cascading*: each stage adds the layers below) or layer by layer (*independent*); each stage is a model of its
own, and every method explains the same score of the same picture on it. A map that stays the same although the
network has forgotten everything shows the picture, not the network.

Alike is measured as in the paper: Spearman's rank correlation of the maps with and without their sign, and structural
similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.audit.metrics.rerun import attributions, reduced
from onnxvis.audit.metrics.similarity import rank_correlation, ssim
from onnxvis.errors import ModelError, OnnxvisError, UsageError
from onnxvis.explaining import Request, request
from onnxvis.graph.randomize import WeightLayer, randomize, weight_layers
from onnxvis.prediction import logits_of
from onnxvis.progress import Progress, silent
from onnxvis.target import Score, resolve

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["BOUND", "DEPENDS", "UNCHANGED", "UNKNOWN", "MethodVerdict", "Randomization", "Stage", "randomization_test"]

DEPENDS = "depends on the weights"
UNCHANGED = "does not change when the model is randomised"
UNKNOWN = "could not be tested"
BOUND = 0.5
"""Rank correlation of map sizes above which a method counts as unchanged."""


@dataclass(frozen=True)
class Stage:
    """One randomised model and what one method shows on it, means over the pictures.

    Attributes:
        method: name of the method.
        number: 1 for the first.
        layers: names of the layers that are random here.
        parts: part of the network's layers with weights that are random.
        rank_abs: rank correlation of the absolute maps with the original ones, -1 to 1; ``None`` where a map is flat.
        rank: rank correlation with the sign.
        ssim: structural similarity.
        note: why there is no number.
    """

    method: str
    number: int
    layers: tuple[str, ...]
    parts: float
    rank_abs: float | None
    rank: float | None
    ssim: float | None
    note: str = ""


@dataclass(frozen=True)
class MethodVerdict:
    """What the stages say about one method.

    Attributes:
        method: its name.
        verdict: :data:`DEPENDS`, :data:`UNCHANGED` or :data:`UNKNOWN`.
        value: the number that decided, ``None`` where there is none.
        bound: what it was held against.
        sentence: for people.
    """

    method: str
    verdict: str
    value: float | None
    bound: float
    sentence: str


@dataclass(frozen=True)
class Randomization:
    """The whole test.

    Attributes:
        mode: "cascading" or "independent".
        seed: of the random weights.
        how: how they were made random.
        pictures: how many pictures were explained.
        stages: one entry for each method and stage.
        verdicts: one for each method.
        notes: what else must be said.
    """

    mode: str
    seed: int
    how: str
    pictures: int
    stages: tuple[Stage, ...]
    verdicts: tuple[MethodVerdict, ...]
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        from dataclasses import asdict

        return asdict(self)


def randomization_test(
    model: Model,
    prepared: Sequence[Prepared],
    methods: Sequence[str],
    *,
    mode: str = "cascading",
    seed: int = 0,
    max_stages: int = 6,
    how: str = "permute",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Randomization:
    """Run the model-parameter randomization test.

    Args:
        model: the model.
        prepared: pictures of one input shape, from ``model.prepare``; a handful is enough.
        methods: names from :func:`onnxvis.method_names`, with their default options.
        mode: "cascading" (from the logits down, each stage keeps what is random) or "independent" (one group of layers
            at a time).
        seed: of the random weights, and of methods with chance.
        max_stages: into how many groups of consecutive layers the network is divided; the first is the last layer
            alone.
        how: "permute" or "redraw", see :func:`onnxvis.graph.randomize.randomize`.
        batch_size: pictures at once.
        progress: called with (stage, done, total).

    Raises:
        UsageError: no pictures, or another mode.
        ModelError: the model has no weights to randomise.
    """
    raise NotImplementedError
