"""`onnxvis scouter`: the options; what they do stands elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxvis.cli import options as o

__all__ = ["register"]

_HEAD, _TRAINING = "Head", "Training"
_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train a classifier that shows why a class and why not (SCOUTER, ICCV 2021), on any ONNX classifier.",
)

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Labeled pictures: a folder with a sub-folder for each class, a CSV of path,label, or an .npz with x "
        "(uint8 pictures) and y (labels).",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(_app, name="scouter")


@_app.command()
def fit(
    model: o.ModelPath,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.onnx", help="The file to write.", show_default=False)
    ],
    explanation: Annotated[
        str,
        typer.Option(
            "--explanation",
            "-e",
            help="positive: what supports a class; negative: what speaks against it.",
            rich_help_panel=_HEAD,
        ),
    ] = "positive",
    slots: Annotated[int, typer.Option(help="Slots per class.", rich_help_panel=_HEAD)] = 1,
    dim: Annotated[
        int, typer.Option(help="Channels after the 1x1 convolution, a multiple of 4.", rich_help_panel=_HEAD)
    ] = 64,
    iterations: Annotated[int, typer.Option(help="Updates of the slots.", rich_help_panel=_HEAD)] = 3,
    key_layers: Annotated[
        int, typer.Option("--key-layers", help="Linear layers of the keys.", rich_help_panel=_HEAD)
    ] = 1,
    query_layers: Annotated[
        int,
        typer.Option("--query-layers", help="Linear layers of the queries; 0: the slots.", rich_help_panel=_HEAD),
    ] = 0,
    normalize: Annotated[
        bool, typer.Option(help="Scale every slot's products to one sum.", rich_help_panel=_HEAD)
    ] = False,
    layer: Annotated[
        str | None, typer.Option(help="Feature map to cut at; left out: by structure.", rich_help_panel=_HEAD)
    ] = None,
    area_weight: Annotated[
        float, typer.Option("--lambda", help="Weight of the area: larger, smaller maps.", rich_help_panel=_TRAINING)
    ] = 1.0,
    area_power: Annotated[
        float, typer.Option("--area-power", help="Exponent of the area.", rich_help_panel=_TRAINING)
    ] = 1.0,
    ramp: Annotated[
        float, typer.Option(help="Part of the training over which lambda grows from 0.", rich_help_panel=_TRAINING)
    ] = 0.3,
    epochs: Annotated[int, typer.Option(help="Most passes over the pictures.", rich_help_panel=_TRAINING)] = 20,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better loss before stopping.", rich_help_panel=_TRAINING)
    ] = 5,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Of AdamW.", rich_help_panel=_TRAINING)
    ] = 2e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Of AdamW.", rich_help_panel=_TRAINING)] = 1e-4,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.", rich_help_panel=_TRAINING)] = 5.0,
    validation: Annotated[
        float, typer.Option(help="Part of the pictures held back to tell when to stop.", rich_help_panel=_TRAINING)
    ] = 0.1,
    train_backbone: Annotated[
        bool,
        typer.Option("--train-backbone", help="Train the backbone too, not the head alone.", rich_help_panel=_TRAINING),
    ] = False,
    backbone_rate: Annotated[
        float, typer.Option("--backbone-rate", help="Its part of the learning rate.", rich_help_panel=_TRAINING)
    ] = 0.1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_TRAINING)] = "auto",
    seed: Annotated[int, typer.Option(help="Of all chance.", rich_help_panel=_TRAINING)] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pictures for one step.", rich_help_panel=_TRAINING)
    ] = 64,
    work: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for features and checkpoints; later fits use it again.")
    ] = Path("onnxvis-scouter"),
    preprocessing: o.PreprocessingChoice = None,
    provider: o.Provider = None,
    output: o.Output = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, only the last lines.")] = False,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    size: o.Size = None,
    channel_order: o.ChannelOrder = None,
    layout: o.Layout = None,
    interpolation: o.Interpolation = None,
) -> None:
    """Put a slot-attention head on a classifier, train it, and write one ONNX file with logits and attention maps.

    \b
    onnxvis scouter fit model.onnx photos/ --explanation positive --lambda 1 -o positive.onnx
    onnxvis explain positive.onnx cat.jpg -m scouter -t top1 -t least

    The classes are those of DATA. Killed at any moment, the same command goes on where it stopped.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.behaviour.scouter.settings import HeadSettings, TrainingSettings
    from onnxvis.cli.scouter import run_fit

    flags = {
        "mean": mean,
        "std": std,
        "scale": scale,
        "size": size,
        "channel_order": channel_order,
        "layout": layout,
        "interpolation": interpolation,
    }
    head = HeadSettings(explanation, slots, dim, iterations, key_layers, query_layers, normalize)
    training = TrainingSettings(
        area_weight=area_weight,
        area_power=area_power,
        ramp=ramp,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        backbone_rate=backbone_rate,
        weight_decay=weight_decay,
        clip=clip,
        validation=validation,
        patience=patience,
        seed=seed,
        device=device,
    )
    opened = o.open_model(model, preprocessing, None, provider, output, flags)
    raise typer.Exit(run_fit(opened, data, out, head, training, layer, train_backbone, work, quiet))


@_app.command()
def evaluate(
    model: o.ModelPath,
    data: Data,
    boxes: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Boxes of the objects, path,x0,y0,x1,y1: measures precision too."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures.")] = None,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    batch_size: o.BatchSize = 32,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure a SCOUTER file on labeled pictures: accuracy, size of the explanations, precision.

    \b
    onnxvis scouter evaluate positive.onnx test-photos/ --boxes boxes.csv
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.cli.scouter import run_evaluate

    opened = o.open_model(model, preprocessing, labels, provider, output, {})
    raise typer.Exit(run_evaluate(opened, data, boxes, json, batch_size, quiet))
