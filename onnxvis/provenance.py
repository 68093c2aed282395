"""Where a result comes from: enough to repeat it."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis._version import __version__

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["explained_output", "provenance", "versions"]

_LARGEST_INPUT = 64
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


def explained_output(model: Model) -> dict[str, Any]:
    """Which number of the file is explained, and what its other inputs were given, as plain data.

    Values of an input are kept where they are few; of a larger one only the fingerprint is.
    """
    return {
        "tensor": model.logits.tensor,
        "output": model.logits.output,
        "kind": model.logits.kind,
        "inputs": {
            name: {
                "type": array.dtype.name,
                "shape": list(array.shape),
                "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
                **({"values": array.reshape(-1).tolist()} if array.size <= _LARGEST_INPUT else {}),
            }
            for name, array in sorted(model.engine.constants.items())
        },
    }
