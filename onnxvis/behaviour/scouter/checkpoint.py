"""A training's state on disk: written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from onnxvis.errors import OutputError
from onnxvis.files import write_atomic

__all__ = ["load_state", "save_state"]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values; the last one stays until the new one is complete.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write the checkpoint {path}: {error.strerror or error}.") from error


def load_state(path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """The state of this key, or ``None``; and why a file that is there is not used, or ""."""
    if not path.exists():
        return None, ""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] == key:
            return state, ""
        return None, f"{path.name} belongs to another run; training started anew"
    except Exception as error:  # noqa: BLE001 - torch raises what pickle, zip and tar raise; the reason is passed on
        return None, f"{path.name} cannot be read ({type(error).__name__}); training started anew"
