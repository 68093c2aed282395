"""`onnxvis ablate`: which classes lose most when a unit of a classifier is off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.markup import escape
from rich.table import Table as Screen

from onnxvis.behaviour.gan.classifier import UnitAblation, unit_ablation
from onnxvis.behaviour.gan.gallery import save_page
from onnxvis.behaviour.gan.pages import Figure, Section, Table
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.cli.options import parse_numbers
from onnxvis.cli.results import can_be_written
from onnxvis.errors import UsageError
from onnxvis.picture_files import picture_files
from onnxvis.provenance import versions
from onnxvis.render.chart import Bar, bar_chart

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["AblateJob", "run_ablate"]


@dataclass(frozen=True)
class AblateJob:
    """Everything `onnxvis ablate` was asked."""

    model: Model
    images: tuple[str, ...]
    layer: str | None
    units: str | None
    truth: str
    top: int
    out: Path | None
    json: bool
    batch_size: int
    quiet: bool


def run_ablate(job: AblateJob) -> int:
    """Measure, list, and write; 0, or 2 when a picture could not be read, or 130 when it was interrupted."""
    model = job.model
    if job.out is not None:
        can_be_written(job.out)
    files = picture_files(job.images)
    truth = _truth(model, files, job.truth)
    units = None if job.units is None else _units(job.units)
    with progress_bar(job.quiet) as progress:
        found = unit_ablation(
            model, files, job.layer, units, truth, batch_size=job.batch_size, progress=progress
        )  # fmt: skip
    data = {**found.to_dict(), "model": model.describe(), "files": [files[row] for row in found.rows]}
    page = None if job.out is None else _page(job, found, data)  # before anything is printed: a pipe may close
    if job.json:
        out.print(json.dumps(data, ensure_ascii=False), markup=False)
    else:
        _say(found, job.top)
    if page is not None:
        (err if job.json else out).print(f"page:   {escape(str(page))}")
    stopped = any(note.startswith("interrupted") for note in found.notes)
    for note in found.notes:
        if note.startswith(("interrupted", "left out")):
            err.print(f"[yellow]{escape(visible(note))}[/]")
    return 130 if stopped else 2 if len(found.rows) < len(files) else 0


def _truth(model: Model, files: Sequence[str], source: str) -> list[int] | None:
    if source == "prediction":
        return None
    if source != "folder":
        raise UsageError(f"--truth is 'prediction' or 'folder', not {source!r}.")
    return [_class(model, Path(file).resolve().parent.name) for file in files]


def _class(model: Model, name: str) -> int:
    return int(name) if name.isdigit() else model.labels.find(name)


def _units(text: str) -> list[int]:
    numbers = parse_numbers(text, "units") or ()
    if any(n != int(n) or n < 0 for n in numbers):
        raise UsageError(f"--units takes whole numbers separated by commas, not {text!r}.")
    return [int(n) for n in numbers]


def _pair(mean: float, error: float) -> str:
    return f"{mean:+.3f}" + (f" ± {error:.3f}" if np.isfinite(error) else "")


def _unit_rows(found: UnitAblation, top: int) -> list[list[str]]:
    rows = []
    for i in found.ranked(top):
        worst = found.by_class(i)[0]
        rows.append(
            [
                f"unit {found.units[i]}",
                _pair(found.mean_drop[i], found.drop_error[i]),
                f"{found.accuracy_loss[i]:+.1%}",
                visible(worst.label),
                _pair(worst.drop, worst.error),
                f"{worst.accuracy_loss:+.1%}",
                str(worst.pictures),
            ]
        )
    return rows


_HEAD = (
    "unit", "drop of the class's logit", "accuracy lost", "class that loses most", "its drop", "its accuracy lost",
    "pictures",
)  # fmt: skip


def _say(found: UnitAblation, top: int) -> None:
    out.print(f"layer:  {escape(found.layer.tensor)}, {escape(found.layer.reason)}")
    right = f"{found.accuracy:.1%} right with all units on" if found.truth == "given" else "truth: the prediction"
    out.print(f"on {len(found.classes)} pictures of {len(found.labels)} classes; {right}")
    table = Screen(box=None, padding=(0, 2, 0, 0))
    for heading in _HEAD:
        table.add_column(heading)
    for row in _unit_rows(found, top):
        table.add_row(*map(escape, row))
    out.print(table)
    if found.together is not None:
        drops, still = found.together
        loss = found.right.mean() - still.mean()
        out.print(f"all {len(found.units)} together: logit {drops.mean():+.3f} lower, accuracy lost {loss:+.1%}")


def _class_rows(found: UnitAblation, top: int) -> list[list[str]]:
    counts = {c: int((found.classes == c).sum()) for c in found.labels}
    rows = []
    for index in sorted(counts, key=lambda c: (-counts[c], c))[:top]:
        best = ", ".join(f"{unit} ({drop:+.2f})" for unit, drop in found.units_of_class(index))
        rows.append([found.labels[index], str(counts[index]), best])
    return rows


def _page(job: AblateJob, found: UnitAblation, data: dict[str, object]) -> Path:
    assert job.out is not None
    model = job.model
    sections = [
        Section(
            "Units",
            ["Mean over the pictures of how far the class's logit falls with the unit at 0, and its standard error."],
            [Table(_HEAD, _unit_rows(found, job.top))],
            [Figure(_chart(found, job.top), "The strongest units, with standard errors")],
        ),
        Section(
            "Classes", tables=[Table(("class", "pictures", "units it loses most by"), _class_rows(found, job.top))]
        ),
    ]
    what = model.describe()
    facts = {
        "File": f"{what['path'] or '(in memory)'}, SHA-256 {model.sha256}",
        "Layer": f"{found.layer.tensor}, {found.layer.reason}",
        "Explained": f"{model.logits.tensor}; {model.logits.reason}",
        "Pictures": f"{len(found.classes)} of {len(found.labels)} classes; class of a picture: {found.truth}",
        "Provider": f"{model.provider.name}: {model.provider.reason}",
        "Versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
    }
    return save_page(job.out, f"{model.name}: unit ablation", facts, sections, data, found.notes)


def _chart(found: UnitAblation, top: int) -> Image.Image:
    bars = []
    for i in found.ranked(top):
        mean = max(float(found.mean_drop[i]), 0.0)
        error = float(found.drop_error[i]) if np.isfinite(found.drop_error[i]) else 0.0
        worst = found.by_class(i)[0]
        text = f"{_pair(found.mean_drop[i], found.drop_error[i])}; most: {worst.label}"
        bars.append(Bar(f"unit {found.units[i]}", mean, max(mean - error, 0.0), mean + error, text=text))
    notes = (
        ["Units that raise the logit on average are drawn as 0."]
        if (found.mean_drop[found.ranked(top)] < 0).any()
        else []
    )
    return bar_chart(bars, f"Units of {found.layer.tensor}", "mean drop of the class's logit", notes)
