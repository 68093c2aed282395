"""Does the explanation keep what it promises, on this model? Each promise is tried, not taken from the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxvis.audit.metrics.rerun import attributions, reduced, with_tensor
from onnxvis.audit.metrics.similarity import rank_correlation
from onnxvis.audit.randomization import UNCHANGED, UNKNOWN, randomization_test, rebuilt
from onnxvis.errors import OnnxvisError, UsageError
from onnxvis.explaining import Request, request
from onnxvis.graph.shift_input import shift_input
from onnxvis.methods import Attribution
from onnxvis.methods.linear_head import head_or_none
from onnxvis.modelfile import read_model, with_weights
from onnxvis.prediction import logits_of
from onnxvis.progress import Progress, silent
from onnxvis.runtime.batching import TOLERANCES
from onnxvis.runtime.parity import GRADIENT_TOLERANCE, output_error
from onnxvis.target import Score, resolve

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["FAILED", "NOT_APPLICABLE", "NOT_RUN", "PASSED", "SelfTest", "self_tests"]

PASSED, FAILED, NOT_APPLICABLE, NOT_RUN = "passed", "failed", "not applicable", "not run"

_PICTURES = 3
_STAGES = 5
_HALF = 0.5
_COMPLETE = 0.05
_IDENTITY = 1e-3
_SHIFT = 1.0
_SHIFTED = 0.05
_SEEDS = 0.8
_HEAD_SUMS = ("cam", "grad-cam", "hires-cam", "xgrad-cam")
_WITH_CHANCE = ("smoothgrad", "rise")


@dataclass(frozen=True)
class SelfTest:
    """One promise and how it stands.

    Attributes:
        name: what is tested: "answers repeat", "batches", "applies", "outputs", "gradient", "completeness",
            "repeatability", "other seed", "input shift" or "randomization".
        method: of which method; ``None`` for the model as a whole.
        outcome: "passed", "failed", "not applicable" or "not run".
        value: the number that decided, where there is one.
        bound: what it was held against.
        sentence: for people: what was found and what it means.
    """

    name: str
    method: str | None
    outcome: str
    value: float | None
    bound: float | None
    sentence: str


@dataclass(frozen=True, eq=False)
class _Trial:
    """One method with its results on the pictures."""

    model: Model
    prepared: Sequence[Prepared]
    scores: list[list[Score]]
    chosen: Request
    found: list[Attribution]
    seed: int

    @property
    def name(self) -> str:
        return self.chosen.method.name

    def again(self, model: Model, prepared: Sequence[Prepared], seed: int) -> list[Attribution]:
        rows = attributions(model, self.chosen, prepared, self.scores, seed=seed)
        return [row[0] for row in rows]


def self_tests(
    model: Model,
    prepared: Sequence[Prepared],
    methods: Sequence[str | Request],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[SelfTest]:
    """Try out what the methods promise on this model.

    Args:
        model: the model.
        prepared: pictures from ``model.prepare``; the first few of one input shape are used.
        methods: names from :func:`onnxvis.method_names`, tried with their default options; or requests from
            :func:`onnxvis.explaining.request`, tried with theirs.
        seed: of everything random.
        progress: called with (stage, done, total).

    Raises:
        UsageError: no pictures, or an unknown method.
    """
    if not prepared:
        raise UsageError("self-tests need at least one picture.")
    report = progress or silent
    some = [p for p in prepared if p.tensor.shape == prepared[0].tensor.shape][:_PICTURES]
    x = np.concatenate([p.tensor for p in some])
    name = model.logits.tensor
    logits = logits_of(model, model.engine.forward(x, (name,)), len(x))
    scores = [resolve("top1", row, model.labels, form=model.output_form) for row in logits]
    results = [_answers_repeat(model, x, logits), _batches(model, x, logits)]
    shifted = _shifted_model(model)
    usable = []
    for number, method in enumerate(methods):
        report("self-tests", number, len(methods) + 1)
        try:
            chosen = method if isinstance(method, Request) else request(model, method, {})
            rows = attributions(model, chosen, some, scores, seed=seed)
        except UsageError:
            raise
        except OnnxvisError as error:
            name = method.method.name if isinstance(method, Request) else method
            results.append(SelfTest("applies", name, NOT_APPLICABLE, None, None, str(error)))
            continue
        usable.append(chosen)
        trial = _Trial(model, some, scores, chosen, [row[0] for row in rows], seed)
        results += _of_method(trial, shifted)
    report("self-tests", len(methods), len(methods) + 1)
    results += _randomization(model, some, usable, seed)
    report("self-tests", len(methods) + 1, len(methods) + 1)
    return results


def _part(value: float) -> str:
    """A part for people: 0, a small number, or a percentage."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.1e}" if value < 1e-3 else f"{100 * value:.3g} %"


