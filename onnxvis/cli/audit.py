"""`onnxvis audit`: run it, and say in a few lines what was found and where it lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from onnxvis.audit.objects import read_objects
from onnxvis.audit.report import AuditPlan, AuditResult, audit
from onnxvis.audit.report_model import class_count
from onnxvis.audit.report_words import counted, findings
from onnxvis.audit.selection import find_items, parse_selection
from onnxvis.cli.cluster import Cluster, say_pace
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.model import Model

if TYPE_CHECKING:
    from onnxvis.cluster.auditing import RayAuditing

__all__ = ["AuditJob", "run_audit"]

_COLORS = {"good": "green", "bad": "red", "note": "yellow"}


@dataclass(frozen=True)
class AuditJob:
    """Everything `onnxvis audit` was asked."""

    model: Model
    images: tuple[str, ...]
    out: Path
    methods: tuple[str, ...]
    targets: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    boxes: Path | None = None
    masks: Path | None = None
    select: str = "all"
    limit: int = 200
    full: bool = False
    overwrite: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    seed: int = 0
    allow_unverified: bool = False
    quiet: bool = False
    command: str = ""
    cluster: Cluster = field(default_factory=Cluster)


def run_audit(job: AuditJob) -> int:
    """Audit, and say where. 0, or 2 when a picture or map failed, or 130 when interrupted."""
    engine = _engine(job.cluster)
    plan = AuditPlan(
        methods=job.methods,
        targets=job.targets,
        metrics=job.metrics,
        objects=read_objects(job.boxes, job.masks),
        selection=parse_selection(job.select),
        limit=job.limit,
        full=job.full,
        options=job.options,
        batch_size=job.batch_size,
        seed=job.seed,
        allow_unverified=job.allow_unverified,
    )
    items = find_items(job.images, job.model.labels, class_count(job.model), job.out)
    with progress_bar(job.quiet) as progress:
        result = audit(
            job.model, items, job.out, plan, command=job.command, overwrite=job.overwrite, progress=progress,
            engine=engine,
        )  # fmt: skip
    _say(result, job.quiet)
    if engine is not None and engine.pictures_done:
        say_pace(engine.pace, engine.pictures_done)
    if result.interrupted:
        err.print("[yellow]interrupted[/]: what is finished is in the page; the same command goes on")
        return 130
    if result.failures:
        err.print(
            f"[red]{counted(result.failures, 'failure')}[/] of pictures, maps or boxes: named in the page; the rest is "
            "complete"
        )
        return 2
    return 0


def _engine(cluster: Cluster) -> RayAuditing | None:
    options = cluster.options()
    if options is None:
        return None
    from onnxvis.cluster.auditing import RayAuditing

    return RayAuditing(options)


def _say(result: AuditResult, quiet: bool) -> None:
    if not quiet:
        for finding in findings(result.data):
            out.print(f"[{_COLORS[finding.mark]}]•[/] {escape(visible(finding.text))}")
        pictures = result.data["pictures"]
        out.print(f"  {counted(pictures['finished'], 'picture')}, {result.data['times']['seconds']:g} s")
    size = result.page.stat().st_size
    out.print(f"page:   {escape(str(result.page))} ({size / 1e6:.1f} MB)")
    out.print(f"data:   {escape(str(result.folder / 'audit.json'))}")
