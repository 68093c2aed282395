"""`onnxvis index`: the options; what they do stands elsewhere."""

from __future__ import annotations

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
