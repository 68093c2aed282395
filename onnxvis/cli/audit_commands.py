"""`onnxvis audit` and `onnxvis replay`: the options; what they do stands elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxvis.cli import options as o

__all__ = ["register"]

# What changes nothing in the report is not in the command that it states.
_NO_MATTER = ("quiet", "engine", "ray_address", "actors", "cpus_per_actor", "gpus_per_actor")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(audit)
    app.command()(replay)


def audit(
    ctx: typer.Context,
    model: o.ModelPath,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Pictures, folders (sub-folders named like classes label their pictures), or a CSV of path,label.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("onnxvis-audit"),
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Methods, separated by commas, or 'all'; see 'onnxvis methods'.")
    ] = "grad-cam,integrated-gradients,occlusion",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="Class index, label, top1..topK, a contrast 'A - B', or 'truth': the labelled class where the answer "
            "is another. Repeat for several. Default: top1, and truth where pictures are labelled.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics, separated by commas, or 'none'. Left out: the quick ones; with --full all."),
    ] = None,
    boxes: o.Boxes = None,
    masks: o.Masks = None,
    select: Annotated[
        str,
        typer.Option(
            help="Which pictures to explain: all, misclassified, least-confident, most-confident, 'per-class N'. "
            "All are classified."
        ),
    ] = "all",
    limit: Annotated[int, typer.Option(min=1, help="How many pictures to explain at most.")] = 200,
    full: Annotated[
        bool,
        typer.Option("--full/--quick", help="All metrics, for every target, and longer self-tests; or the quick ones."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where the folder holds an audit of other settings.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="Option of the methods, e.g. -O window=32. Repeat."),
    ] = None,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    gradients: o.Gradients = "auto",
    size: o.Size = None,
    batch_size: o.BatchSize = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Keep maps whose parity check failed, stamped as unverified.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bars, only errors and the last lines.")
    ] = False,
    engine: o.Engine = "local",
    ray_address: o.RayAddress = None,
    actors: o.Actors = None,
    cpus_per_actor: o.CpusPerActor = 1,
    gpus_per_actor: o.GpusPerActor = 0.0,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    channel_order: o.ChannelOrder = None,
    layout: o.Layout = None,
    interpolation: o.Interpolation = None,
) -> None:
    """Write a report that another person can read, check and repeat: one HTML page and its data.

    \b
    onnxvis audit model.onnx photos/ --preprocessing imagenet --labels labels.txt -o report
    onnxvis audit model.onnx test/ --select misclassified --limit 50 -o mistakes

    The folder holds index.html (opens in any browser, loads nothing), audit.json (the same as data) and every map
    with its manifest. After an interruption the same command goes on. Exit code 2 when a picture or map failed.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.cli.audit import AuditJob, run_audit
    from onnxvis.cli.cluster import Cluster

    names = ("mean", "std", "scale", "size", "channel_order", "layout", "interpolation")
    flags = dict(zip(names, (mean, std, scale, size, channel_order, layout, interpolation), strict=True))
    opened = o.open_model(model, preprocessing, labels, provider, output, flags, gradients)
    job = AuditJob(
        opened, tuple(images), out, _words(methods), tuple(target or ()), None if metrics is None else _words(metrics),
        boxes, masks, select, limit, full, overwrite, o.parse_pairs(option or []), batch_size, seed, allow_unverified,
        quiet, _command(ctx), Cluster(engine, ray_address, actors, cpus_per_actor, gpus_per_actor),
    )  # fmt: skip
    raise typer.Exit(run_audit(job))


def replay(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST|FOLDER",
            help="A manifest.json, or a folder: a report of 'onnxvis audit', or results of 'onnxvis explain'.",
            show_default=False,
        ),
    ],
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="How many maps of a folder to repeat. Left out: all of them.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The model, where it lies elsewhere now, or a copy to check.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="Folder that the pictures were moved to; found by their content."),
    ] = None,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    gradients: Annotated[str | None, typer.Option(help="torch or onnx, instead of what was used.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Largest distance that agrees, as a part of the map's size. Left out: 0.001, for methods that use "
            "gradients 0.01.",
        ),
    ] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Measure the metrics of the repeated maps of a report again, too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was found.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what does not agree, and the last line.")] = False,
) -> None:
    """Compute saved maps again and say whether they agree; exit code 0 if they do, 3 if not, 2 if it cannot be said.

    \b
    onnxvis replay report/
    onnxvis replay report/ --sample 10 --model /other/place/model.onnx --pictures /other/photos
    onnxvis replay onnxvis-out/cat/grad-cam/tabby/manifest.json

    What differs is named: the model (and which weights, for a report), the picture, the preprocessing, the answer,
    versions, and the map with its largest difference and correlation.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.cli.replay import ReplayJob, run_replay

    job = ReplayJob(
        what,
        sample,
        model,
        pictures,
        preprocessing,
        labels,
        provider,
        gradients,
        tolerance,
        metrics,
        seed,
        json,
        quiet,
    )
    raise typer.Exit(run_replay(job))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _command(ctx: typer.Context) -> str:
    """The command line that gives these options, whatever way they were given; without credentials in URLs."""
    from onnxvis.locations import redacted

    words = ["onnxvis", ctx.command.name or ""]
    for parameter in ctx.command.params:
        if parameter.name in _NO_MATTER:
            continue
        given: Any = ctx.params.get(parameter.name or "")
        if parameter.param_type_name == "argument":
            words += [redacted(str(v)) for v in (given if isinstance(given, list | tuple) else [given])]
        elif given is True and parameter.default is not True:
            words.append(parameter.opts[0])
        elif given not in (None, False, (), []) and (given != parameter.default or parameter.name == "out"):
            for value in given if isinstance(given, list | tuple) else [given]:
                words += [parameter.opts[0], redacted(str(value))]
    return shlex.join(words)
