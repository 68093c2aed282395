"""`onnxvis index`: the options; what it does stands elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxvis.cli import options as o

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(index)


def index(
    model: o.ModelPath,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Pictures; folders (a picture in a sub-folder is labeled with its name); CSV files of path,label; zip "
            "and tar archives; Parquet files with pictures; any of them by URL (s3://, gs://, hf://, https://).",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="STORE",
            help="Where the store goes: a folder, or object storage by URL (s3://bucket/store).",
            show_default=False,
        ),
    ],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "-l",
            metavar="NAMES",
            help="Layers whose units are counted, separated by commas; see inspect. Default: auto, the layer that "
            "class activation maps take.",
        ),
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="Layer that represents a picture. Left out: what enters the last linear layer.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Strongest pictures to keep for each unit.")] = 32,
    accuracy: Annotated[float, typer.Option(help="Largest relative error of quantiles.")] = 0.01,
    keep_maps: Annotated[
        bool, typer.Option("--keep-maps", help="Keep every activation map of the layers, as float16.")
    ] = False,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Label maps named like the pictures, with concepts.txt: count where units and concepts meet, in a "
            "second pass over those pictures.",
        ),
    ] = None,
    top: Annotated[
        float, typer.Option(help="Part of a unit's activations that its mask keeps (with --masks).")
    ] = 0.005,
    batch_size: o.BatchSize = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read pictures. Left out: one for each CPU.")
    ] = None,
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Pictures between two commits: what an interruption costs.")
    ] = 256,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, only the last lines.")] = False,
    engine: o.Engine = "local",
    ray_address: o.RayAddress = None,
    actors: o.Actors = None,
    cpus_per_actor: o.CpusPerActor = 1,
    gpus_per_actor: o.GpusPerActor = 0.0,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    size: o.Size = None,
    channel_order: o.ChannelOrder = None,
    layout: o.Layout = None,
    interpolation: o.Interpolation = None,
) -> None:
    """Run every picture of a data set once, and keep what many questions need: predictions, embeddings, top places.

    \b
    onnxvis index model.onnx photos/ --out store
    onnxvis index model.onnx val.csv --layers auto,features.12 --keep-maps -o store

    Killed at any moment, the same command goes on where it stopped. A broken picture is recorded and skipped. Then
    ask: onnxvis patches, neighbors, project, dissect.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.cli.cluster import Cluster
    from onnxvis.cli.index import IndexOptions, run_index

    flags = {
        "mean": mean,
        "std": std,
        "scale": scale,
        "size": size,
        "channel_order": channel_order,
        "layout": layout,
        "interpolation": interpolation,
    }
    options = IndexOptions(
        layers=tuple(part.strip() for text in layers or ["auto"] for part in text.split(",") if part.strip()),
        embedding=embedding,
        top_k=top_k,
        accuracy=accuracy,
        batch_size=batch_size,
        keep_maps=keep_maps,
        shard_size=shard_size,
        masks=masks,
        top=top,
        workers=workers,
    )
    opened = o.open_model(model, preprocessing, labels, provider, output, flags)
    cluster = Cluster(engine, ray_address, actors, cpus_per_actor, gpus_per_actor)
    raise typer.Exit(run_index(opened, images, out, options, cluster, quiet))
