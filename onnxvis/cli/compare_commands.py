"""`onnxvis compare` and `onnxvis evaluate`: the options; what they do stands elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxvis.cli import options as o

__all__ = ["register"]

_B = "The second model"
_GATE = "Limits, for pipelines (exit code 3 where one is broken)"

_Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.", show_default=False)
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, only errors and the last lines.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(compare)
    app.command()(evaluate)


def compare(
    model: Annotated[Path, typer.Argument(metavar="A", help="The first .onnx file.", show_default=False)],
    other: Annotated[Path, typer.Argument(metavar="B", help="The second .onnx file.", show_default=False)],
    images: _Images,
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Methods whose maps are compared, separated by commas, or 'none'.")
    ] = "grad-cam",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("onnxvis-compare"),
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="How many of the worst are drawn.")] = 12,
    max_flips: Annotated[
        int | None, typer.Option(min=0, help="Most pictures whose answer may differ.", rich_help_panel=_GATE)
    ] = None,
    min_correlation: Annotated[
        float | None, typer.Option(help="Least rank correlation of any two maps.", rich_help_panel=_GATE)
    ] = None,
    max_difference: Annotated[
        float | None,
        typer.Option(help="Largest logit difference, as a part of the largest logit.", rich_help_panel=_GATE),
    ] = None,
    preprocessing: o.PreprocessingChoice = None,
    preprocessing_b: Annotated[
        str | None,
        typer.Option(
            "--preprocessing-b",
            metavar="NAME|FILE",
            help="Of B. Left out: what stands beside B, else that of A.",
            rich_help_panel=_B,
        ),
    ] = None,
    mean_b: Annotated[
        str | None, typer.Option("--mean-b", metavar="NUMBERS", help="As --mean.", rich_help_panel=_B)
    ] = None,
    std_b: Annotated[
        str | None, typer.Option("--std-b", metavar="NUMBERS", help="As --std.", rich_help_panel=_B)
    ] = None,
    scale_b: Annotated[float | None, typer.Option("--scale-b", help="As --scale.", rich_help_panel=_B)] = None,
    size_b: Annotated[
        str | None,
        typer.Option("--size-b", metavar="H,W", help="As --size. Left out: that of A.", rich_help_panel=_B),
    ] = None,
    channel_order_b: Annotated[
        str | None, typer.Option("--channel-order-b", help="As --channel-order.", rich_help_panel=_B)
    ] = None,
    layout_b: Annotated[str | None, typer.Option("--layout-b", help="As --layout.", rich_help_panel=_B)] = None,
    interpolation_b: Annotated[
        str | None, typer.Option("--interpolation-b", help="As --interpolation.", rich_help_panel=_B)
    ] = None,
    provider_b: Annotated[
        str | None, typer.Option("--provider-b", help="Of B. Left out: that of A.", rich_help_panel=_B)
    ] = None,
    output_b: Annotated[
        str | None, typer.Option("--output-b", help="Of B. Left out: that of A.", rich_help_panel=_B)
    ] = None,
    labels: o.Labels = None,
    ignore_labels: Annotated[
        bool, typer.Option("--ignore-labels", help="Compare although the class names differ.", rich_help_panel=_B)
    ] = False,
    provider: o.Provider = None,
    output: o.Output = None,
    gradients: o.Gradients = "auto",
    size: o.Size = None,
    batch_size: o.BatchSize = 8,
    seed: Annotated[int, typer.Option(min=0, help="For methods with chance.")] = 0,
    quiet: _Quiet = False,
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
    """Compare what two files answer and how they explain it: fp32 and int8, two exports, providers, preprocessings.

    \b
    onnxvis compare model.onnx model.int8.onnx photos/ -o drift
    onnxvis compare model.onnx model.onnx photos/ --preprocessing-b imagenet --max-flips 0

    Writes OUT/index.html (worst cases first, with pictures) and OUT/compare.json. An interrupted run goes on where it
    stopped. Exit code: 0 compared, 2 a picture failed or wrong usage, 3 a limit was broken, 130 interrupted.
    """  # noqa: D301 - the mark keeps lines of --help apart
    from onnxvis.cli.cluster import Cluster
    from onnxvis.cli.compare import CompareJob, Limits, open_second, run_compare

    names = ("mean", "std", "scale", "size", "channel_order", "layout", "interpolation")
    flags = dict(zip(names, (mean, std, scale, size, channel_order, layout, interpolation), strict=True))
    given_b = (mean_b, std_b, scale_b, size_b or size, channel_order_b, layout_b, interpolation_b)
    flags_b = dict(zip(names, given_b, strict=True))
    first = o.open_model(model, preprocessing, labels, provider, output, flags, gradients)
    second = open_second(
        first, other, preprocessing_b, labels, provider_b or provider, output_b or output, flags_b, gradients
    )
    job = CompareJob(
        a=first,
        b=second,
        images=tuple(images),
        methods=tuple(m.strip() for m in methods.split(",") if m.strip() not in ("", "none")),
        out=out,
        pictures=pictures,
        limits=Limits(max_flips, min_correlation, max_difference),
        ignore_labels=ignore_labels,
        batch_size=batch_size,
        seed=seed,
        quiet=quiet,
        cluster=Cluster(engine, ray_address, actors, cpus_per_actor, gpus_per_actor),
    )
    raise typer.Exit(run_compare(job))


def evaluate(
    model: o.ModelPath,
    images: _Images,
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Methods, separated by commas; see 'onnxvis methods'.")
    ] = "grad-cam,saliency,integrated-gradients",
    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics, separated by commas, or 'all'. Left out: the quick ones."),
    ] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="What is explained, such as top1 or a label.")] = "top1",
    boxes: o.Boxes = None,
    masks: o.Masks = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.json", help="Write all figures.")] = None,
    score: Annotated[str, typer.Option(help="What perturbation metrics follow: probability or logit.")] = "probability",
    baseline: Annotated[
        str | None, typer.Option(help="zero, mean or blur, for every metric. Left out: that of each paper.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of insertion and deletion.")] = 28,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    gradients: o.Gradients = "auto",
    size: o.Size = None,
    batch_size: o.BatchSize = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    quiet: _Quiet = False,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    channel_order: o.ChannelOrder = None,
    layout: o.Layout = None,
    interpolation: o.Interpolation = None,
) -> None:
    """Measure explanations on this model: methods by metrics, means with 95 % intervals.

    \b
    onnxvis evaluate model.onnx photos/ -m grad-cam,saliency --metrics insertion,deletion --out metrics.json

    Metrics: insertion, deletion, average-drop, average-increase, pointing-game, energy-pointing-game,
    localization-iou, sparseness, complexity, sensitivity-n, infidelity, max-sensitivity.
    """  # noqa: D301
    from onnxvis.cli.evaluate import EvaluateJob, run_evaluate

    names = ("mean", "std", "scale", "size", "channel_order", "layout", "interpolation")
    flags = dict(zip(names, (mean, std, scale, size, channel_order, layout, interpolation), strict=True))
    job = EvaluateJob(
        model=o.open_model(model, preprocessing, labels, provider, output, flags, gradients),
        images=tuple(images),
        methods=tuple(m.strip() for m in methods.split(",") if m.strip()),
        metrics=None if metrics is None else tuple(m.strip() for m in metrics.split(",") if m.strip()),
        target=target,
        boxes=boxes,
        masks=masks,
        out=out,
        score=score,
        baseline=baseline,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        quiet=quiet,
    )
    raise typer.Exit(run_evaluate(job))
