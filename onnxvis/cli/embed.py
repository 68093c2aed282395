"""`onnxvis embed`: write a model that explains itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from onnxvis.cli.console import out, visible
from onnxvis.embedding import CLASS_INDEX, EXPLAINED_CLASS, EXPLANATION, embed
from onnxvis.errors import UsageError
from onnxvis.model import Model

__all__ = ["EmbedJob", "run_embed"]


@dataclass(frozen=True)
class EmbedJob:
    """Everything `onnxvis embed` was asked."""

    method: str
    target: Path
    layer: str | None
    upsample: bool
    allow_rounding: bool
    on_request: bool | None
    class_input: str
    options: dict[str, Any]


def run_embed(model: Model, job: EmbedJob) -> int:
    """Write the file and say how to use it; 0 when it is written."""
    source, target = model.file.path, job.target
    if source is not None and target.exists() and target.resolve() == source.resolve():
        raise UsageError(f"{target} is the model itself; choose another file with --out.")
    embedded = embed(
        model,
        job.method,
        layer=job.layer,
        upsample=job.upsample,
        allow_rounding=job.allow_rounding,
        on_request=job.on_request,
        class_input=job.class_input,
        **job.options,
    )
    path = embedded.save(target)
    _say("written", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    _say("method", job.method)
    if embedded.record["layer"]:
        _say("layer", f"{embedded.record['layer']}, {embedded.record['layer_reason']}")
    for note in embedded.notes:
        _say("", note)
    nothing = ", -2 for nothing" if embedded.record["on_request"] else ""
    default = "required" if embedded.record["input_required"] else f"left out: {'-2' if nothing else '-1'}"
    _say("new input", f"{CLASS_INDEX}: int64, one for each picture; -1 asks for the largest logit{nothing}; {default}")
    _say("new outputs", f"{EXPLANATION} (raw signed map, float32), {EXPLAINED_CLASS}")
    return 0


def _say(name: str, text: str) -> None:
    out.print(f"[bold]{name:<12}[/] {escape(visible(text))}")
