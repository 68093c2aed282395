"""Does an explanation depend on what the network has learned? The model-parameter randomization test.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 4. Weights are made random from the logits
down (*cascading*: each stage adds the layers below) or layer by layer (*independent*); each stage is a model of its
own, and every method explains the same score of the same picture on it. A map that stays the same although the
network has forgotten everything shows the picture, not the network.

Alike is measured as in the paper: Spearman's rank correlation of the maps with and without their sign, and structural
similarity.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.audit.metrics.rerun import attributions, reduced
from onnxvis.audit.metrics.similarity import rank_correlation, ssim
from onnxvis.errors import ModelError, OnnxvisError, UsageError
from onnxvis.explaining import Request, request
from onnxvis.graph.randomize import WeightLayer, randomize, weight_layers
from onnxvis.modelfile import ModelFile, read_model, with_weights
from onnxvis.prediction import logits_of
from onnxvis.progress import Progress, silent
from onnxvis.target import Score, resolve

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = [
    "BOUND",
    "DEPENDS",
    "UNCHANGED",
    "UNKNOWN",
    "MethodVerdict",
    "Randomization",
    "Stage",
    "randomization_test",
    "randomized",
    "rebuilt",
    "stages_of",
]

DEPENDS = "depends on the weights"
UNCHANGED = "does not change when the model is randomised"
UNKNOWN = "could not be tested"
BOUND = 0.75
"""Mean rank correlation of the absolute maps above which a method counts as unchanged.

