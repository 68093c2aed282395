"""`onnxvis check`: one page that says what works on this file."""

from __future__ import annotations

import json

from rich.markup import escape
from rich.table import Table

from onnxvis.check import CheckReport, check
from onnxvis.cli.console import out, visible
from onnxvis.model import Model

__all__ = ["run_check"]


def run_check(model: Model, image: str | None, as_json: bool) -> int:
    """Print the report; 0 when at least one method works, else 2."""
    report = check(model, model.prepare(image) if image is not None else None)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))  # noqa: T201 - for machines: no markup
    else:
        _show(report)
    return 0 if report.usable else 2


def _mark(ok: bool | None) -> str:
    return {True: "[green]ok[/]", False: "[red]no[/]", None: "  "}[ok]


def _show(report: CheckReport) -> None:
    what = report.model
    out.print(f"[bold]{escape(visible(str(what['path'] or what['name'])))}[/]")
    out.print(f"sha256 {what['sha256']}")
    out.print(escape(visible(f"{what['producer']}, opset {what['opset']}, {what['precision']}, {what['provider']}")))
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for finding in report.findings:
        remark = f" [dim]{escape(visible(finding.remark))}[/]" if finding.remark else ""
        text = escape(visible(finding.value)) + remark
        table.add_row(_mark(finding.ok), finding.name, text)
    rewrites = ", ".join(f"{name} ({count})" for name, count in report.rewrites.items()) or "none"
    table.add_row("", "rewrites", rewrites)
    for trial in report.methods:
        text = escape(visible("; ".join(part for part in (trial.reason, trial.parity) if part)))
        table.add_row(_mark(trial.works), trial.method, f"{text} [dim]{trial.seconds:.2f} s[/]")
    table.add_row("", "versions", ", ".join(f"{k} {v}" for k, v in report.versions.items()))
    out.print(table)
