"""`onnxvis replay`: repeat, and say in a few lines what agrees and what does not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from onnxvis.audit.replay import AGREES, DISAGREES, IDENTICAL, UNREPEATABLE, Replay, Replayed, replay
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.files import write_file

__all__ = ["ReplayJob", "run_replay"]

_COLORS = {IDENTICAL: "green", AGREES: "green", DISAGREES: "red", UNREPEATABLE: "yellow"}


@dataclass(frozen=True)
class ReplayJob:
    """Everything `onnxvis replay` was asked."""

    what: Path
    sample: int | None = None
    model: Path | None = None
    pictures: Path | None = None
    preprocessing: str | None = None
    labels: str | None = None
    provider: str | None = None
    gradients: str | None = None
    tolerance: float | None = None
    metrics: bool = False
    seed: int = 0
    json: Path | None = None
    quiet: bool = False


def run_replay(job: ReplayJob) -> int:
    """Repeat. 0 when everything agrees, 3 when something differs, 2 when something could not be repeated."""
    with progress_bar(job.quiet) as progress:
        found = replay(
            job.what,
            sample=job.sample,
            model=job.model,
            pictures=job.pictures,
            preprocessing=job.preprocessing,
            labels=job.labels,
            provider=job.provider,
            gradients=job.gradients,
            tolerance=job.tolerance,
            metrics=job.metrics,
            seed=job.seed,
            progress=progress,
        )
    said: set[str] = set()
    for result in found.results:
        if not job.quiet or result.outcome not in (IDENTICAL, AGREES):
            _say(result, said)
    for difference in found.report:
        out.print(f"[red]the report disagrees with itself[/]: {escape(visible(difference.text))}")
    _say_sum(found)
    if job.json is not None:
        _write(job.json, found)
    if found.interrupted:
        err.print("[yellow]interrupted[/]: nothing is said of the other maps, and the report was not checked")
        return 130
    if found.disagrees:
        return 3
    return 0 if found.agrees else 2


def _say(result: Replayed, said: set[str]) -> None:
    """One result; what is the same for all of them (the model, versions) is said once."""
    line = result.outcome
    if result.outcome == AGREES and result.distance is not None:
        line += f" (differs by {result.distance:.1e} of its size)"
    out.print(f"[{_COLORS[result.outcome]}]{line}[/]: {escape(visible(result.title))}")
    for difference in result.differences:
        text = f"{difference.what}: {difference.text}"
        if text not in said:
            out.print(f"    {escape(visible(text))}")
        elif difference.serious:
            out.print(f"    {escape(difference.what)}: as above")
        said.add(text)


def _say_sum(found: Replay) -> None:
    parts = [
        f"{found.count(name)} {name}" for name in (IDENTICAL, AGREES, DISAGREES, UNREPEATABLE) if found.count(name)
    ]
    of = f" (a sample of {found.in_all})" if len(found.results) < found.in_all else ""
    out.print(f"{len(found.results)} maps{of}: {', '.join(parts)}")


def _write(path: Path, found: Replay) -> None:
    data = {
        "agrees": found.agrees,
        "manifests": found.in_all,
        "report": [vars(difference) for difference in found.report],
        "results": [result.to_dict() for result in found.results],
    }
    text = json.dumps(data, indent=1, ensure_ascii=False)
    write_file(path, text.encode("utf-8", "backslashreplace"), "Choose another file with --json.")
