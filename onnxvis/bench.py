"""How fast explanations are: every method, provider and batch size on the user's own model and machine.

The unit is a plain forward pass of the deployed file at the same batch size, in the same process, run in turn with
everything else: what one explanation costs in forward passes can be compared between machines, milliseconds cannot.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import OnnxvisError, UsageError
from onnxvis.explaining import Request, Settings, explain_prepared, request
from onnxvis.machine import Ceiling, describe_machine, measure_ceiling, peak_memory_mb
from onnxvis.noise import smooth_noise
from onnxvis.preprocessing import Prepared
from onnxvis.progress import Progress, silent
from onnxvis.provenance import versions

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["FORWARD", "BenchReport", "BenchRow", "Subject", "bench"]

FORWARD = "forward"
_LEAST_SECONDS = 0.02
_WARM_AGAIN_BELOW = 2.0
_WHAT = (
    "A time is that of the whole explanation of prepared inputs, divided by their number: the answer of the deployed "
    "file, the method, its checks; without reading or drawing pictures.",
    "Everything ran in turn, one call each per round (or the mean of several, below 20 ms), after a call to warm up "
    "(conversion, sessions, the gradient's finite-difference check).",
    "'forwards' is the time in plain forward passes of the deployed file at the same batch size, in the same round.",
    "For methods that run perturbed copies the batch size is also the number of copies at once.",
)


@dataclass(frozen=True)
class Subject:
    """A model on a provider.

    Attributes:
        name: the model's, with its provider where there are several.
        provider: onnxruntime's name of it.
        sha256: fingerprint of the file.
        precision: what the file computes in.
        input: its image input.
        batch: how batches run on it.
        multiply_adds: of one forward pass of one image; 0 where it could not be counted.
        ceiling: what dense work reached on its provider.
    """

    name: str
    provider: str
    sha256: str
    precision: str
    input: str
    batch: str
    multiply_adds: int
    ceiling: Ceiling


@dataclass(frozen=True)
class BenchRow:
    """One method on one subject at one batch size; times in ms per image.

    Attributes:
        subject: name of the :class:`Subject`.
        method: its name, or "forward" for the plain forward pass.
        batch_size: images at once.
        ms: median over the rounds.
        ms_min: fastest round.
        ms_max: slowest round.
        per_second: images per second at the median.
        forwards: time in plain forward passes of the same round: median.
        forwards_min: least of them.
        forwards_max: most of them.
        first_ms: the first call, which converts and compiles what is needed (for the whole batch, not per image).
        rounds: how often it was timed.
        ceiling_part: part of the measured ceiling that a forward pass reaches; None for methods.
        remark: the layer, or what has to be said.
        error: why it did not run.
    """

    subject: str
    method: str
    batch_size: int
    ms: float = 0.0
    ms_min: float = 0.0
    ms_max: float = 0.0
    per_second: float = 0.0
    forwards: float = 0.0
    forwards_min: float = 0.0
    forwards_max: float = 0.0
    first_ms: float = 0.0
    rounds: int = 0
    ceiling_part: float | None = None
    remark: str = ""
    error: str = ""


@dataclass(frozen=True)
class BenchReport:
    """What was measured, and under which conditions."""

    subjects: tuple[Subject, ...]
    rows: tuple[BenchRow, ...]
    options: dict[str, Any]
    input: str
    machine: dict[str, Any]
    versions: dict[str, str]
    memory_mb: dict[str, float | None]
    interrupted: bool = False
    notes: tuple[str, ...] = _WHAT

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(eq=False)
class _Case:
    """One thing that is timed."""

    subject: str
    method: str
    batch_size: int
    call: Callable[[], str]
    first_ms: float = 0.0
    remark: str = ""
    error: str = ""
    calls: int = 1
    times: list[float] = field(default_factory=list)

    def clock(self) -> float:
        """Seconds of one call: the mean of some, where one alone is too short to time."""
        began = time.perf_counter()
        for _ in range(self.calls):
            self.remark = self.call()
        return (time.perf_counter() - began) / self.calls


def bench(
    models: Mapping[str, Model],
    methods: Sequence[str] = ("grad-cam", "saliency", "occlusion"),
    batch_sizes: Sequence[int] = (1, 8),
    rounds: int = 5,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Time explanations, interleaved.

    Args:
        models: by the name they get in the report; the same file on two providers are two models.
        methods: names of methods; one that does not run on a model gets a row that says why.
        batch_sizes: images at once.
        rounds: how often each is timed, after one call to warm up.
        options: of the methods; each takes those it has.
        progress: called with (stage, done, total).

    Raises:
        UsageError: nothing to time, an unknown method, or an option that none of the methods has.
    """
    if not models or not batch_sizes or min(batch_sizes) < 1 or rounds < 1:
        raise UsageError("a benchmark needs a model, batch sizes of at least 1 and at least one round.")
    report, given = progress or silent, dict(options or {})
    per_method = _options(methods, given)
    before = peak_memory_mb()
    subjects = [_subject(name, model) for name, model in models.items()]
    cases = [
        case
        for name, model in models.items()
        for size in dict.fromkeys(batch_sizes)
        for case in _cases(name, model, per_method, size)
    ]
    interrupted = _run(cases, rounds, report)
    rows = [_row(case, cases, subjects) for case in cases]
    memory = {"before": before, "peak": peak_memory_mb()}
    machine = describe_machine()
    return BenchReport(
        tuple(subjects), tuple(rows), given, "smooth noise, seeds 0, 1, ...", machine, versions(), memory, interrupted
    )


