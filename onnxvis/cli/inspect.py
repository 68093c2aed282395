"""`onnxvis inspect`: what a model is, on one screen."""

from __future__ import annotations

import textwrap
from fractions import Fraction

from rich.markup import escape
from rich.table import Table

from onnxvis.cli.console import out, visible
from onnxvis.errors import OnnxvisError
from onnxvis.graph.layers import Layer
from onnxvis.model import Model
from onnxvis.prediction import Prediction, predict
from onnxvis.preprocessing import DESCRIPTIONS, PRESETS

__all__ = ["show"]

_ANSWERS = 92  # columns that the presets and their answers take
_DESCRIPTION = 30


def show(model: Model, image: str | None, layers: int) -> None:
    """Print everything that is known of a model; with a picture also what it predicts."""
    _file(model)
    _graph(model)
    _layers(model, layers)
    if image is not None:
        _predictions(model, image)


def _line(name: str, value: str, remark: str = "") -> None:
    text = f"[bold]{name:<14}[/] {escape(visible(value))}"
    out.print(text + (f"  [dim]{escape(visible(remark))}[/]" if remark else ""))


def _file(model: Model) -> None:
    what = model.describe()
    _line("file", what["path"] or "(in memory)")
    _line("sha256", model.sha256)
    for name, digest in what["external_data"].items():
        _line("external data", name, f"sha256 {digest}")
    _line("producer", model.producer, f"opset {model.opset}, IR version {what['ir_version']}")
    for spec in model.inputs:
        chosen = "takes the picture" if spec == model.image_input else ""
        _line("input", str(spec), f"{chosen}, layout {model.layout}" if chosen else chosen)
    for spec in model.outputs:
        _line("output", str(spec))
    _line("labels", model.labels.source)
    prep = model.preprocessing
    _line("preprocessing", prep.summary() if prep else "not stated; pass --preprocessing", prep.source if prep else "")
    _line("provider", model.provider.name, model.provider.reason)


def _graph(model: Model) -> None:
    _line("explained", model.logits.tensor, model.logits.reason)
    if model.labels_note:
        _line("", model.labels_note)
    head = model.head
    _line("head", head.kind, "original CAM applies" if head.cam_applies else "original CAM does not apply")
    if head.cam_layer:
        shape = " x ".join(map(str, head.cam_shape or ()))
        _line("CAM layer", f"{head.cam_layer} ({shape})", head.reason)
    else:
        _line("CAM layer", "none", head.reason)
    try:
        import numpy as np

        noise = np.random.default_rng(0).random(model.one_image_shape())
        plan = model.engine.batch_plan(noise.astype(model.image_input.dtype))
        _line("batch", plan.kind, plan.reason)
    except OnnxvisError as error:
        _line("batch", "unknown", str(error))
    applied = ", ".join(f"{a.name} ({a.count})" for a in model.canonical.applied) or "none: already canonical"
    _line("rewritten", applied, f"to opset {model.canonical.opset}, for gradients only; the file itself predicts")
    refusal = model.gradient_refusal()
    _line("gradients", "available" if refusal is None else "not available", refusal or "")


def _layers(model: Model, count: int) -> None:
    table = Table("tensor", "operator", "shape", "parameters", "receptive field", box=None, padding=(0, 2, 0, 0))
    chosen = model.layers if count == 0 else model.layers[-count:]
    for layer in chosen:
        field = _field(layer)
        shape = "x".join(map(str, layer.shape))
        table.add_row(escape(visible(layer.tensor)), layer.op_type, shape, f"{layer.parameters:,}", field)
    total = sum(layer.parameters for layer in model.layers)
    out.print()
    out.print(table)
    left = len(model.layers) - len(chosen)
    more = f"; {left} earlier ones not shown (--layers 0 shows all)" if left else ""
    out.print(f"[dim]{len(model.layers)} layers, {total:,} parameters{more}[/]")


def _field(layer: Layer) -> str:
    """Receptive field as "size, every jump", or why there is none."""
    if layer.field is None or layer.field_size is None or layer.field_jump is None:
        return "whole picture" if layer.field is not None else ""
    size, jump = layer.field_size, layer.field_jump
    text = f"{_number(size[0])}x{_number(size[1])}, every {_number(jump[0])}x{_number(jump[1])}"
    marks = ["hull" if not layer.field.exact else "", "global side path" if layer.field.global_side_path else ""]
    said = ", ".join(mark for mark in marks if mark)
    return f"{text} ({said})" if said else text


def _number(value: Fraction) -> str:
    return f"{float(value):g}"


def _predictions(model: Model, image: str) -> None:
    out.print()
    if model.preprocessing is not None:
        answer = _predict(model, image)
        _ranking(answer, "as prepared by " + model.preprocessing.source)
        return
    out.print("[bold]no preprocessing is stated; this is what the model answers under each preset:[/]")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("preset", "first", "second"):
        table.add_column(heading, no_wrap=True)
    room = out.width - _ANSWERS
    if room >= _DESCRIPTION:
        table.add_column("what it is", no_wrap=True)
    for name in PRESETS:
        model.preprocessing = PRESETS[name]
        try:
            top = _predict(model, image).top
            cells = [_short(top, i) for i in range(2)]
        except OnnxvisError as error:
            cells = [escape(visible(str(error))[:60]), ""]
        finally:
            model.preprocessing = None
        said = textwrap.shorten(DESCRIPTIONS[name], room, placeholder=" ...") if room >= _DESCRIPTION else None
        table.add_row(f"[bold]{name}[/]", *cells, *([said] if said else []))
    out.print(table)
    out.print("[dim]choose the one the model was trained with; a confident answer is a hint, not a proof[/]")


def _predict(model: Model, image: str) -> Prediction:
    return predict(model, [model.prepare(image).tensor], 5, 1)[0]


def _short(top: tuple[object, ...], index: int) -> str:
    from onnxvis.prediction import RankedClass

    if index >= len(top):
        return ""
    ranked = top[index]
    assert isinstance(ranked, RankedClass)
    value = f"{ranked.probability:.1%}" if ranked.probability is not None else f"{ranked.logit:+.2f}"
    return f"{escape(visible(ranked.label))[:28]} {value}"


def _ranking(answer: Prediction, heading: str) -> None:
    out.print(f"[bold]prediction[/] [dim]{escape(visible(heading))}; {answer.note}[/]")
    for ranked in answer.top:
        probability = f"{ranked.probability:7.2%}" if ranked.probability is not None else ""
        out.print(f"  {ranked.logit:+9.3f} {probability}  {ranked.index:>5}  {escape(visible(ranked.label))}")
