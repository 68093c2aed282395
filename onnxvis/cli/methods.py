"""`onnxvis methods`: what there is, and what one of them takes."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from onnxvis.cli.console import out
from onnxvis.methods import get_method, method_names

__all__ = ["show_method", "show_methods"]


def show_methods() -> None:
    """A table of all methods."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in ("what the map means", "needs", "source"):
        table.add_column(heading)
    for name in method_names():
        method = get_method(name)
        needs = "gradient" if method.needs_gradient else "forward passes only"
        table.add_row(f"[bold]{name}[/]", method.summary, needs, method.paper)
    out.print(table)
    out.print("\n`onnxvis methods NAME` describes one and lists its options.")


def show_method(name: str) -> None:
    """One method with its options."""
    method = get_method(name)
    out.print(f"[bold]{method.title}[/] ({method.name}): {method.summary}")
    out.print(f"source:  {method.paper}")
    out.print(f"needs:   {'gradients of the graph' if method.needs_gradient else 'forward passes only'}")
    out.print(f"layer:   {'yes: chosen by structure, or --layer' if method.uses_layer else 'none'}")
    if method.caution:
        out.print(f"caution: {method.caution}")
    fields = dataclasses.fields(method.options)
    if fields:
        out.print("options, as -O NAME=VALUE (keyword arguments in Python):")
    for field in fields:
        default = "chosen" if field.default is None else field.default
        out.print(f"  [bold]{field.name}[/] \\[{default}]  {field.metadata.get('help', '')}")
