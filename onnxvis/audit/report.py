"""`onnxvis audit`: one folder that says what a model is, why it decides, and how far both can be trusted.

The folder holds ``index.html`` (one page, which loads nothing), ``audit.json`` (the same as data) and every map with
a manifest that ``onnxvis replay`` repeats. What is finished is on disk; the same command goes on after an interruption
and ends with an equal ``audit.json``, apart from times.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxvis._version import __version__
from onnxvis.audit.metrics import get_metric, metric_names
from onnxvis.audit.objects import NOWHERE, Objects
from onnxvis.audit.repeatable import repeatable_options
from onnxvis.audit.report_checks import run_checks
from onnxvis.audit.report_data import accuracy, agreement_table, confidence, describe_methods, limits, metric_table
from onnxvis.audit.report_model import class_count, describe_environment, describe_model
from onnxvis.audit.report_page import write_page
from onnxvis.audit.report_state import ReportFolder, plain_json
from onnxvis.audit.report_steps import AuditEngine, Work, answer_all, explain_chosen
from onnxvis.audit.report_unit import TRUTH, Asked, targets_of
from onnxvis.audit.selection import Answer, Item, Items, Selection, find_items, select
from onnxvis.errors import LayerError, ModelError, PictureError, UsageError
from onnxvis.explaining import Request, Settings, request
from onnxvis.progress import Progress, silent
from onnxvis.single_writer import single_writer
from onnxvis.target import resolve

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["AUDIT_VERSION", "DEFAULT_METHODS", "AuditPlan", "AuditResult", "audit"]

AUDIT_VERSION = 1
DEFAULT_METHODS = ("grad-cam", "integrated-gradients", "occlusion")
_OBJECTS = ("source", "pictures", "unused")
_QUICK_STEPS, _FULL_STEPS = 14, 28


@dataclass(frozen=True)
class AuditPlan:
    """What an audit does.

    Attributes:
        methods: names; one that this model cannot do is left out, with the reason.
        targets: as for :func:`onnxvis.explain`, and "truth": the class a picture is labelled with, where that is not
            what the model answered. Empty: "top1", and "truth" where pictures are labelled.
        metrics: names; ``None`` takes those that are quick, or with ``full`` all; those of localization only where
            objects are given.
        objects: where the objects are, for the metrics of localization (:func:`onnxvis.audit.objects.read_objects`).
        selection: which pictures are explained; all are classified.
        limit: how many at most.
        full: more metrics, for every target, and longer self-tests.
        options: of the methods; one goes to the methods that have it. Occlusion covers whole pictures (engine
            "plain") unless an engine is given, since a choice by measured time is not repeatable.
        batch_size: pictures at once.
        seed: of everything random.
        allow_unverified: keep maps whose gradient disagrees with the deployed file, stamped as unverified; else such
            a map is a failure that is listed.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    targets: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    objects: Objects = NOWHERE
    selection: Selection = field(default_factory=Selection)
    limit: int = 200
    full: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    seed: int = 0
    allow_unverified: bool = False

    def __post_init__(self) -> None:
        """Numbers that nothing could be done with are refused before any work."""
        for name, least in (("limit", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} of an audit is at least {least}, not {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class AuditResult:
    """What an audit left behind.

    Attributes:
        folder: where.
        page: ``index.html``.
        data: what ``audit.json`` holds.
        interrupted: whether it was stopped; what is finished is in the page.
    """

    folder: Path
    page: Path
    data: Mapping[str, Any]
    interrupted: bool = False

    @property
    def failures(self) -> int:
        """Pictures that could not be used, and maps that could not be made."""
        return len(self.data["pictures"]["failed"]) + sum(len(e["problems"]) for e in self.data["entries"])


def audit(
    model: Model,
    pictures: Sequence[str] | Items,
    out: str | os.PathLike[str],
    plan: AuditPlan | None = None,
    *,
    command: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
    engine: AuditEngine | None = None,
) -> AuditResult:
    """Audit a model on pictures.

    Args:
        model: from :func:`onnxvis.load`.
        pictures: files, folders (sub-folders named like classes label their pictures), CSV files of paths and labels.
        out: the folder. One that holds an unfinished audit of the same settings is continued.
        plan: what to do.
        command: the command line that repeats it, for the report.
        overwrite: begin anew where the folder holds an audit of other settings.
        progress: called with (stage, done, total).
        engine: who computes answers, maps and metrics; ``None`` does it here. The report is the same. Self-tests run
            here always.

    Returns:
        The result. After an interruption (Ctrl-C) it holds what is finished and says so; no finished work is lost.

    Raises:
        OnnxvisError: the plan does not fit the model, no picture can be used, or the folder cannot be written or is
            being written by another process.
    """
    asked = plan or AuditPlan()
    report = progress or silent
    began = time.time()
    items = pictures if isinstance(pictures, Items) else _items(pictures, model, out)
    requests, skipped = _requests(model, asked)
    targets = _targets(asked, items)
    metrics = _metrics(asked)
    places, unplaced = asked.objects.assigned([item.path for item in items.items])
    settings = _settings(model, asked, requests, targets, metrics)
    shared = Settings(asked.batch_size, False, asked.seed, asked.allow_unverified, report)
    steps = {"steps": _FULL_STEPS if asked.full else _QUICK_STEPS, "engine": "plain"}
    asked_of_each = Asked(requests, targets, metrics, asked.full, shared, steps, places=places)
    with single_writer(out):
        folder = ReportFolder(out, settings, overwrite)
        work = Work(model, folder, asked_of_each, engine)
        done = _Done(objects=(asked.objects.source, len(places), unplaced) if asked.objects else None)
        interrupted = False
        try:
            _run(work, items, asked, done, report)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if engine is not None:
                engine.close()
        data = _assemble(work, items, skipped, settings, done, command, interrupted)
        data["times"] = _times(began)
        folder.write("audit.json", plain_json(data))
        return AuditResult(folder.out, write_page(folder, data), data, interrupted)


def _items(pictures: Sequence[str], model: Model, out: str | os.PathLike[str]) -> Items:
    return find_items(pictures, model.labels, class_count(model), os.fspath(out))


@dataclass
class _Done:
    """What has been done so far."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    chosen: list[Item] = field(default_factory=list)
    selection: str = "none yet"
    objects: tuple[str, int, list[str]] | None = None
    finished: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)


def _run(work: Work, items: Items, plan: AuditPlan, done: _Done, report: Progress) -> None:
    done.answers = answer_all(work, items.items, report)
    usable = [item for item in items.items if "error" not in done.answers[item.path]]
    answered = [
        Answer(
            done.answers[item.path]["prediction"]["top"][0]["index"], confidence(done.answers[item.path]), item.truth
        )
        for item in usable
    ]
    if not usable:
        first = next(iter(done.answers.values()))
        raise UsageError(f"none of the {len(items.items)} pictures can be used; the first: {first['error']}")
    chosen, done.selection = select(answered, plan.selection, plan.limit)
    done.chosen = [usable[i] for i in chosen]
    if done.chosen:
        _check_targets(work, done.chosen[0], done.answers[done.chosen[0].path])
        done.finished = _keeping(lambda: explain_chosen(work, done.chosen, done.answers, done.lost, report), work, done)
        if work.engine is not None:
            work.engine.close()
        there = [item for item in done.chosen if item.path not in done.lost]
        done.checks = run_checks(work, there, done.answers, report) if there else {}


def _keeping(explain: Callable[[], list[str]], work: Work, done: _Done) -> list[str]:
    """What is finished counts, also when the rest was interrupted."""
    try:
        return explain()
    except KeyboardInterrupt:
        done.finished = [item.path for item in done.chosen if work.folder.entry(item.path) is not None]
        raise


def _check_targets(work: Work, item: Item, answer: Mapping[str, Any]) -> None:
    """A target that does not exist is an error now, not a failure of every picture."""
    from onnxvis.prediction import logits_of

    try:
        x = work.model.prepare(item.opened).tensor
    except PictureError:  # lost since it was answered, which costs only itself
        return
    logits = logits_of(work.model, work.model.engine.forward(x, (work.model.logits.tensor,)), 1)[0]
    for spec in targets_of(work.asked.targets, item, answer):
        resolve(spec, logits, work.model.labels, form=work.model.output_form)


def _requests(model: Model, plan: AuditPlan) -> tuple[list[Request], list[dict[str, str]]]:
    from dataclasses import fields

    from onnxvis.methods import get_method, method_names

    names = method_names() if "all" in plan.methods else tuple(dict.fromkeys(plan.methods))
    if not names:
        raise UsageError("no method was given; `onnxvis methods` lists them.")
    own = {name: {f.name for f in fields(get_method(name).options)} for name in names}
    unknown = [option for option in plan.options if not any(option in have for have in own.values())]
    if unknown:
        get_method(names[0]).parse_options({unknown[0]: plan.options[unknown[0]]})
    requests, skipped = [], []
    for name in names:
        try:
            given = {k: v for k, v in plan.options.items() if k in own[name]}
            options = {**repeatable_options(name), **given}
            requests.append(request(model, name, options))
        except (LayerError, ModelError) as error:
            skipped.append({"method": get_method(name).name, "reason": str(error)})
    if not requests:
        raise UsageError(f"no method can be used on this model. {' '.join(s['reason'] for s in skipped)}")
    return requests, skipped


def _targets(plan: AuditPlan, items: Items) -> tuple[str, ...]:
    targets = plan.targets or (("top1", TRUTH) if items.labelled else ("top1",))
    if TRUTH in targets and not items.labelled:
        raise UsageError(f"the target {TRUTH!r} needs labelled pictures; labels: {items.truth_source}.")
    return targets if any(t != TRUTH for t in targets) else ("top1", *targets)


def _metrics(plan: AuditPlan) -> tuple[str, ...]:
    known = [get_metric(name) for name in metric_names()]
    where = bool(plan.objects)
    if plan.metrics is None:
        return tuple(m.name for m in known if (where or not m.needs_mask) and (m.quick or plan.full))
    chosen = [get_metric(name) for name in plan.metrics if name != "none"]
    needing = [m.name for m in chosen if m.needs_mask]
    if needing and not where:
        raise UsageError(f"{needing[0]} needs to know where the objects are: give --boxes or --masks.")
    return tuple(dict.fromkeys(m.name for m in chosen))


def _settings(
    model: Model, plan: AuditPlan, requests: Sequence[Request], targets: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """Everything that determines the results: a folder with others is not continued."""
    spec = model.preprocessing
    return {
        "audit_version": AUDIT_VERSION,
        "onnxvis": __version__,
        "model_sha256": model.sha256,
        "external_data": dict(model.file.external),
        "preprocessing": {k: v for k, v in spec.to_dict().items() if k != "source"} if spec else None,
        "labels": hashlib.sha256("\n".join(model.labels.names).encode("utf-8", "surrogatepass")).hexdigest()[:16],
        "provider": model.provider.name,
        "gradients": model.engine.gradient_choice,
        "explained": model.logits.tensor,
        "methods": {r.method.name: {k: str(v) for k, v in sorted(vars(r.options).items())} for r in requests},
        "targets": list(targets),
        "metrics": list(metrics),
        "full": plan.full,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "allow_unverified": plan.allow_unverified,
        **({"objects": plan.objects.digest()} if plan.objects else {}),
    }


def _assemble(
    work: Work,
    items: Items,
    skipped: Sequence[Mapping[str, str]],
    settings: Mapping[str, Any],
    done: _Done,
    command: str,
    interrupted: bool,
) -> dict[str, Any]:
    model, names = work.model, [r.method.name for r in work.asked.requests]
    entries = [entry for path in done.finished if (entry := work.folder.entry(path)) is not None]
    answered = [item for item in items.items if item.path in done.answers]
    failed = [
        {"path": i.path, "error": done.answers[i.path]["error"]} for i in answered if "error" in done.answers[i.path]
    ]
    lost = [{"path": path, "error": error} for path, error in sorted(done.lost.items())]
    truths = {item.truth for item in items.items if item.truth is not None}
    data: dict[str, Any] = {
        "audit_version": AUDIT_VERSION,
        "command": command,
        "interrupted": interrupted,
        "model": describe_model(model),
        "environment": describe_environment(model),
        "settings": {**settings, "metric_options": dict(work.asked.metric_options)},
        "pictures": {
            "given": len(items.items),
            "answered": len(answered) - len(failed),
            "chosen": len(done.chosen),
            "finished": len(entries),
            "failed": [*failed, *lost],
            "selection": done.selection,
            "truth": items.truth_source,
            **({} if done.objects is None else {"objects": dict(zip(_OBJECTS, done.objects, strict=True))}),
        },
        "accuracy": accuracy(answered, done.answers, {k: model.labels.name(k) for k in truths}),
        "methods": describe_methods(names),
        "skipped": list(skipped),
        "checks": done.checks or None,
        "metrics": metric_table(entries, names, work.asked.metrics),
        "agreement": agreement_table(entries, names),
        "entries": entries,
    }
    data["limits"] = limits(data)
    return data


def _times(began: float) -> dict[str, Any]:
    made = datetime.datetime.fromtimestamp(began, datetime.UTC)
    return {"started": f"{made:%Y-%m-%d %H:%M:%S} UTC", "seconds": round(time.time() - began, 1)}
