"""`onnxvis gan` and `onnxvis ablate`: the options; what they do stands elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxvis.cli import options as o

__all__ = ["register"]

_GENERATOR = "Generator"
GeneratorPath = Annotated[
    Path, typer.Argument(metavar="GENERATOR", help="The generator's .onnx file.", show_default=False)
]
Layer = Annotated[str | None, typer.Option(help="Its feature map; chosen by structure if left out.")]
Seed = Annotated[int, typer.Option(min=0, help="Of samples and searches: a seed and a number give the same picture.")]
Segmenter = Annotated[
    str | None,
    typer.Option(
        "--segmenter",
        metavar="FILE.onnx|MODULE:FUNCTION",
        help="Marks concepts in the pictures. Left out: built-in masks of color and place.",
    ),
]
Concepts = Annotated[str | None, typer.Option(metavar="NAMES", help="Which concepts, separated by commas.")]
Clusters = Annotated[int, typer.Option(help="Built-in masks: add so many clusters of colors as concepts.")]
Preprocessing = Annotated[
    str | None, typer.Option("--preprocessing", help="How pictures enter a segmenter of ONNX: a preset or a file.")
]
SegmenterLabels = Annotated[str | None, typer.Option("--labels", help="Class names of a segmenter of ONNX.")]
Range = Annotated[
    str | None,
    typer.Option(
        "--range",
        metavar="NAME|LOW,HIGH",
        help="Of its pictures: tanh, unit, byte or two numbers. Left out: read off the graph.",
        rich_help_panel=_GENERATOR,
    ),
]
Truncation = Annotated[
    float | None, typer.Option(help="Draw latents again beyond this many deviations.", rich_help_panel=_GENERATOR)
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="Value of an input, a class for example. Repeat.",
        rich_help_panel=_GENERATOR,
    ),
]
LatentShape = Annotated[
    str | None,
    typer.Option(
        "--latent-shape",
        metavar="NUMBERS",
        help="Of one latent, where the file leaves it free.",
        rich_help_panel=_GENERATOR,
    ),
]
Output = Annotated[
    str | None, typer.Option("--output", help="Which output holds the pictures.", rich_help_panel=_GENERATOR)
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples at once.", rich_help_panel=_GENERATOR)]
Units = Annotated[str | None, typer.Option(metavar="NUMBERS", help="Units by number, separated by commas.")]
Concept = Annotated[str | None, typer.Option(help="Take the units of this concept.")]
Top = Annotated[int, typer.Option(min=1, help="How many units of the concept.")]
By = Annotated[str, typer.Option(help="How they are chosen: iou, effect, optimized or greedy.")]
From = Annotated[
    Path | None, typer.Option("--dissection", metavar="FOLDER", help="A finished dissection. Left out: made first.")
]
Place = Annotated[
    str | None, typer.Option(metavar="TOP,LEFT,BOTTOM,RIGHT", help="Only there, as fractions of the picture.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(
        name="gan",
        help="Dissect a generator: which unit draws what, and what if it were off, or on.",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command()(dissect)
    group.command()(ablate)
    group.command()(insert)
    group.command()(repair)
    app.add_typer(group)
    app.command(name="ablate")(ablate_classifier)


def dissect(
    generator: GeneratorPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("onnxvis-gan"),
    layer: Layer = None,
    layers: Annotated[bool, typer.Option("--layers", help="Only list the feature maps.")] = False,
    samples: Annotated[int, typer.Option(min=8, help="Half choose thresholds, half are the test.")] = 1000,
    seed: Seed = 0,
    segmenter: Segmenter = None,
    concepts: Concepts = None,
    clusters: Clusters = 0,
    preprocessing: Preprocessing = None,
    labels: SegmenterLabels = None,
    value_range: Range = None,
    truncation: Truncation = None,
    inputs: Inputs = None,
    latent_shape: LatentShape = None,
    output: Output = None,
    provider: o.Provider = None,
    batch_size: BatchSize = 16,
    quiet: Quiet = False,
) -> None:
    """Which units agree with which concepts: IoU on held-out samples, beside chance; galleries.

    Interrupted runs go on where they stopped.
    """
    from onnxvis.cli.gan import Marking, Opening, run_dissect, show_layers

    opening = Opening(generator, value_range, truncation, inputs or [], latent_shape, output, provider, batch_size)
    marking = Marking(segmenter, concepts, clusters, preprocessing, labels, seed)
    raise typer.Exit(show_layers(opening) if layers else run_dissect(opening, marking, layer, samples, out, quiet))


def ablate(
    generator: GeneratorPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("onnxvis-gan-ablate"),
    layer: Layer = None,
    units: Units = None,
    concept: Concept = None,
    top: Top = 8,
    by: By = "iou",
    dissection: From = None,
    region: Place = None,
    samples: Annotated[int, typer.Option(min=2, help="To measure on.")] = 256,
    seed: Seed = 0,
    segmenter: Segmenter = None,
    concepts: Concepts = None,
    clusters: Clusters = 0,
    preprocessing: Preprocessing = None,
    labels: SegmenterLabels = None,
    value_range: Range = None,
    truncation: Truncation = None,
    inputs: Inputs = None,
    latent_shape: LatentShape = None,
    output: Output = None,
    provider: o.Provider = None,
    batch_size: BatchSize = 16,
    quiet: Quiet = False,
) -> None:
    """Switch units off and measure what disappears, beside as many random units.

    \b
    onnxvis gan ablate faces.onnx --concept green --top 8 --dissection onnxvis-gan
    """  # noqa: D301 - the mark keeps lines of --help apart
    from onnxvis.cli.gan import Marking, Opening, Wish, run_intervention

    opening = Opening(generator, value_range, truncation, inputs or [], latent_shape, output, provider, batch_size)
    marking = Marking(segmenter, concepts, clusters, preprocessing, labels, seed)
    wish = Wish(layer, units, concept, top, by, dissection, region, samples)
    raise typer.Exit(run_intervention("ablate", opening, marking, wish, out, quiet))


def insert(
    generator: GeneratorPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("onnxvis-gan-insert"),
    layer: Layer = None,
    units: Units = None,
    concept: Concept = None,
    top: Top = 8,
    by: By = "iou",
    value: Annotated[
        float | None,
        typer.Option(help="Set the units to this. Left out: each to its mean activation where the concept is."),
    ] = None,
    dissection: From = None,
    region: Place = None,
    samples: Annotated[int, typer.Option(min=2, help="To measure on.")] = 256,
    seed: Seed = 0,
    segmenter: Segmenter = None,
    concepts: Concepts = None,
    clusters: Clusters = 0,
    preprocessing: Preprocessing = None,
    labels: SegmenterLabels = None,
    value_range: Range = None,
    truncation: Truncation = None,
    inputs: Inputs = None,
    latent_shape: LatentShape = None,
    output: Output = None,
    provider: o.Provider = None,
    batch_size: BatchSize = 16,
    quiet: Quiet = False,
) -> None:
    """Switch units on and measure what appears: gain, and average causal effect (on minus off).

    \b
    onnxvis gan insert faces.onnx --concept green --by optimized --region 0,0,0.5,1 --dissection onnxvis-gan
    """  # noqa: D301 - the mark keeps lines of --help apart
    from onnxvis.cli.gan import Marking, Opening, Wish, run_intervention

    opening = Opening(generator, value_range, truncation, inputs or [], latent_shape, output, provider, batch_size)
    marking = Marking(segmenter, concepts, clusters, preprocessing, labels, seed)
    wish = Wish(layer, units, concept, top, by, dissection, region, samples, value)
    raise typer.Exit(run_intervention("insert", opening, marking, wish, out, quiet))


def repair(
    generator: GeneratorPath,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.onnx", help="The file to write.")] = Path(
        "repaired.onnx"
    ),
    layer: Layer = None,
    bad: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Numbers of spoiled samples, separated by commas.")
    ] = None,
    units: Units = None,
    top: Annotated[int, typer.Option(min=1, help="How many units that fire in spoiled samples.")] = 20,
    region: Place = None,
    seed: Seed = 0,
    value_range: Range = None,
    truncation: Truncation = None,
    inputs: Inputs = None,
    latent_shape: LatentShape = None,
    output: Output = None,
    provider: o.Provider = None,
    batch_size: BatchSize = 16,
    quiet: Quiet = False,
) -> None:
    """Write the generator without the units that spoil pictures; the file is checked against the intervention.

    \b
    onnxvis gan repair faces.onnx                                  (shows numbered samples to pick from)
    onnxvis gan repair faces.onnx --bad 3,17,92 --top 20 --out repaired.onnx
    """  # noqa: D301 - the mark keeps lines of --help apart
    from onnxvis.cli.gan import Opening, run_repair

    opening = Opening(generator, value_range, truncation, inputs or [], latent_shape, output, provider, batch_size)
    raise typer.Exit(run_repair(opening, layer, bad, units, top, region, seed, out, quiet))


def ablate_classifier(
    model: o.ModelPath,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.", show_default=False),
    ],
    layer: Annotated[str | None, typer.Option(help="Layer whose units are switched off; see inspect.")] = None,
    units: Units = None,
    truth: Annotated[
        str,
        typer.Option(
            help="What counts as right: 'prediction' (of the whole network) or 'folder' (whose name is the class)."
        ),
    ] = "prediction",
    top: Annotated[int, typer.Option(min=1, help="How many units and classes to list.")] = 15,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for page, pictures and JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable, to the screen.")] = False,
    preprocessing: o.PreprocessingChoice = None,
    labels: o.Labels = None,
    provider: o.Provider = None,
    output: o.Output = None,
    size: o.Size = None,
    batch_size: o.BatchSize = 16,
    quiet: Quiet = False,
) -> None:
    """Switch a classifier's units off one by one: what the class loses, and which classes lose most.

    \b
    onnxvis ablate model.onnx photos/ --layer conv:-1 --preprocessing imagenet -o ablated
    """  # noqa: D301 - the mark keeps lines of --help apart
    from onnxvis.cli.ablate import AblateJob, run_ablate

    opened = o.open_model(model, preprocessing, labels, provider, output, {"size": size})
    job = AblateJob(opened, tuple(images), layer, units, truth, top, out, json, batch_size, quiet)
    raise typer.Exit(run_ablate(job))
