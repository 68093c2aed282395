"""The manifest of a store: what was asked of which file, and what must stay the same for a run to go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxvis.behaviour.index.rows import MANIFEST
from onnxvis.behaviour.index.shard import IndexSpec
from onnxvis.behaviour.index.store import FORMAT
from onnxvis.errors import OutputError, UsageError

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["begin", "describe", "finish"]


def describe(
    model: Model, spec: IndexSpec, shard_size: int, pictures: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """The manifest of a pass that has not begun."""
    from onnxvis.provenance import versions

    return {
        "onnxvis_store": FORMAT,
        "complete": False,
        "model": model.describe(),
        "explained": model.logits.reason,
        "preprocessing": model.preprocessing.to_dict() if model.preprocessing is not None else None,
        "class_names": hashlib.sha256(repr(tuple(model.labels.names)).encode("utf-8", "replace")).hexdigest(),
        "layers": [{"tensor": tap.tensor, "units": tap.units, "reason": tap.reason} for tap in spec.layers],
        "embedding": {"tensor": spec.embedding.tensor, "size": spec.embedding.units, "reason": spec.embedding.reason},
        "options": {
            "top_k": spec.top_k,
            "accuracy": spec.accuracy,
            "batch_size": spec.batch_size,
            "keep_maps": spec.keep_maps,
            "shard_size": shard_size,
            "top_classes": spec.top_classes,
        },
        "pictures": dict(pictures),
        "masks": None,
        "ann": {},
        "command": command,
        "versions": versions(),
        "summary": None,
    }


def begin(path: Path, wanted: Mapping[str, Any], shown: str = "") -> dict[str, Any]:
    """The manifest to go on with: the one in the folder, if it asks the same of the same file and pictures.

    Args:
        path: the folder.
        wanted: the manifest of a pass that has not begun.
        shown: what messages call the store, where that is not the folder.

    Raises:
        UsageError: it asks something else; the message says what.
        OutputError: the folder holds something else, or cannot be read.
    """
    try:
        known = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        theirs = _identity(known)
    except FileNotFoundError:
        _refuse_foreign(path)
        return dict(wanted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{path / MANIFEST} is not the manifest of a store ({error}): choose another folder with --out."
        ) from error
    ours = _identity(json.loads(json.dumps(wanted)))
    different = [name for name in ours if theirs[name] != ours[name]]
    if different:
        first = different[0]
        raise UsageError(
            f"{shown or path} was begun with another {first} ({_short(theirs[first])}, now {_short(ours[first])}), so "
            "it cannot go on. Give the same command as then, or choose another --out."
        )
    return dict(known)


def finish(
    manifest: Mapping[str, Any], ann: Mapping[str, str], pictures: int, failed: int, seconds: float
) -> dict[str, Any]:
    """The manifest of a complete store."""
    summary = {"pictures": pictures, "failed": failed, "seconds": round(seconds, 3)}
    return {**manifest, "complete": True, "ann": dict(ann), "summary": summary}


def _refuse_foreign(path: Path) -> None:
    others = sorted(entry.name for entry in path.iterdir() if entry.name != "lock" and not entry.name.startswith("."))
    if others:
        raise OutputError(
            f"{path} holds other things ({', '.join(others[:3])}): a store needs a folder of its own; choose another "
            "with --out."
        )


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change between the first run and the last."""
    model = manifest["model"]
    return {
        "store format": manifest["onnxvis_store"],
        "model": model["sha256"],
        "model weights": model["external_data"],
        "explained output": manifest["explained"],
        "set of class names": manifest["class_names"],
        "preprocessing": manifest["preprocessing"],
        "execution provider": model["provider"],
        "set of layers": [layer["tensor"] for layer in manifest["layers"]],
        "embedding": manifest["embedding"]["tensor"],
        **{f"option {name}": value for name, value in manifest["options"].items()},
        "number of pictures": manifest["pictures"]["count"],
        "set of pictures (paths, sizes or labels)": manifest["pictures"]["sha256"],
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
