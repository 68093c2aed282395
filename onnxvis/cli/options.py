"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxvis.errors import UsageError

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = [
    "Actors",
    "BatchSize",
    "Boxes",
    "ChannelOrder",
    "CpusPerActor",
    "Engine",
    "GpusPerActor",
    "Gradients",
    "Interpolation",
    "Labels",
    "Layout",
    "Masks",
    "Mean",
    "ModelPath",
    "Output",
    "PreprocessingChoice",
    "Provider",
    "RayAddress",
    "Scale",
    "Size",
    "Std",
    "apply_flags",
    "open_model",
    "parse_pairs",
]

_PANEL = "Preprocessing"

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The .onnx file, as it is deployed.", show_default=False)
]
PreprocessingChoice = Annotated[
    str | None,
    typer.Option(
        "--preprocessing",
        metavar="NAME|FILE",
        help="A preset (imagenet, inception, efficientnet-lite, caffe-bgr, unit, none, ...), a TOML/JSON spec, or a "
        "Hugging Face preprocessor_config.json. Left out: what stands beside the model or in its metadata; "
        "never a guess.",
        rich_help_panel=_PANEL,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Mean per channel, after scaling: 0.485,0.456,0.406.", metavar="NUMBERS", rich_help_panel=_PANEL),
]
Std = Annotated[
    str | None, typer.Option(help="Standard deviation per channel.", metavar="NUMBERS", rich_help_panel=_PANEL)
]
Scale = Annotated[
    float | None, typer.Option(help="Factor on 0..255 pixels, such as 0.00392157 for 1/255.", rich_help_panel=_PANEL)
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Input size where the model leaves it free: 224 or 480,640.", metavar="H,W", rich_help_panel=_PANEL
    ),
]
ChannelOrder = Annotated[str | None, typer.Option(help="rgb, bgr or gray.", rich_help_panel=_PANEL)]
Layout = Annotated[str | None, typer.Option(help="NCHW or NHWC.", rich_help_panel=_PANEL)]
Interpolation = Annotated[
    str | None, typer.Option(help="nearest, bilinear, bicubic, lanczos, box or hamming.", rich_help_panel=_PANEL)
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Class names: one a line, or JSON. Left out: metadata, or labels.txt beside the model.",
    ),
]
Provider = Annotated[
    str | None, typer.Option("--provider", help="cpu, cuda, ... Left out: the best one that works here.")
]
Gradients = Annotated[
    str,
    typer.Option(
        "--gradients",
        metavar="WHO",
        help="Who computes gradients: torch, onnx (operators in onnxruntime, without torch), or auto: torch where it "
        "works, else onnx.",
    ),
]
Output = Annotated[str | None, typer.Option("--output", help="Which graph output to explain, of several.")]
_CLUSTER = "Many machines"
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="WHO",
        help="local, or ray: actors on this machine or on a cluster.",
        rich_help_panel=_CLUSTER,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of a running Ray cluster ('auto' finds the one here).",
        rich_help_panel=_CLUSTER,
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        "--actors", min=1, help="How many. Left out: as many as there are processors for.", rich_help_panel=_CLUSTER
    ),
]
CpusPerActor = Annotated[
    int, typer.Option("--cpus-per-actor", min=1, help="Processors and threads of each.", rich_help_panel=_CLUSTER)
]
GpusPerActor = Annotated[
    float, typer.Option("--gpus-per-actor", min=0, help="GPUs of each; 0.25 shares one.", rich_help_panel=_CLUSTER)
]
_OBJECTS = "Where the objects are"
Boxes = Annotated[
    Path | None,
    typer.Option(
        "--boxes",
        metavar="FILE",
        help="JSON {picture: [x0, y0, x1, y1]} (or a list of boxes, or COCO), or CSV with the columns path, x0, y0, x1 "
        "and y1; pixels of the picture.",
        rich_help_panel=_OBJECTS,
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        metavar="FOLDER|FILE",
        help="Mask pictures named like the pictures, black where the object is not; or JSON {picture: path of a mask}.",
        rich_help_panel=_OBJECTS,
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures (or perturbed copies) at once.")]


def parse_numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """Comma-separated numbers.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--{name} takes numbers separated by commas, not {text!r}.") from None


def parse_size(text: str) -> int | tuple[int, int]:
    """One side for both, or height and width.

    Raises:
        UsageError: something else.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise UsageError(f"--size takes a number of pixels or HEIGHT,WIDTH, not {text!r}.")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def parse_pairs(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` options of a method; values that look like numbers or true/false become those.

    Raises:
        UsageError: no ``=`` in one of them.
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--option takes NAME=VALUE, not {pair!r} (`onnxvis methods NAME` lists the names).")
        parsed[name.strip().replace("-", "_")] = _value(text.strip())
    return parsed


def _value(text: str) -> Any:
    if text.lower() in ("true", "yes", "on"):
        return True
    if text.lower() in ("false", "no", "off"):
        return False
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def open_model(
    path: Path,
    preprocessing: str | None,
    labels: str | None,
    provider: str | None,
    output: str | None,
    flags: dict[str, Any],
    gradients: str = "auto",
) -> Model:
    """Load a model and apply the preprocessing flags."""
    from onnxvis.model import load

    given = {name: value for name, value in flags.items() if value is not None}
    size = parse_size(given.pop("size")) if "size" in given else None
    model = load(
        path,
        preprocessing=preprocessing,
        labels=labels,
        provider=provider,
        output=output,
        size=size,
        gradients=gradients,
    )
    apply_flags(model, given, size)
    return model


def apply_flags(model: Model, flags: dict[str, Any], size: int | tuple[int, int] | None, ending: str = "") -> None:
    """Change single fields of a model's preprocessing, as the command line says them.

    Args:
        model: the model.
        flags: fields by name; ``None`` changes nothing.
        size: input size for a model that has no preprocessing yet.
        ending: of the names of the flags, for messages.

    Raises:
        OnnxvisError: a value that is not allowed.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name in ("mean", "std"):
        if name in given:
            given[name] = parse_numbers(given[name], name + ending)
    if given:
        from onnxvis.preprocessing import Preprocessing

        base = model.preprocessing or Preprocessing(size=size, source="command-line flags on plain 0..255 pixels")
        model.preprocessing = base.override(**given)
