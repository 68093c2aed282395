"""`onnxvis filters`: sheets and statistics of convolutions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from onnxvis.behaviour.filter_sheet import SCALES
from onnxvis.behaviour.filters import SORTS, Filters, convolutions, filters
from onnxvis.cli.console import err, out, visible
from onnxvis.errors import LayerError, UsageError
from onnxvis.model import Model
from onnxvis.names import slug

__all__ = ["run_filters"]

_LISTED = 12


def run_filters(model: Model, layer: str | None, sort: str, scale: str, folder: Path, as_json: bool) -> int:
    """Write and print; 0, or 2 when a convolution of 'all' could not be shown."""
    if sort not in SORTS or scale not in SCALES:
        raise UsageError(f"--sort takes {', '.join(SORTS)} and --scale {' or '.join(SCALES)}.")
    failed = 0
    found: list[Filters] = []
    for name in convolutions(model) if layer == "all" else [layer]:
        try:
            found.append(filters(model, name))
        except LayerError as error:
            if layer != "all":
                raise
            err.print(f"[yellow]left out:[/] {escape(visible(str(error)))}")
            failed += 1
    for one in found:
        one.save(folder / "filters" / slug(one.layer), sort, scale)
    if as_json:
        data = [one.to_dict() for one in found]
        print(json.dumps(data if layer == "all" else data[0], indent=2, ensure_ascii=False))  # noqa: T201 - for machines
    elif layer == "all":
        _overview(found)
    else:
        _describe(found[0])
    if not as_json:
        out.print(f"saved in {escape(str(folder / 'filters'))}")
    return 2 if failed else 0


def _overview(found: list[Filters]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in (
        "layer",
        "kind",
        "units",
        "inputs",
        "kernel",
        "dead",
        "duplicates",
        "norm: least",
        "median",
        "largest",
    ):
        table.add_column(name, justify="left" if name in ("layer", "kind") else "right")
    for one in found:
        units, inputs, *kernel = one.weights.shape
        norms = [f"{v:.3g}" for v in (one.norms.min(), np.median(one.norms), one.norms.max())]
        size = " x ".join(map(str, kernel))
        counts = [str(units), str(inputs), size, str(len(one.dead)), str(len(one.duplicates))]
        table.add_row(escape(visible(one.layer)), one.kind, *counts, *norms)
    out.print(table)


def _describe(found: Filters) -> None:
    units, inputs, *kernel = found.weights.shape
    out.print(f"[bold]{escape(visible(found.layer))}[/] ({found.kind}, node {escape(visible(found.node))})")
    groups = f", {found.groups} groups" if found.groups > 1 else ""
    out.print(f"{units} units of {inputs} input channels, kernel {' x '.join(map(str, kernel))}{groups}")
    dead = ", ".join(map(str, found.dead[:_LISTED])) + (", ..." if len(found.dead) > _LISTED else "")
    out.print(f"dead units: {len(found.dead)}{f' ({dead})' if dead else ''}")
    out.print(f"near-duplicates: {len(found.duplicates)} pairs")
    for pair in found.duplicates[:_LISTED]:
        out.print(f"  {pair.first} and {pair.second}: cosine {pair.cosine:+.4f}")
    table = Table(box=None, padding=(0, 2, 0, 2))
    table.add_column("unit", justify="right")
    table.add_column("norm", justify="right")
    for unit in found.order("norm")[:_LISTED]:
        table.add_row(str(unit), f"{found.norms[unit]:.4g}")
    out.print("strongest:")
    out.print(table)
    for note in found.notes:
        out.print(escape(visible(note)))
