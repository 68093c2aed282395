"""`onnxvis evaluate`: methods by metrics over some pictures, with intervals."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from onnxvis._version import __version__
from onnxvis.audit.metrics import Measured, Summary, get_metric, measure, metric_names, summarize
from onnxvis.audit.metrics.base import Settings as MetricSettings
from onnxvis.audit.metrics.similarity import agreement
from onnxvis.audit.objects import Place, read_objects
from onnxvis.audit.repeatable import repeatable_options
from onnxvis.cli.console import err, out, print_wide, progress_bar, visible
from onnxvis.cli.partial import Partial
from onnxvis.errors import LayerError, ModelError, OnnxvisError, OutputError, TargetError, UsageError
from onnxvis.explaining import Request, Settings, explain_prepared, request
from onnxvis.explanation import Explanation
from onnxvis.files import write_file
from onnxvis.locations import redacted
from onnxvis.methods import method_names
from onnxvis.methods.checkpoint import fingerprint
from onnxvis.model import Model
from onnxvis.picture_files import picture_files
from onnxvis.preprocessing import Prepared
from onnxvis.progress import Progress
from onnxvis.single_writer import single_writer
from onnxvis.target import is_several

__all__ = ["EvaluateJob", "run_evaluate"]

_WIDTH = 24  # of a column: a mean with its interval


@dataclass(frozen=True)
class EvaluateJob:
    """Everything `onnxvis evaluate` was asked."""

    model: Model
    images: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...] | None = None
    target: str = "top1"
    boxes: Path | None = None
    masks: Path | None = None
    out: Path | None = None
    score: str = "probability"
    baseline: str | None = None
    steps: int = 28
    batch_size: int = 8
    seed: int = 0
    quiet: bool = False


@dataclass
class _Run:
    """What is finished, here and in an interrupted run."""

    partial: Partial
    known: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    values: dict[tuple[str, str], list[float | None]] = field(default_factory=dict)
    agreements: list[np.ndarray] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def run_evaluate(job: EvaluateJob) -> int:
    """Measure, print the table, write the figures: 0, 2 when a picture failed, 130 when interrupted.

    With a file for the figures, an interrupted run is continued by the same command.
    """
    if job.out is not None and job.out.is_dir():
        raise UsageError(f"{job.out} is a folder; name a file for the figures with --out.")
    if is_several(job.target):
        raise UsageError(f"metrics are measured for one target; {job.target!r} stands for several. Give one at a time.")
    images = list(dict.fromkeys(picture_files(job.images)))  # one given twice is still one picture
    where, unused = read_objects(job.boxes, job.masks).assigned(images)
    MetricSettings(job.batch_size, job.seed, job.steps, score=job.score, baseline=job.baseline)  # refused before work
    metrics = _metrics(job, job.boxes is not None or job.masks is not None)
    requests, notes = _requests(job)
    if unused:
        notes.append(
            f"{len(unused)} names in the boxes or masks, which belong to none of the pictures: {unused[0]} ..."
        )
    with _alone(job):
        return _run(job, images, where, requests, metrics, notes)


def _alone(job: EvaluateJob) -> contextlib.AbstractContextManager[None]:
    """The only one that writes these figures, and what is finished of them."""
    return contextlib.nullcontext() if job.out is None else single_writer(job.out.parent, f".{job.out.name}.lock")


def _run(
    job: EvaluateJob,
    images: Sequence[str],
    where: Mapping[str, Place],
    requests: Sequence[Request],
    metrics: Sequence[str],
    notes: Sequence[str],
) -> int:
    run = _Run(partial=_partial(job, requests, metrics))
    run.known = run.partial.read()
    if run.known:
        err.print(f"{len(run.known)} pictures were finished before")
    code = 0
    with progress_bar(job.quiet) as progress:
        try:
            for number, image in enumerate(images):
                progress("pictures", number, len(images))
                try:
                    _picture(job, image, requests, metrics, where.get(image), run, progress)
                except (OutputError, TargetError) as error:  # no fault of the picture, and the next would fail likewise
                    if isinstance(error, OutputError) or not run.rows:
                        raise
                    run.failures.append((redacted(image), str(error)))
                except OnnxvisError as error:
                    run.failures.append((redacted(image), str(error)))
            progress("pictures", len(images), len(images))
        except KeyboardInterrupt:
            err.print("\n[yellow]interrupted[/]: the figures of the finished pictures follow")
            code = 130
    names = [r.method.name for r in requests]
    if run.rows:
        _show(names, metrics, run)
    for note in notes:
        err.print(f"[yellow]left out:[/] {escape(visible(note))}")
    for image, reason in run.failures:
        err.print(f"[red]failed:[/] {escape(visible(f'{image}: {reason}'))}")
    if job.out is not None:
        write_file(
            job.out,
            _json(job, names, metrics, run, [*notes, *(["interrupted: not all pictures"] if code else [])]),
            "Choose another file with --out.",
        )
        if not code:
            run.partial.remove()
        out.print(f"figures: {escape(str(job.out))}")
    return code or (2 if run.failures else 0)


def _metrics(job: EvaluateJob, masks: bool) -> list[str]:
    asked = job.metrics
    if asked is None or "all" in asked:
        chosen = [get_metric(name) for name in metric_names()]
        return [m.name for m in chosen if (m.quick or asked is not None) and (masks or not m.needs_mask)]
    names = [get_metric(name).name for name in asked]
    if not names:
        raise UsageError(f"no metric was given. The metrics: {', '.join(metric_names())}, or 'all'.")
    needing = [name for name in names if get_metric(name).needs_mask]
    if needing and not masks:
        raise UsageError(f"{needing[0]} needs to know where the objects are: give --boxes or --masks.")
    return list(dict.fromkeys(names))


def _requests(job: EvaluateJob) -> tuple[list[Request], list[str]]:
    names = method_names() if "all" in job.methods else job.methods
    requests, notes = [], []
    for name in dict.fromkeys(names):
        try:
            requests.append(request(job.model, name, repeatable_options(name)))
        except (LayerError, ModelError) as error:
            notes.append(f"{name}: {error}")
    if not requests:
        raise UsageError(f"no method can be measured. {' '.join(notes)}")
    return requests, notes


def _picture(
    job: EvaluateJob,
    image: str,
    requests: Sequence[Request],
    metrics: Sequence[str],
    place: Place | None,
    run: _Run,
    progress: Progress,
) -> None:
    prepared = job.model.prepare(image)
    name = prepared.picture.sha256 if prepared.picture else ""
    mark = f"{name} {place.digest()[:12] if place else 'nowhere'}"
    if mark not in run.known:
        where = place.values() if place else None
        run.known[mark] = _measured(job, prepared, requests, metrics, where, progress)
        run.partial.add(mark, run.known[mark])
    rows, table = run.known[mark]
    run.rows += rows
    run.agreements.append(np.array(table, np.float64))
    for row in rows:
        for metric, result in row["metrics"].items():
            run.values.setdefault((row["method"], metric), []).append(result["value"])


def _measured(
    job: EvaluateJob,
    prepared: Prepared,
    requests: Sequence[Request],
    metrics: Sequence[str],
    where: np.ndarray | None,
    progress: Progress,
) -> list[Any]:
    """Rows of all methods on one picture, and how well they agree; plain data."""
    settings = Settings(job.batch_size, seed=job.seed, allow_unverified=True, progress=progress)
    found = explain_prepared(job.model, [prepared], requests, [(job.target,)], settings)[0]
    explanations: list[Explanation] = [per_target[0] for per_target in found]
    measured = measure(
        job.model, explanations, metrics,
        masks=None if where is None else [where] * len(explanations),
        batch_size=job.batch_size, seed=job.seed, steps=job.steps, score=job.score, baseline=job.baseline,
        engine="plain",
    )  # fmt: skip
    table = [[None if np.isnan(v) else float(v) for v in row] for row in agreement(explanations)]
    return [[_row(e, results) for e, results in zip(explanations, measured, strict=True)], table]


def _partial(job: EvaluateJob, requests: Sequence[Request], metrics: Sequence[str]) -> Partial:
    model, spec = job.model, job.model.preprocessing
    asked = [job.target, job.score, job.baseline, job.steps, job.seed, *metrics, *(r.method.name for r in requests)]
    key = fingerprint([__version__, model.sha256, spec and spec.to_dict(), model.provider.name, *asked])
    return Partial(None if job.out is None else job.out.with_name(f"{job.out.name}.partial.jsonl"), key)


def _row(explanation: Explanation, results: dict[str, Measured]) -> dict[str, Any]:
    picture = explanation.prepared.picture
    return {
        "picture": picture.name if picture else "array",
        "sha256": picture.sha256 if picture else "",
        "method": explanation.method,
        "target": explanation.target,
        "metrics": {
            name: {
                "value": None if m.value is None or not np.isfinite(m.value) else m.value,
                "note": m.note,
                **({} if m.curve is None else {"curve": _points(m.curve)}),
            }
            for name, m in results.items()
        },
    }


def _points(curve: np.ndarray) -> list[list[float]]:
    """The points of a curve that have a value: JSON knows no NaN."""
    return [[float(v) for v in point] for point in curve if np.isfinite(point).all()]


def _summaries(names: Sequence[str], metrics: Sequence[str], run: _Run) -> dict[str, dict[str, Summary]]:
    return {
        name: {m: summarize(run.values.get((name, m), ()), rate=get_metric(m).rate) for m in metrics} for name in names
    }


def _agreement(run: _Run) -> np.ndarray:
    """Mean over the pictures; NaN where no picture has two maps to compare."""
    stack = np.stack(run.agreements)
    count = np.isfinite(stack).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(stack, axis=0) / np.where(count > 0, count, np.nan))


def _show(names: Sequence[str], metrics: Sequence[str], run: _Run) -> None:
    summaries = _summaries(names, metrics, run)
    pictures = len(run.agreements)
    width = max(_WIDTH, *map(len, names)) * (len(names) + 1)
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"means over {pictures} pictures, 95 % intervals")
    table.add_column("metric", no_wrap=True)
    table.add_column("better", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for metric in metrics:
        table.add_row(metric, get_metric(metric).better, *[_text(summaries[name][metric]) for name in names])
    print_wide(table, width)
    if len(names) > 1:
        table = Table(box=None, padding=(0, 2, 0, 0), title="agreement of methods: mean rank correlation of their maps")
        for name in ("", *names):
            table.add_column(name, justify="right", no_wrap=True)
        for name, row in zip(names, _agreement(run), strict=True):
            table.add_row(name, *["–" if np.isnan(v) else f"{v:+.2f}" for v in row])
        print_wide(table, width)


def _text(summary: Summary) -> str:
    if summary.mean is None:
        return "–"
    if summary.low is None or summary.high is None:
        return f"{summary.mean:.3f}"
    return f"{summary.mean:.3f} [{summary.low:.3f}, {summary.high:.3f}]".replace("[", r"\[")


def _json(job: EvaluateJob, names: Sequence[str], metrics: Sequence[str], run: _Run, notes: Sequence[str]) -> bytes:
    from onnxvis.provenance import explained_output, provenance

    table = _agreement(run) if run.agreements else np.zeros((0, 0))
    data = {
        "evaluation_version": 1,
        "settings": {
            "target": job.target,
            "score": job.score,
            "baseline": job.baseline,
            "steps": job.steps,
            "seed": job.seed,
        },
        "metrics": [get_metric(name).to_dict() for name in metrics],
        "summary": {
            name: {metric: asdict(value) for metric, value in row.items()}
            for name, row in _summaries(names, metrics, run).items()
        },
        "agreement": {
            "methods": list(names),
            "rank_correlation": [[None if np.isnan(v) else float(v) for v in row] for row in table],
        },
        "results": run.rows,
        "failures": run.failures,
        "notes": list(notes),
        "provenance": {**provenance(job.model), "explained": explained_output(job.model)},
    }
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str).encode("utf-8", "surrogatepass")