On trained networks (EfficientNet-Lite0, SqueezeNet) guided backprop and deconvnet keep 0.88 to 1.0 while the upper half
of the layers is made random, gradients and class activation maps 0.1 to 0.65: neighboring pixels are alike in any map.
"""

_HALF = 0.5
_CALIBRATED = (
    "the file is quantized: its activations keep the ranges calibrated for the learned weights, and may be cut off"
)


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
    methods: Sequence[str | Request],
    *,
    mode: str = "cascading",
    seed: int = 0,
    max_stages: int = 6,
    deepest: float = 1.0,
    how: str = "permute",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Randomization:
    """Run the model-parameter randomization test.

    Args:
        model: the model.
        prepared: pictures of one input shape, from ``model.prepare``; a handful is enough.
        methods: names from :func:`onnxvis.method_names`, with their default options; or requests from
            :func:`onnxvis.explaining.request`, with theirs.
        mode: "cascading" (from the logits down, each stage keeps what is random) or "independent" (one group of layers
            at a time).
        seed: of the random weights, and of methods with chance.
        max_stages: into how many groups of consecutive layers the network is divided; the first is the last layer
            alone.
        deepest: part of the layers, from the logits down, that is reached at most; the verdict rests on the upper half.
        how: "permute" or "redraw", see :func:`onnxvis.graph.randomize.randomize`.
        batch_size: pictures at once.
        progress: called with (stage, done, total).

    Raises:
        UsageError: no pictures, another mode, or a negative seed.
        ModelError: the model has no weights to randomise.
    """
    if mode not in ("cascading", "independent"):
        raise UsageError(f"the randomization test is 'cascading' or 'independent', not {mode!r}.")
    if seed < 0:
        raise UsageError(f"a seed is a whole number from 0, not {seed}.")
    if not prepared:
        raise UsageError("the randomization test needs at least one picture.")
    layers = weight_layers(with_weights(model.file), model.logits.tensor)
    if not layers:
        raise ModelError(f"{model.name!r} stores no weights that could be randomised: convolutions or linear layers.")
    report = progress or silent
    requests = [m if isinstance(m, Request) else request(model, m, {}) for m in methods]
    run = _Run(model, prepared, requests, seed, batch_size)
    groups = _reached(stages_of(layers, max_stages), deepest)
    stages: list[Stage] = []
    for number, group in enumerate(groups, start=1):
        report("randomization", number - 1, len(groups))
        chosen = [layer for g in groups[:number] for layer in g] if mode == "cascading" else group
        tensors = [tensor for layer in chosen for tensor in layer.tensors]
        stages += run.stage(randomized(model, tensors, seed, how), number, chosen, len(layers))
    report("randomization", len(groups), len(groups))
    depth = np.cumsum([len(group) for group in groups]) / len(layers)
    upper = max(1, int((depth <= _HALF).sum()))
    verdicts = tuple(
        _verdict(r.method.name, [s for s in stages if s.method == r.method.name and s.number <= upper], mode)
        for r in run.requests
    )
    notes = (_CALIBRATED,) if model.engine.precision == "int8" else ()
    return Randomization(mode, seed, how, len(prepared), tuple(stages), verdicts, notes)


def stages_of(layers: Sequence[WeightLayer], most: int) -> list[list[WeightLayer]]:
    """Layers from the logits down in at most ``most`` groups of consecutive ones, the first layer alone."""
    if most < 1:
        raise UsageError(f"the randomization test has at least 1 stage, not {most}.")
    if most == 1 or len(layers) == 1:
        return [list(layers)]
    rest = list(layers[1:])
    edges = np.unique(np.rint(np.linspace(0, len(rest), min(most - 1, len(rest)) + 1)).astype(int))
    return [[layers[0]], *(rest[a:b] for a, b in itertools.pairwise(edges))]


def _reached(groups: list[list[WeightLayer]], deepest: float) -> list[list[WeightLayer]]:
    """The groups down to a part of all layers, at least the first."""
    total = sum(map(len, groups))
    depth = np.cumsum([len(group) for group in groups]) / total
    return groups[: max(1, int((depth <= deepest + 1e-9).sum()))]


def randomized(model: Model, tensors: Sequence[str], seed: int, how: str) -> Model:
    """The same model with other weights."""
    return rebuilt(model, read_model(randomize(with_weights(model.file), tensors, seed=seed, how=how)))


def rebuilt(model: Model, file: ModelFile) -> Model:
    """Another file in the place of a model's: preprocessing, labels, provider and everything else as it is."""
    from onnxvis.model import Model as Opened

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
        self.scores: list[list[Score]] = [resolve("top1", row, model.labels, form=model.output_form) for row in logits]
        self.boxes = [p.geometry.content_box for p in prepared]
        self.original = [self._maps(model, chosen) for chosen in requests]  # lists of maps, or why there are none

    def stage(self, other: Model, number: int, layers: Sequence[WeightLayer], total: int) -> list[Stage]:
        """What every method shows on a randomised model."""
        names, part = tuple(layer.name for layer in layers), len(layers) / total
        found = []
        for chosen, before in zip(self.requests, self.original, strict=True):
            name = chosen.method.name
            after = before if isinstance(before, str) else self._maps(other, chosen)
            if isinstance(before, str) or isinstance(after, str):
                found.append(Stage(name, number, names, part, None, None, None, str(after)))
                continue
            pairs = list(zip(before, after, strict=True))
            size = _mean([rank_correlation(np.abs(a), np.abs(b)) for a, b in pairs])
            signed = _mean([rank_correlation(a, b) for a, b in pairs])
            alike = _mean([ssim(a, b) for a, b in pairs])
            note = "" if size is not None else "the map is flat"
            found.append(Stage(name, number, names, part, size, signed, alike, note))
        return found

    def _maps(self, model: Model, chosen: Request) -> list[np.ndarray] | str:
        try:
            found = attributions(model, chosen, self.prepared, self.scores, batch_size=self.batch_size, seed=self.seed)
        except OnnxvisError as error:
            return str(error)
        return [reduced(one[0])[y0:y1, x0:x1] for one, (x0, y0, x1, y1) in zip(found, self.boxes, strict=True)]


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _verdict(method: str, stages: Sequence[Stage], mode: str) -> MethodVerdict:
    """Judge by the stages of the upper half: below it, methods that copy the picture change at last."""
    known = [s.rank_abs for s in stages if s.rank_abs is not None]
    if not known:
        why = next((s.note for s in stages if s.note), "every map was flat")
        return MethodVerdict(method, UNKNOWN, None, BOUND, f"{method} {UNKNOWN}: {why}")
    value = float(np.mean(known))
    verdict = UNCHANGED if value > BOUND else DEPENDS
    part = stages[-1].parts if mode == "cascading" else sum(s.parts for s in stages)
    how = f"while the last {100 * part:.0f} % of the layers become random"
    how += "" if mode == "cascading" else ", one group at a time"
    empty = len(stages) - len(known)
    left = f"; at {empty} of {len(stages)} stages there was no map to compare" if empty else ""
    meaning = ": it shows the picture more than what the network learned" if verdict == UNCHANGED else ""
    return MethodVerdict(
        method, verdict, value, BOUND,
        f"{method} {verdict}{meaning}. {how[0].upper()}{how[1:]}, the mean rank correlation with its own map is "
        f"{value:.2f} (bound {BOUND:g}){left}.",
    )  # fmt: skip
