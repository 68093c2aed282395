"""Questions to a store (`patches`, `neighbors`, `project`, `dissect`): the options; what they do stands elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxvis.cli import options as o

__all__ = ["register"]

StorePath = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="What `onnxvis index` made: a folder, or a URL (s3://bucket/store).", show_default=False
    ),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", metavar="MODEL", help="Where the model is now, if it was moved since the store was made."),
]
Layer = Annotated[
    list[str] | None, typer.Option("--layer", "-l", help="Layer of the store; repeat for several. Left out: all.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Top = Annotated[float, typer.Option("--top", help="Part of its activations over the store that a unit's mask keeps.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (patches, neighbors, project, dissect):
        app.command()(command)


def patches(
    store: StorePath,
    layer: Layer = None,
    units: Annotated[str, typer.Option(help="'top 24', '0,5,12-15' or 'all'.")] = "top 24",
    per_unit: Annotated[int, typer.Option("--per-unit", min=1, help="Patches of each unit.")] = 9,
    projection: Annotated[
        str, typer.Option(help="guided-backprop, deconvnet, zfnet-deconvnet, or none.")
    ] = "guided-backprop",
    masks: Annotated[bool, typer.Option("--masks", help="Draw the units' activation masks, too.")] = False,
    top: Top = 0.005,
    out: OutFolder = Path("onnxvis-patches"),
    model: ModelFile = None,
    gradients: o.Gradients = "auto",
    batch_size: o.BatchSize = 8,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Keep projections whose parity check failed, marked.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Show what excites units most over a data set: patches cut by what the unit sees, and what in them it is.

    \b
    onnxvis patches STORE --layer conv5 --units "top 40" --masks -o out

    Writes OUT/index.html (all units, to be searched), contact sheets for each layer, and OUT/patches.json.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.behaviour.patch_pass import PatchOptions
    from onnxvis.cli.patches import PatchJob, run_patches

    chosen = PatchOptions(units, per_unit, projection, masks, top, batch_size, allow_unverified)
    raise typer.Exit(run_patches(PatchJob(store, out, tuple(layer or ()), chosen, model, gradients, quiet)))


def neighbors(
    store: StorePath,
    image: Annotated[
        str | None,
        typer.Argument(metavar="[IMAGE]", help="A picture, or the number of one in the store.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many neighbors.")] = 10,
    metric: Annotated[str, typer.Option(help="Of the embedding: euclidean or cosine.")] = "euclidean",
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Find identical and nearly identical.")] = False,
    outliers: Annotated[
        int, typer.Option("--outliers", min=0, metavar="N", help="Find the N pictures that are least like the others.")
    ] = 0,
    pixels: Annotated[
        bool, typer.Option("--pixels/--no-pixels", help="Compare with the neighbors in pixels, too.")
    ] = True,
    out: OutFolder = Path("onnxvis-neighbors"),
    model: ModelFile = None,
    quiet: Quiet = False,
) -> None:
    """Show the pictures that the network takes for most alike, beside those that are alike in pixels.

    \b
    onnxvis neighbors STORE cat.jpg --k 8 -o out
    onnxvis neighbors STORE --duplicates --outliers 20 -o out

    A picture that is in the store is looked up; for any other the model is run on it. Writes a contact sheet and JSON.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.cli.neighbors import NeighborJob, run_neighbors

    job = NeighborJob(store, out, image, k, metric, duplicates, outliers, pixels, model, quiet)
    raise typer.Exit(run_neighbors(job))


def project(
    store: StorePath,
    method: Annotated[str, typer.Option("--method", "-m", help="tsne, pca or umap (needs the 'umap' extra).")] = "tsne",
    perplexity: Annotated[
        float | None, typer.Option(help="How many neighbors count in t-SNE; left out: 30, or less for small stores.")
    ] = None,
    seed: Seed = 0,
    out: OutFolder = Path("onnxvis-project"),
    model: ModelFile = None,
    quiet: Quiet = False,
) -> None:
    """Lay all pictures of a store out in the plane by likeness: an interactive page and a grid of pictures.

    \b
    onnxvis project STORE -o out
    onnxvis project STORE --method pca -o out

    Writes OUT/index.html (zoom, search, classes; no network), OUT/grid.png, OUT/points.csv and OUT/projection.json.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.cli.project import ProjectJob, run_project

    raise typer.Exit(run_project(ProjectJob(store, out, method, perplexity, seed, model, quiet)))


def dissect(
    store: StorePath,
    masks: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MASKS]",
            help="Folder of label maps with concepts.txt; left out: the one the store was made with.",
            show_default=False,
        ),
    ] = None,
    layer: Layer = None,
    top: Top = 0.005,
    iou: Annotated[float, typer.Option("--iou", help="IoU above which a unit counts as a detector.")] = 0.04,
    per_concept: Annotated[int, typer.Option("--per-concept", min=1, help="Units drawn for each concept.")] = 4,
    per_unit: Annotated[int, typer.Option("--per-unit", min=1, help="Pictures drawn for each unit.")] = 6,
    out: OutFolder = Path("onnxvis-dissect"),
    model: ModelFile = None,
    quiet: Quiet = False,
) -> None:
    """Find the concepts that units detect (Network Dissection): IoU of their masks with label maps.

    \b
    onnxvis dissect STORE masks/ -o out

    MASKS holds one label map for each picture (a PNG of whole numbers, named as the picture) and concepts.txt, one
    name a line. Writes OUT/index.html, OUT/units.csv (all pairs, ranked) and OUT/dissection.json.
    """  # noqa: D301 - the backslashes keep lines of --help apart
    from onnxvis.cli.dissect import DissectJob, run_dissect

    job = DissectJob(store, masks, out, tuple(layer or ()), top, iou, per_concept, per_unit, model, quiet)
    raise typer.Exit(run_dissect(job))
