"""`onnxvis bench`: explanations per second on the user's own model and machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from onnxvis.bench import FORWARD, BenchReport, BenchRow, Subject, bench
from onnxvis.cli.console import out, progress_bar, visible
from onnxvis.cli.options import open_model
from onnxvis.cli.results import can_be_written
from onnxvis.errors import UsageError
from onnxvis.files import write_file

__all__ = ["BenchJob", "run_bench"]

_COLUMNS = ("method", "batch", "ms/image", "min-max", "images/s", "forwards", "min-max", "first ms")


@dataclass(frozen=True)
class BenchJob:
    """Everything `onnxvis bench` was asked."""

    model: Path
    methods: str = "grad-cam,saliency,occlusion"
    batch_sizes: str = "1,8"
    repeat: int = 5
    providers: str | None = None
    compare: Path | None = None
    preprocessing: str | None = None
    output: str | None = None
    size: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    json: Path | None = None
    plot: Path | None = None


def run_bench(job: BenchJob) -> int:
    """Measure, print, and write what was asked for: 0, 2 when nothing could be explained, 130 when interrupted."""
    from onnxvis.methods import method_names

    names = [name.strip() for name in job.methods.split(",") if name.strip()]
    methods = list(method_names()) if "all" in names else names
    sizes = _sizes(job.batch_sizes)
    _writable(job)
    models = _models(job)
    with progress_bar() as progress:
        report = bench(models, methods, sizes, job.repeat, job.options, progress)
    _show(report)
    if job.json is not None:
        _write(job.json, (json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    if job.plot is not None:
        _write(job.plot, _picture(report))
    if report.interrupted:
        out.print("[yellow]interrupted[/]: what was timed until then is shown")
        return 130
    return 0 if not methods or any(row.method != FORWARD and not row.error for row in report.rows) else 2


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--batch-sizes takes numbers of at least 1, separated by commas, not {text!r}.")
    return sizes


def _models(job: BenchJob) -> dict[str, Any]:
    """Each file on each provider."""
    providers: list[str | None] = [p.strip() for p in (job.providers or "").split(",") if p.strip()] or [None]
    paths = [job.model] if job.compare is None else [job.model, job.compare]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    found = {}
    for name, path in zip(names, paths, strict=True):
        for provider in providers:
            model = open_model(path, job.preprocessing, None, provider, job.output, {"size": job.size})
            found[f"{name} on {model.provider.short}" if len(providers) > 1 else name] = model
    return found


def _show(report: BenchReport) -> None:
    machine = report.machine
    busy = f", load average {machine['load_average']}" if "load_average" in machine else ""
    out.print(
        escape(visible(f"{machine['processor']}, {machine['usable_cpus']} usable CPUs{busy}; {machine['system']}"))
    )
    out.print(f"input: {report.input}")
    for subject in report.subjects:
        rows = [row for row in report.rows if row.subject == subject.name]
        _show_subject(subject, rows)
    peak, before = report.memory_mb["peak"], report.memory_mb["before"]
    if peak is not None and before is not None:
        out.print(f"peak memory of the process: {peak:.0f} MB ({before:.0f} MB before the models ran)")
    for note in report.notes:
        out.print(f"[dim]{escape(note)}[/]")
    out.print(f"[dim]{escape(', '.join(f'{k} {v}' for k, v in report.versions.items()))}[/]")


def _show_subject(subject: Subject, rows: list[BenchRow]) -> None:
    out.print(f"\n[bold]{escape(visible(subject.name))}[/]  {escape(visible(subject.input))}, {subject.precision}, "
              f"{subject.provider}; batch {escape(visible(subject.batch))}")  # fmt: skip
    ceiling = subject.ceiling
    out.print(
        f"{subject.multiply_adds / 1e9:.3g} G multiply-adds a forward pass; ceiling measured here: "
        f"{ceiling.gflops:.0f} GFLOP/s (products {ceiling.gemm:.0f}, convolutions {ceiling.convolution:.0f})"
    )
    timed = [row for row in rows if not row.error]
    cells = [_cells(row) for row in timed]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, name in enumerate(_COLUMNS):
        width = max([len(name), *(len(line[place]) for line in cells)])
        table.add_column(name, justify="right" if place else "left", min_width=width)
    for line in cells:
        table.add_row(*line)
    if cells:
        out.print(table)
    for row in rows:
        part = f"{row.ceiling_part:.0%} of the measured ceiling" if row.ceiling_part is not None else ""
        if said := row.error or row.remark or part:
            out.print(escape(visible(f"{row.method}, batch {row.batch_size}: {said}")))


def _cells(row: BenchRow) -> list[str]:
    return [
        row.method, str(row.batch_size), _number(row.ms), f"{_number(row.ms_min)}-{_number(row.ms_max)}",
        _number(row.per_second), _number(row.forwards), f"{_number(row.forwards_min)}-{_number(row.forwards_max)}",
        _number(row.first_ms),
    ]  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _picture(report: BenchReport) -> bytes:
    from onnxvis.render import png_bytes
    from onnxvis.render.chart import Bar, bar_chart

    bars = [
        Bar(f"{row.method}, batch {row.batch_size}", row.ms, row.ms_min, row.ms_max, row.subject,
            f"{row.ms:.3g} ms = {row.forwards:.3g} forward passes" if row.method != FORWARD else f"{row.ms:.3g} ms")
        for row in report.rows
        if not row.error
    ]  # fmt: skip
    if not bars:
        raise UsageError("nothing was timed, so there is nothing to plot.")
    rounds = max(row.rounds for row in report.rows)
    machine = f"{report.machine['processor']}, {report.machine['usable_cpus']} usable CPUs"
    notes = [f"median, whiskers from the fastest to the slowest of {rounds} rounds; {report.input}", machine]
    notes.append(", ".join(f"{name} {version}" for name, version in report.versions.items()))
    chart = bar_chart(bars, "Time of an explanation", "ms per image", notes)
    return png_bytes(chart, Title="onnxvis bench")


def _writable(job: BenchJob) -> None:
    """Refuse files that cannot be written before anything is timed."""
    if job.plot is not None and job.plot.suffix.lower() != ".png":
        raise UsageError(f"--plot writes a PNG: give a name that ends in .png, not {str(job.plot)!r}.")
    for path, flag in ((job.json, "--json"), (job.plot, "--plot")):
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file with {flag}.")
        can_be_written(path.parent, flag)


def _write(path: Path, data: bytes) -> None:
    write_file(path, data)
    out.print(f"written: {escape(str(path))}")
