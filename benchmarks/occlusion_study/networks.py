"""The networks: torchvision's, with random weights; what is timed and checked does not depend on training."""

from __future__ import annotations

from pathlib import Path

from support import zoo

__all__ = ["export"]

zoo._MORE.setdefault("vgg16", {})


def export(name: str, size: int) -> Path:
    """The file of one network, batch free."""
    return zoo.export(name, "legacy", 17, size, dynamic_batch=True)