# --- the model -------------------------------------------------------------------------------------


def _answers_repeat(model: Model, x: np.ndarray, logits: np.ndarray) -> SelfTest:
    again = logits_of(model, model.engine.forward(x, (model.logits.tensor,)), len(x))
    same, error = bool(np.array_equal(again, logits)), output_error(again, logits)
    text = "two runs on the same pictures gave "
    text += "equal logits, bit by bit" if same else f"logits that differ by {_part(error)} of the largest"
    return SelfTest("answers repeat", None, PASSED if same else FAILED, error, 0.0, text)


def _batches(model: Model, x: np.ndarray, logits: np.ndarray) -> SelfTest:
    plan = model.engine.batch_plan(x[:1])
    if len(x) < 2 or plan.kind == "looped":
        why = "there was one picture only" if len(x) < 2 else f"pictures run one by one: {plan.reason}"
        return SelfTest("batches", None, NOT_APPLICABLE, None, None, why)
    alone = [logits_of(model, model.engine.forward(x[i : i + 1], (model.logits.tensor,)), 1) for i in range(len(x))]
    error, bound = output_error(logits, np.concatenate(alone)), TOLERANCES[model.engine.precision]
    text = f"pictures in a batch and one by one: logits differ by {_part(error)} of the largest"
    return SelfTest("batches", None, PASSED if error <= bound else FAILED, error, bound, text)


# --- one method ------------------------------------------------------------------------------------


def _of_method(trial: _Trial, shifted: Model | str) -> list[SelfTest]:
    tests: list[Callable[[], SelfTest | None]] = [
        lambda: _outputs(trial),
        lambda: _gradient(trial),
        lambda: _completeness(trial),
        lambda: _repeatability(trial),
        lambda: _other_seed(trial),
        lambda: _input_shift(trial, shifted),
    ]
    return [result for test in tests if (result := test()) is not None]


def _outputs(trial: _Trial) -> SelfTest | None:
    parities = [a.parity for a in trial.found if a.parity is not None]
    if not parities:
        return None
    worst, bound = max(p.output_error for p in parities), parities[0].output_tolerance
    who = parities[0].backend
    text = f"logits of the differentiated model ({who}) differ from the file's by {_part(worst)} of the largest"
    return SelfTest("outputs", trial.name, PASSED if worst <= bound else FAILED, worst, bound, text)


def _gradient(trial: _Trial) -> SelfTest | None:
    parities = [a.parity for a in trial.found if a.parity is not None]
    if not parities:
        return None
    checks = [p.gradient for p in parities if p.gradient is not None]
    if not checks:
        why = parities[0].note or "the gradient is zero here, or the input holds whole numbers"
        return SelfTest("gradient", trial.name, NOT_RUN, None, GRADIENT_TOLERANCE, f"no finite differences: {why}")
    worst, bound = max(c.error for c in checks), parities[0].gradient_tolerance
    text = f"the gradient and finite differences of the file disagree by {_part(worst)} at most, along three directions"
    return SelfTest("gradient", trial.name, PASSED if worst <= bound else FAILED, worst, bound, text)


def _completeness(trial: _Trial) -> SelfTest | None:
    if trial.name == "integrated-gradients":
        worst = max(float(a.parameters["completeness_error"]) for a in trial.found)
        text = f"the sum of the map misses the rise of the score from baseline to picture by at most {_part(worst)}"
        text += "" if worst <= _COMPLETE else f" (bound {_part(_COMPLETE)}); more steps bring it closer"
        return SelfTest("completeness", trial.name, PASSED if worst <= _COMPLETE else FAILED, worst, _COMPLETE, text)
    layer = trial.chosen.layer
    if trial.name not in _HEAD_SUMS or layer is None:
        return None
    head = head_or_none(trial.model, layer)
    if head is None:
        text = "its sum is the score only where one linear layer follows the mean over the layer, and here it does not"
        return SelfTest("completeness", trial.name, NOT_APPLICABLE, None, None, text)
    bound = max(_IDENTITY, head.tolerance)
    x = np.concatenate([p.tensor for p in trial.prepared])
    logits = logits_of(trial.model, trial.model.engine.forward(x, (trial.model.logits.tensor,)), len(x))
    errors = []
    for found, (score, *_), row in zip(trial.found, trial.scores, logits, strict=True):
        assert found.layer_map is not None
        total = float(found.layer_map.astype(np.float64).sum() + score.cotangent.reshape(-1) @ head.bias)
        errors.append(abs(total - float(score.value(row[None])[0])) / float(np.abs(row).max()))
    worst = max(errors)
    text = f"the sum of the layer's map and the bias misses the logit by at most {_part(worst)} of the largest logit"
    return SelfTest("completeness", trial.name, PASSED if worst <= bound else FAILED, worst, bound, text)


