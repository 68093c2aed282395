"""`onnxvis project`: the embeddings of a store in the plane."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

from onnxvis._version import __version__
from onnxvis.behaviour.image_grid import draw_grid, grid_places, grid_shape
from onnxvis.behaviour.opening import model_of, pictures_of
from onnxvis.behaviour.projection import Projection, tsne_seconds
from onnxvis.behaviour.projection import project as lay_out
from onnxvis.behaviour.scatter import ScatterPage, ScatterPoint, build_scatter_page, sprite_side, verdict
from onnxvis.cli.console import out, progress_bar, visible
from onnxvis.cli.results import made_line, open_store, own_folder, store_facts, store_thumbnails, write_result
from onnxvis.locations import location_name, redacted
from onnxvis.render import png_bytes

if TYPE_CHECKING:
    from onnxvis.behaviour.stored import Row

__all__ = ["ProjectJob", "run_project"]

_LONG = 60.0
_TITLES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}


@dataclass(frozen=True)
class ProjectJob:
    """Everything `onnxvis project` was asked."""

    store: str
    out: Path
    method: str = "tsne"
    perplexity: float | None = None
    seed: int = 0
    model: Path | None = None
    quiet: bool = False


def run_project(job: ProjectJob) -> int:
    """Lay out, write, and say where; 0."""
    own_folder(job.out, "projection.json")
    store = open_store(job.store)
    ids, vectors = store.embeddings()
    if not job.quiet:
        out.print(f"{len(ids):,} embeddings of {store.embedding_layer}, {vectors.shape[1]} numbers each")
        if job.method == "tsne" and (seconds := tsne_seconds(len(ids))) > _LONG:
            out.print(f"t-SNE takes about {seconds / 60:.0f} min of one CPU; --method pca takes seconds")
    with progress_bar(job.quiet) as progress:
        found = lay_out(vectors, job.method, job.perplexity, job.seed, progress)
    model = model_of(store, job.model)
    rows = {row.id: row for row in store.pictures()}
    points = [_point(rows[int(id)]) for id in ids]
    with progress_bar(job.quiet) as progress:
        thumbnails = store_thumbnails(store, pictures_of(store, model), ids, sprite_side(len(ids)), job.out, progress)
    shape = grid_shape(len(ids))
    places, how = grid_places(found.points * (1, -1), shape)
    title = f"{model.name}: {_TITLES[job.method]} of {len(ids):,} pictures"
    grid = draw_grid(thumbnails, places, shape)
    write_result(job.out / "grid.png", png_bytes(grid, Title=title, Software=f"onnxvis {__version__}"))
    said = [*found.notes, f"grid.png: {how}", *([thumbnails.problems] if thumbnails.problems else [])]
    facts = [
        *store_facts(store),
        ("Method", ", ".join(f"{name} {_shown(value)}" for name, value in found.parameters.items())),
        ("Trust", f"trustworthiness {found.trust:.3f} at {found.trust_k} neighbors (1 is perfect)"),
    ]
    notes = [f"{note[0].upper()}{note[1:]}." for note in said]
    notes.append("Distances between far groups mean little in t-SNE and UMAP; neighbors are what they keep.")
    page = ScatterPage(title, found.points, points, thumbnails, facts, notes, made_line())
    write_result(job.out / "points.csv", _csv(found, points, places).encode("utf-8", "surrogateescape"))
    write_result(job.out / "projection.json", _json(job, found, said))
    write_result(job.out / "index.html", build_scatter_page(page).encode("utf-8", "replace"))
    for note in (f"trustworthiness {found.trust:.4f} at {found.trust_k} neighbors", *said):
        out.print(escape(visible(f"  {note}")))
    out.print(f"page:   {escape(str(job.out / 'index.html'))}")
    return 0


def _point(row: Row) -> ScatterPoint:
    first = row.top[0] if row.top else None
    return ScatterPoint(
        id=row.id,
        name=location_name(row.path),
        label=row.label,
        predicted=first[1] if first else None,
        score=float(first[2]) if first and np.isfinite(first[2]) else None,
        verdict=verdict(row.label, row.top),
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(_shown(v) for v in value) if isinstance(value, list) else str(value)


def _csv(found: Projection, points: Sequence[ScatterPoint], places: Sequence[int] | Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "name", "x", "y", "label", "predicted", "score", "verdict", "grid_cell"])
    for point, (x, y), place in zip(points, found.points, places, strict=True):
        writer.writerow(
            [
                point.id,
                point.name,
                f"{x:.6g}",
                f"{y:.6g}",
                point.label,
                point.predicted,
                point.score,
                point.verdict,
                place,
            ]
        )
    return text.getvalue()


def _json(job: ProjectJob, found: Projection, notes: Sequence[str]) -> bytes:
    data = {
        "onnxvis": __version__,
        "store": redacted(job.store),
        "parameters": found.parameters,
        "trustworthiness": found.trust,
        "trustworthiness_neighbors": found.trust_k,
        "notes": list(notes),
    }
    return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
