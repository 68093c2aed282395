"""`onnxvis activations`: feature maps of a layer on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from onnxvis.behaviour.activations import RANKINGS, activations
from onnxvis.cli.console import out, progress_bar, visible
from onnxvis.errors import UsageError
from onnxvis.model import Model
from onnxvis.names import slug
from onnxvis.picture_files import picture_files

__all__ = ["run_activations"]

_LISTED = 10


def run_activations(
    model: Model,
    images: Sequence[str],
    layer: str | None,
    top: int | None,
    units: Sequence[int],
    rank: str,
    folder: Path,
    batch_size: int,
) -> int:
    """Write and print; 0 when everything is written."""
    if rank not in RANKINGS:
        raise UsageError(f"--rank takes {' or '.join(RANKINGS)}, not {rank!r}.")
    files = picture_files(images)
    with progress_bar(len(files) == 1) as progress:
        found = activations(model, files, layer, batch_size=batch_size, progress=progress)
    place = found.save(folder / "activations" / slug(found.layer), top, rank, units or None)
    shape = " x ".join(map(str, found.values[0].shape))
    out.print(f"[bold]{escape(visible(found.layer))}[/] ({shape}): {escape(visible(found.reason))}")
    strength = found.strength(rank)
    chosen = list(units) or found.strongest(_LISTED, rank)
    table = Table(box=None, padding=(0, 2, 0, 2))
    table.add_column("picture")
    for unit in chosen:
        table.add_column(f"unit {unit}", justify="right")
    for k, name in enumerate(found.names[:50]):
        table.add_row(escape(visible(name)), *(f"{strength[k, unit]:.4g}" for unit in chosen))
    out.print(table)
    for note in found.notes:
        out.print(escape(visible(note)))
    out.print(f"saved in {escape(str(place))}")
    return 0
