"""`onnxvis visualize`: pictures that classes and units want to see."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from onnxvis.behaviour.visualization import Visualization, visualize_each
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.cli.results import can_be_written
from onnxvis.model import Model
from onnxvis.names import slug

__all__ = ["VisualizeJob", "run_visualize"]


@dataclass(frozen=True)
class VisualizeJob:
    """Everything `onnxvis visualize` was asked."""

    model: Model
    targets: tuple[str, ...]
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)
    restarts: int = 1
    seed: int = 0
    batch_size: int = 8
    allow_unverified: bool = False
    out: Path = Path("onnxvis-out")
    quiet: bool = False


def run_visualize(job: VisualizeJob) -> int:
    """Climb, write each result when it is finished; 0, or 130 when interrupted."""
    root = job.out / "visualize"
    can_be_written(root)

    def finished(name: str, key: str) -> bool:
        done = _is_there(root / slug(name) / "manifest.json", key)
        if done:
            out.print(f"{escape(visible(name))}: already there, kept ({escape(str(root / slug(name)))})")
        return done

    with progress_bar(job.quiet) as progress:
        results = visualize_each(
            job.model,
            job.targets,
            recipe=job.recipe,
            restarts=job.restarts,
            seed=job.seed,
            batch_size=job.batch_size,
            allow_unverified=job.allow_unverified,
            progress=progress,
            checkpoint=root / "partial",
            skip=finished,
            **job.settings,
        )
        for found in results:
            _print(found, found.save(root / slug(found.target)))
            if found.interrupted:
                err.print("\n[yellow]interrupted[/]: what was reached is kept; the same command goes on from there")
                return 130
    partial = root / "partial"
    if partial.is_dir() and not any(partial.iterdir()):
        partial.rmdir()
    return 0


def _is_there(manifest: Path, key: str) -> bool:
    """Whether a finished result of the same key stands in the folder already."""
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
        return data["key"] == key and data["interrupted"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _print(found: Visualization, place: Path) -> None:
    best = found.best
    which = f", best of {len(found.restarts)}" if len(found.restarts) > 1 else ""
    out.print(f"[bold]{escape(visible(found.target))}[/]: score {found.score:+.3f}{which} in {found.seconds:.0f} s")
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for ranked in best.prediction.top:
        probability = f"{ranked.probability:.1%}" if ranked.probability is not None else ""
        table.add_row(f"{ranked.logit:+.3f}", probability, escape(visible(ranked.label)))
    out.print(table)
    out.print(escape(visible(f"  {found.parity.sentence()}")))
    for note in found.notes:
        out.print(escape(visible(f"  {note}")))
    out.print(f"  saved in {escape(str(place))}")
