"""`onnxvis scouter fit` and `evaluate`: what is printed and which code comes back."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from onnxvis.behaviour.scouter.data import read_samples
from onnxvis.behaviour.scouter.settings import HeadSettings, TrainingSettings
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.cli.results import can_be_written
from onnxvis.errors import UsageError, require
from onnxvis.files import write_file
from onnxvis.model import Model

__all__ = ["run_evaluate", "run_fit"]

_SHOWN = 5


def run_fit(
    model: Model,
    data: Path,
    target: Path,
    head: HeadSettings,
    training: TrainingSettings,
    layer: str | None,
    train_backbone: bool,
    work: Path,
    quiet: bool,
) -> int:
    """Fit, write the file, say what it is; 0, or 2 when pictures had to be left out."""
    source = model.file.path
    if source is not None and target.exists() and target.resolve() == source.resolve():
        raise UsageError(f"{target} is the model itself; choose another file with --out.")
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name the file to write with --out.")
    for folder, flag in ((target.parent, "--out"), (work, "--work")):
        can_be_written(folder, flag)
    require("torch", "torch", "training a SCOUTER head")
    from onnxvis.behaviour.scouter.fitting import fit

    samples = read_samples(data)

    with progress_bar(quiet) as progress:
        fitted = fit(
            model, samples, work,
            head=head, training=training, layer=layer, train_backbone=train_backbone, progress=progress,
        )  # fmt: skip
    path = fitted.save(target)
    _say("written", f"{path} ({path.stat().st_size / 1e6:.1f} MB), {head.explanation} explanations")
    _say("layer", f"{fitted.record['feature']}, {fitted.record['layer_reason']}")
    _say("classes", f"{len(samples.classes)}: {', '.join(samples.classes[:12])}")
    history, best = fitted.trained.history, fitted.trained.best
    table = Table(box=None, padding=(0, 2, 0, 2))
    for heading in ("epoch", "loss", "accuracy", "area", "held back: loss", "accuracy", "area"):
        table.add_column(heading, justify="right")
    for number, epoch in enumerate(history):
        numbers = (epoch.loss, epoch.accuracy, epoch.area, epoch.held_back_loss, epoch.held_back_accuracy)
        cells = [f"{value:.4f}" for value in (*numbers, epoch.held_back_area)]
        table.add_row(f"{number + 1}{' *' if number == best else ''}", *cells)
    out.print(table)
    ended = "stopped early" if fitted.trained.stopped_early else "all epochs"
    _say("kept", f"the weights of epoch {best + 1} ({ended}, {fitted.trained.resumed} found in a checkpoint)")
    for note in fitted.notes:
        _say("", note)
    kept = "the prepared pictures" if train_backbone else "the backbone's features"
    _say("work", f"{work} keeps {kept} and the training's checkpoint; the next fit on the same pictures reads them")
    _say("outputs", "logits (N, K) and attention (N, K, rows, columns)")
    return _problems(fitted.problems)


def run_evaluate(model: Model, data: Path, boxes: Path | None, json: Path | None, batch_size: int, quiet: bool) -> int:
    """Measure and print; 0, or 2 when pictures had to be left out."""
    from onnxvis.behaviour.scouter.evaluation import evaluate, read_boxes

    samples = read_samples(data)
    known = read_boxes(boxes) if boxes is not None else None
    with progress_bar(quiet) as progress:
        found = evaluate(model, samples, known, batch_size, progress)
    _say("pictures", str(found.pictures))
    _say("accuracy", f"{found.accuracy:.4f}")
    table = Table(box=None, padding=(0, 2, 0, 2))
    for heading in ("class", "pictures", "accuracy"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, (count, accuracy) in found.per_class.items():
        table.add_row(escape(visible(name)), str(count), f"{accuracy:.4f}")
    out.print(table)
    areas = (
        ("labeled class", found.area_label),
        ("predicted class", found.area_predicted),
        ("lowest logit", found.area_least),
        ("all classes", found.area_all),
    )
    for name, value in areas:
        _say("area", f"{value:.4f} of the picture, {name}")
    if found.precision is not None:
        _say(
            "precision",
            f"{found.precision:.4f} of the attention in the box ({found.boxed} pictures; even attention: "
            f"{found.precision_chance:.4f})",
        )
    elif known is not None:
        _say("precision", "no picture has a box: paths in the CSV are relative to it")
    if json is not None:
        write_file(json, json_format.dumps(found.to_dict(), indent=1).encode(), "Choose another file with --json.")
    return _problems(found.problems)


def _problems(problems: tuple[str, ...]) -> int:
    for problem in problems[:_SHOWN]:
        err.print(f"[yellow]left out:[/] {escape(visible(problem))}")
    if len(problems) > _SHOWN:
        err.print(f"[yellow]left out:[/] and {len(problems) - _SHOWN} more pictures")
    return 2 if problems else 0


def _say(name: str, text: str) -> None:
    out.print(f"[bold]{name:<12}[/] {escape(visible(text))}")