def _options(methods: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of each method, under its proper name; checked here, before anything runs."""
    from dataclasses import fields

    from onnxvis.methods import get_method

    found, used = {}, set()
    for name in dict.fromkeys(methods):
        method = get_method(name)
        own = {f.name for f in fields(method.options)} & set(given)
        found[method.name] = {key: given[key] for key in own}
        method.parse_options(found[method.name])
        used |= own
    unused = sorted(set(given) - used)
    if unused:
        raise UsageError(f"none of the methods {', '.join(found)} has an option {unused[0]!r}.")
    return found


def _subject(name: str, model: Model) -> Subject:
    sample = smooth_noise(model).tensor
    plan = model.engine.batch_plan(sample)
    work = sum(layer.multiply_adds for layer in model.layers)
    return Subject(
        name, model.provider.name, model.sha256, model.engine.precision, str(model.image_input),
        f"{plan.kind}: {plan.reason}", work, measure_ceiling(model.provider),
    )  # fmt: skip


def _cases(name: str, model: Model, methods: Mapping[str, Mapping[str, Any]], size: int) -> list[_Case]:
    prepared = [smooth_noise(model, seed) for seed in range(size)]
    x = np.concatenate([p.tensor for p in prepared])

    def forward() -> str:
        model.engine.forward(x, (model.logits.tensor,), size)
        return ""

    cases = [_Case(name, FORWARD, size, forward)]
    for method, options in methods.items():
        try:
            call = _explainer(model, request(model, method, options), prepared)
        except OnnxvisError as error:
            cases.append(_Case(name, method, size, lambda: "", error=str(error)))
            continue
        cases.append(_Case(name, method, size, call))
    return cases


def _explainer(model: Model, chosen: Request, prepared: Sequence[Prepared]) -> Callable[[], str]:
    settings = Settings(batch_size=len(prepared), allow_unverified=True)
    targets = [("top1",)] * len(prepared)

    def call() -> str:
        found = explain_prepared(model, prepared, [chosen], targets, settings)[0][0][0]
        said = [f"layer {found.layer}"] if found.layer else []
        if found.parity is not None and not found.parity.passed:
            said.append("UNVERIFIED: the converted model disagrees with the file on this noise")
        return "; ".join(said)

    return call


def _run(cases: Sequence[_Case], rounds: int, progress: Progress) -> bool:
    """Warm up, then time all in turn; True when it was interrupted (what was timed until then counts)."""
    total = (rounds + 1) * len(cases)
    done = 0
    try:
        for turn in range(rounds + 1):
            for case in cases:
                if not case.error:
                    _time(case, first=turn == 0)
                done += 1
                progress("bench", done, total)
    except KeyboardInterrupt:
        return True
    return False


def _time(case: _Case, first: bool) -> None:
    try:
        seconds = case.clock()
        if first:
            case.first_ms = seconds * 1e3
            if seconds < _WARM_AGAIN_BELOW:
                case.calls = max(1, min(100, round(_LEAST_SECONDS / max(case.clock(), 1e-9))))
        else:
            case.times.append(seconds * 1e3 / case.batch_size)
    except OnnxvisError as error:
        case.error = str(error)


def _row(case: _Case, cases: Sequence[_Case], subjects: Sequence[Subject]) -> BenchRow:
    unit = next(
        c for c in cases if c.method == FORWARD and (c.subject, c.batch_size) == (case.subject, case.batch_size)
    )
    if case.error or not case.times or not unit.times:
        error = case.error or unit.error or "interrupted before it was timed"
        return BenchRow(case.subject, case.method, case.batch_size, first_ms=case.first_ms, error=error)
    subject = next(s for s in subjects if s.name == case.subject)
    ms = statistics.median(case.times)
    ratios = [mine / own for mine, own in zip(case.times, unit.times, strict=False)]
    part = 2 * subject.multiply_adds / (ms * 1e6) / subject.ceiling.gflops if case.method == FORWARD else None
    return BenchRow(
        subject=case.subject,
        method=case.method,
        batch_size=case.batch_size,
        ms=ms,
        ms_min=min(case.times),
        ms_max=max(case.times),
        per_second=1e3 / ms,
        forwards=statistics.median(ratios),
        forwards_min=min(ratios),
        forwards_max=max(ratios),
        first_ms=case.first_ms,
        rounds=len(case.times),
        ceiling_part=part if subject.multiply_adds else None,
        remark=case.remark,
    )
