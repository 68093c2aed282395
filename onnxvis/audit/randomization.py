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
from onnxvis.modelfile import read_model, with_weights
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
    if mode not in ("cascading", "independent"):
        raise UsageError(f"the randomization test is 'cascading' or 'independent', not {mode!r}.")
    if not prepared:
        raise UsageError("the randomization test needs at least one picture.")
    layers = weight_layers(with_weights(model.file), model.logits.tensor)
    if not layers:
        raise ModelError(f"{model.name!r} stores no weights that could be randomised: convolutions or linear layers.")
    report = progress or silent
    run = _Run(model, prepared, [request(model, name, {}) for name in methods], seed, batch_size)
    groups = stages_of(layers, max_stages)
    stages: list[Stage] = []
    for number, group in enumerate(groups, start=1):
        report("randomization", number - 1, len(groups))
        chosen = [layer for g in groups[:number] for layer in g] if mode == "cascading" else group
        tensors = [tensor for layer in chosen for tensor in layer.tensors]
        stages += run.stage(randomised(model, tensors, seed, how), number, chosen, len(layers))
    report("randomization", len(groups), len(groups))
    verdicts = tuple(_verdict(r.method.name, [s for s in stages if s.method == r.method.name]) for r in run.requests)
    return Randomization(mode, seed, how, len(prepared), tuple(stages), verdicts)


def stages_of(layers: Sequence[WeightLayer], most: int) -> list[list[WeightLayer]]:
    """Layers from the logits down in at most ``most`` groups of consecutive ones, the first layer alone."""
    if most < 1:
        raise UsageError(f"the randomization test has at least 1 stage, not {most}.")
    if most == 1 or len(layers) == 1:
        return [list(layers)]
    rest = list(layers[1:])
    edges = np.unique(np.rint(np.linspace(0, len(rest), min(most - 1, len(rest)) + 1)).astype(int))
    return [[layers[0]], *(rest[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True))]


def randomised(model: Model, tensors: Sequence[str], seed: int, how: str) -> Model:
    """The same model with other weights: preprocessing, labels, provider and everything else as it is."""
    from onnxvis.model import Model as Opened

    file = read_model(randomize(with_weights(model.file), tensors, seed=seed, how=how))
    shape = model.example_shape()
    size = (shape[-2], shape[-1]) if model.layout == "NCHW" else (shape[-3], shape[-2])
    return Opened(
        file, model.preprocessing, model.labels, model.provider.short, model.logits.output,
        model.engine.constants, size, model.engine.gradient_choice,
    )  # fmt: skip


class _Run:
    """The original maps, and what each stage is held against."""

    def __init__(
        self, model: Model, prepared: Sequence[Prepared], requests: Sequence[Request], seed: int, batch_size: int
    ) -> None:
        self.prepared, self.requests, self.seed, self.batch_size = prepared, requests, seed, batch_size
        x = np.concatenate([p.tensor for p in prepared])
        name = model.logits.tensor
        logits = logits_of(model, model.engine.forward(x, (name,), batch_size), len(x))
        self.scores: list[list[Score]] = [
            resolve("top1", row, model.labels, form=model.output_form) for row in logits
        ]
        self.boxes = [p.geometry.content_box for p in prepared]
        self.original = [self._maps(model, chosen) for chosen in requests]

    def stage(self, other: Model, number: int, layers: Sequence[WeightLayer], total: int) -> list[Stage]:
        """What every method shows on a randomised model."""
        names, part = tuple(layer.name for layer in layers), len(layers) / total
        found = []
        for chosen, before in zip(self.requests, self.original, strict=True):
            name = chosen.method.name
            try:
                after = self._maps(other, chosen)
            except OnnxvisError as error:
                found.append(Stage(name, number, names, part, None, None, None, str(error)))
                continue
            pairs = list(zip(before, after, strict=True))
            found.append(
                Stage(
                    name, number, names, part,
                    _mean([rank_correlation(np.abs(a), np.abs(b)) for a, b in pairs]),
                    _mean([rank_correlation(a, b) for a, b in pairs]),
                    _mean([ssim(a, b) for a, b in pairs]),
                )  # fmt: skip
            )
        return found

    def _maps(self, model: Model, chosen: Request) -> list[np.ndarray]:
        found = attributions(
            model, chosen, self.prepared, self.scores, batch_size=self.batch_size, seed=self.seed
        )
        return [
            reduced(one[0])[y0:y1, x0:x1] for one, (x0, y0, x1, y1) in zip(found, self.boxes, strict=True)
        ]


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _verdict(method: str, stages: Sequence[Stage]) -> MethodVerdict:
    known = [s.rank_abs for s in stages if s.rank_abs is not None]
    if not known:
        return MethodVerdict(method, UNKNOWN, None, BOUND, f"{method} gave no map on the randomised models")
    value = float(np.mean(known))
    verdict = UNCHANGED if value > BOUND else DEPENDS
    return MethodVerdict(method, verdict, value, BOUND, f"{method} {verdict}: rank correlation {value:.2f}")
