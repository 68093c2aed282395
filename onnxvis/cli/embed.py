"""`onnxvis embed`: write a model that explains itself."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from onnxvis.cli.console import out, visible
from onnxvis.embedding import CLASS_INDEX, EXPLAINED_CLASS, EXPLANATION, embed
from onnxvis.errors import UsageError
from onnxvis.model import Model

__all__ = ["run_embed"]


def run_embed(model: Model, method: str, target: Path, layer: str | None, upsample: bool, allow_rounding: bool) -> int:
    """Write the file and say how to use it; 0 when it is written."""
    source = model.file.path
    if source is not None and target.exists() and target.resolve() == source.resolve():
        raise UsageError(f"{target} is the model itself; choose another file with --out.")
    embedded = embed(model, method, layer=layer, upsample=upsample, allow_rounding=allow_rounding)
    path = embedded.save(target)
    _say("written", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    _say("method", method)
    if embedded.record["layer"]:
        _say("layer", f"{embedded.record['layer']}, {embedded.record['layer_reason']}")
    for note in embedded.notes:
        _say("", note)
    _say("new input", f"{CLASS_INDEX}: int64, one for each picture; -1 (the default) asks for the largest logit")
    _say("new outputs", f"{EXPLANATION} (raw signed map, float32), {EXPLAINED_CLASS}")
    return 0


def _say(name: str, text: str) -> None:
    out.print(f"[bold]{name:<12}[/] {escape(visible(text))}")