def _repeatability(trial: _Trial) -> SelfTest:
    again = trial.again(trial.model, trial.prepared, trial.seed)
    same = all(np.array_equal(a.values, b.values, equal_nan=True) for a, b in zip(trial.found, again, strict=True))
    worst = _change(trial.found, again)
    text = f"two runs gave {'equal maps, bit by bit' if same else f'maps that differ by {_part(worst)} of their size'}"
    return SelfTest("repeatability", trial.name, PASSED if same else FAILED, worst, 0.0, text)


def _other_seed(trial: _Trial) -> SelfTest | None:
    if trial.name not in _WITH_CHANCE:
        return None
    again = trial.again(trial.model, trial.prepared, trial.seed + 1)
    pairs = zip(trial.found, again, strict=True)
    value = float(np.mean([rank_correlation(reduced(a), reduced(b)) for a, b in pairs]))
    text = f"maps of two seeds have a rank correlation of {value:.2f}: what is missing to 1 is chance"
    return SelfTest("other seed", trial.name, PASSED if value >= _SEEDS else FAILED, value, _SEEDS, text)


def _input_shift(trial: _Trial, shifted: Model | str) -> SelfTest:
    if isinstance(shifted, str):
        return SelfTest("input shift", trial.name, NOT_APPLICABLE, None, None, shifted)
    moved = [with_tensor(p, p.tensor + np.asarray(_SHIFT, p.tensor.dtype)) for p in trial.prepared]
    try:
        again = trial.again(shifted, moved, trial.seed)
    except OnnxvisError as error:
        return SelfTest("input shift", trial.name, NOT_RUN, None, _SHIFTED, str(error))
    change = _change(trial.found, again)
    text = f"pictures and network shifted by {_SHIFT:g}, all answers the same: "
    text += f"maps change by {_part(change)} of their size"
    if change > _SHIFTED:
        text += "; it depends on where zero lies in the input's values (its baseline)"
    return SelfTest("input shift", trial.name, PASSED if change <= _SHIFTED else FAILED, change, _SHIFTED, text)


def _shifted_model(model: Model) -> Model | str:
    """The network that takes a constant off its input first; or why there is none."""
    if model.engine.precision != "float32" or np.dtype(model.image_input.dtype).kind != "f":
        kind, precision = model.image_input.dtype, model.engine.precision
        return (
            f"only networks of float inputs and float32 are shifted; this one takes {kind} and computes in {precision}"
        )
    proto = shift_input(with_weights(model.file), model.image_input.name, _SHIFT)
    return rebuilt(model, read_model(proto))


def _change(first: Sequence[Attribution], second: Sequence[Attribution]) -> float:
    """Largest relative Euclidean change of a map."""
    changes = []
    for a, b in zip(first, second, strict=True):
        size = float(np.linalg.norm(a.values.astype(np.float64)))
        moved = float(np.linalg.norm(a.values.astype(np.float64) - b.values))
        changes.append(moved / size if size > 0 else (0.0 if moved == 0 else float("inf")))
    return max(changes)


# --- the weights -----------------------------------------------------------------------------------


def _randomization(model: Model, prepared: Sequence[Prepared], methods: Sequence[Request], seed: int) -> list[SelfTest]:
    if not methods:
        return []
    try:
        found = randomization_test(model, prepared, methods, seed=seed, max_stages=_STAGES, deepest=_HALF)
    except OnnxvisError as error:
        return [SelfTest("randomization", r.method.name, NOT_RUN, None, None, str(error)) for r in methods]
    outcomes = {UNCHANGED: FAILED, UNKNOWN: NOT_RUN}
    return [
        SelfTest("randomization", v.method, outcomes.get(v.verdict, PASSED), v.value, v.bound, v.sentence)
        for v in found.verdicts
    ]
