"""`onnxvis filters`, `activations` and `visualize`: the options; what they do stands elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxvis.cli import options as o

__all__ = ["register"]

_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
_OUT = Path("onnxvis-out")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(filters)
    app.command()(activations)
    app.command()(visualize)


def filters(
    model: o.ModelPath,
    layer: Annotated[
        str | None, typer.Option(help="A convolution; 'all' for every one. Left out: the first one.")
    ] = None,
    sort: Annotated[str, typer.Option(help="number, norm, or cluster: likes beside each other.")] = "number",
    scale: Annotated[
        str, typer.Option("--scale", help="What a full color is: the largest weight of each filter, or shared.")
    ] = "filter",
    out: _Out = _OUT,
    json: Annotated[bool, typer.Option("--json", help="Print the statistics for machines.")] = False,
    preprocessing: o.PreprocessingChoice = None,
    channel_order: o.ChannelOrder = None,
    size: o.Size = None,
) -> None:
    """Show the weights of a convolution, with dead and duplicate filters.

    \b
    onnxvis filters model.onnx --sort cluster
    onnxvis filters model.onnx --layer all

    Writes OUT/filters/LAYER/filters.png, filters.npy (the weights, for each unit) and filters.json.
    """  # noqa: D301
    from onnxvis.cli.filters import run_filters

    flags = {"channel_order": channel_order, "size": size}
    opened = o.open_model(model, preprocessing, None, "cpu", None, flags)
    raise typer.Exit(run_filters(opened, layer, sort, scale, out, json))


def activations(
    model: o.ModelPath,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.", show_default=False),
    ],
    layer: Annotated[
        str | None, typer.Option(help="A layer; see inspect. Left out: the last map before the head.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Units to draw. Left out: 65 for one picture, 10 for several.")
    ] = None,
    unit: Annotated[
        list[int] | None, typer.Option("--unit", "-u", help="This unit, also laid over each picture. Repeat.")
    ] = None,
    rank: Annotated[str, typer.Option(help="Strongest by max (largest absolute value) or mean.")] = "max",
    out: _Out = _OUT,
    preprocessing: o.PreprocessingChoice = None,
    provider: o.Provider = None,
    batch_size: o.BatchSize = 8,
    size: o.Size = None,
    channel_order: o.ChannelOrder = None,
) -> None:
    """Show the feature maps of a layer: strongest units first, all on one scale; several pictures as rows.

    \b
    onnxvis activations model.onnx cat.jpg --layer layer3 --top 40
    onnxvis activations model.onnx cat.jpg dog.jpg --unit 17

    Writes OUT/activations/LAYER/activations.png, the raw maps of each picture as .npy, and activations.json.
    """  # noqa: D301
    from onnxvis.cli.activations import run_activations

    flags = {"size": size, "channel_order": channel_order}
    opened = o.open_model(model, preprocessing, None, provider, None, flags)
    raise typer.Exit(run_activations(opened, images, layer, top, unit or [], rank, out, batch_size))


def visualize(
    model: o.ModelPath,
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            "-t",
            help="A class index or label, a contrast 'A - B', LAYER:UNIT (its mean), LAYER:UNIT@row,col or "
            "LAYER:UNIT@center (one neuron). Repeat for several.",
            show_default=False,
        ),
    ],
    restarts: Annotated[int, typer.Option(min=1, help="Climbs from different noise, in one batch.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Gradient steps. Left out: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    recipe: Annotated[str, typer.Option(help="legible, or simonyan: the first paper's, on pixels.")] = "legible",
    paper: Annotated[bool, typer.Option("--paper", help="The same as --recipe simonyan.")] = False,
    parametrization: Annotated[
        str | None, typer.Option(help="fourier or pixel. Left out: the recipe's.", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="Setting of the recipe, e.g. -O tv=0.02. Repeat."),
    ] = None,
    out: _Out = _OUT,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    gradients: o.Gradients = "auto",
    batch_size: o.BatchSize = 8,
    size: o.Size = None,
    channel_order: o.ChannelOrder = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Keep results whose parity check failed, stamped as unverified.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Make pictures that a class, a unit or a neuron wants to see, by gradient ascent; scored by the deployed file.

    \b
    onnxvis visualize model.onnx -t goldfinch -t "lemon" --restarts 4
    onnxvis visualize model.onnx -t layer3:17 -t layer3:17@center

    Writes OUT/visualize/TARGET/picture.png, sheet.png (the stages and restarts) and manifest.json. Ctrl-C keeps what
    was reached; the same command goes on from there.
    """  # noqa: D301
    from onnxvis.cli.visualize import VisualizeJob, run_visualize

    flags = {"size": size, "channel_order": channel_order}
    settings = {**o.parse_pairs(option or []), "steps": steps, "parametrization": parametrization}
    job = VisualizeJob(
        model=o.open_model(model, preprocessing, labels, provider, output, flags, gradients),
        targets=tuple(target),
        recipe="simonyan" if paper else recipe,
        settings={name: value for name, value in settings.items() if value is not None},
        restarts=restarts,
        seed=seed,
        batch_size=batch_size,
        allow_unverified=allow_unverified,
        out=out,
        quiet=quiet,
    )
    raise typer.Exit(run_visualize(job))
