"""Where a result comes from: enough to repeat it."""

from __future__ import annotations

import functools
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from onnxvis._version import __version__

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["provenance", "versions"]

_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnx2torch", "onnxruntime", "onnxruntime-gpu", "pillow", "torch")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of everything whose version can change a number; importing none of it."""
    found = {"onnxvis": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance(model: Model) -> dict[str, Any]:
    """What the model is and what ran it, as plain data."""
    return {
        "model": model.describe(),
        "rewrites": {a.name: a.count for a in model.canonical.applied},
        "versions": versions(),
        "platform": platform.platform(),
    }
