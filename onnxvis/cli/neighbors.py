"""`onnxvis neighbors`: pictures that are alike to the network, duplicates and outliers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from onnxvis._version import __version__
from onnxvis.behaviour.neighbors import (
    DUPLICATE_PIXELS,
    DUPLICATE_SHARE,
    METRICS,
    Metric,
    duplicates,
    outliers,
    pixel_nearest,
)
from onnxvis.behaviour.opening import model_of, pictures_of
from onnxvis.behaviour.stored import Pictures, Row, good_rows
from onnxvis.behaviour.thumbnails import Thumbnails, thumbnail_of
from onnxvis.behaviour.tiles import Tile, TileRow, tile_sheet
from onnxvis.cli.console import out, progress_bar, visible
from onnxvis.cli.results import open_store, store_thumbnails, write_result
from onnxvis.errors import UsageError
from onnxvis.locations import location_name
from onnxvis.names import slug
from onnxvis.render import png_bytes

if TYPE_CHECKING:
    from onnxvis.behaviour.index.store import Store
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["NeighborJob", "run_neighbors"]

_SIDE = 32
_MOST_GROUPS = 40
_CELL = 112


@dataclass(frozen=True)
class NeighborJob:
    """Everything `onnxvis neighbors` was asked."""

    store: str
    out: Path
    image: str | None
    k: int = 10
    metric: str = "euclidean"
    duplicates: bool = False
    outliers: int = 0
    pixels: bool = True
    model: Path | None = None
    quiet: bool = False


@dataclass
class _Room:
    """What every question needs, opened once."""

    job: NeighborJob
    store: Store
    model: Model
    pictures: Pictures
    rows: Mapping[int, Row]

    def thumbnails(self, ids: NDArray[np.int64]) -> Thumbnails:
        with progress_bar(self.job.quiet) as progress:
            return store_thumbnails(self.store, self.pictures, ids, _SIDE, self.job.out, progress)


@dataclass(frozen=True, eq=False)
class _Query:
    """The picture that was asked about; ``id`` where the store has it."""

    name: str
    vector: NDArray[np.float32]
    prepared: Prepared
    id: int | None
    how: str


def run_neighbors(job: NeighborJob) -> int:
    """Answer, write, and say where; 0."""
    if job.metric not in METRICS:
        raise UsageError(f"--metric is {' or '.join(METRICS)}, not {job.metric!r}.")
    if job.image is None and not job.duplicates and not job.outliers:
        raise UsageError("name a picture, or ask for --duplicates or --outliers N.")
    if job.out.exists() and not job.out.is_dir():
        raise UsageError(f"{job.out} is a file; name a folder with --out.")
    store = open_store(job.store)
    good_rows(store)
    model = model_of(store, job.model)
    rows = {row.id: row for row in store.pictures()}
    room = _Room(job, store, model, pictures_of(store, model), rows)
    if job.image is not None:
        _neighbors(room, job.image)
    if job.duplicates:
        _duplicates(room)
    if job.outliers:
        _outliers(room)
    return 0


# --- one picture -----------------------------------------------------------------------------------


def _neighbors(room: _Room, image: str) -> None:
    job = room.job
    metric: Metric = "cosine" if job.metric == "cosine" else "euclidean"
    query = _query(room, image)
    found, distances = room.store.nearest(query.vector, job.k + 1, metric)
    kept = found != (-1 if query.id is None else query.id)
    ids, distances = found[kept][: job.k], distances[kept][: job.k]
    rows = [("embedding", ids, distances)]
    notes = [
        f"Embedding: {room.store.embedding_layer}, {metric} distance, {room.store.nearest_how(metric)}.",
        query.how,
    ]
    if job.pixels:
        all_ids, _ = room.store.embeddings()
        thumbnails = room.thumbnails(all_ids)
        own = thumbnail_of(query.prepared.display(), _SIDE)
        rows.append(("pixels", *pixel_nearest(thumbnails, own, job.k, query.id)))
        notes.append(
            f"Pixels: root mean square difference (of 255) of the model's input pictures, reduced to {_SIDE} x {_SIDE}."
        )
        notes += [f"{thumbnails.problems}."] if thumbnails.problems else []
    _write_neighbors(room, query, rows, notes)


def _query(room: _Room, image: str) -> _Query:
    if image.isdecimal() and not Path(image).exists():
        return _known(room, int(image), "")
    prepared = room.model.prepare(image)
    assert prepared.picture is not None
    name = prepared.picture.name
    same = [row.id for row in room.rows.values() if row.sha256 == prepared.picture.sha256 and not row.error]
    same.sort(key=lambda id: location_name(room.rows[id].path) != name)  # of equal files the one of this name
    if same:
        return _known(room, same[0], f" ({name})")
    from onnxvis.behaviour.index.layers import embedding_tap

    tap = embedding_tap(room.model, room.store.embedding_layer)
    vector = tap.vectors(room.model.engine.forward(prepared.tensor, (tap.tensor,))[tap.tensor])[0]
    return _Query(name, vector, prepared, None, "The picture is not in the store: the model was run on it.")


def _known(room: _Room, id: int, named: str) -> _Query:
    row = room.pictures.row(id)
    ids, vectors = room.store.embeddings()
    if row.error or id not in ids:
        raise UsageError(f"picture {id} ({row.path}) has no embedding: {row.error or 'it was not read'}.")
    vector = vectors[int(np.flatnonzero(ids == id)[0])]
    how = f"The picture is number {id} of the store{named}: its embedding was looked up, and it is left out."
    return _Query(location_name(row.path), vector, room.pictures.prepared(id), id, how)


def _write_neighbors(
    room: _Room,
    query: _Query,
    rows: Sequence[tuple[str, NDArray[np.int64], NDArray[np.float64]]],
    notes: Sequence[str],
) -> None:
    folder, name = room.job.out, slug(Path(query.name).stem or "picture")
    drawn = [TileRow("picture", [Tile(query.prepared.display(), query.name, marked=True)])]
    data: dict[str, Any] = {"onnxvis": __version__, "picture": query.name, "id": query.id, "notes": list(notes)}
    for kind, ids, distances in rows:
        heading = f"{kind} ({room.job.metric})" if kind == "embedding" else kind
        pairs = list(zip(ids, distances, strict=True))
        drawn.append(TileRow(heading, [_tile(room, int(id), f"{d:.3g}") for id, d in pairs]))
        data[kind] = [_plain(room, int(id), distance=float(d)) for id, d in pairs]
        _print(f"{heading}: nearest to {query.name}", room, pairs)
    title = f"{room.model.name}: nearest to {query.name}"
    sheet = tile_sheet(drawn, title=title, notes=notes, cell=_CELL)
    write_result(folder / f"{name}.png", png_bytes(sheet, Title=title, Software=f"onnxvis {__version__}"))
    _write_json(folder / f"{name}.json", data)
    for note in notes:
        out.print(escape(visible(note)))
    out.print(f"sheet:  {escape(str(folder / f'{name}.png'))}")


def _tile(room: _Room, id: int, caption: str) -> Tile:
    row = room.rows[id]
    said = row.label or (row.top[0][1].split(",")[0] if row.top else "")
    return Tile(room.pictures.prepared(id).display(), f"{caption} {said}".strip())


def _plain(room: _Room, id: int, **more: Any) -> dict[str, Any]:
    row = room.rows[id]
    return {"id": id, "path": row.path, "label": row.label, "predicted": row.top[0][1] if row.top else None, **more}


def _print(title: str, room: _Room, pairs: Sequence[tuple[np.int64, np.float64]]) -> None:
    out.print(f"[bold]{escape(visible(title))}[/]")
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for id, distance in pairs:
        row = room.rows[int(id)]
        table.add_row(
            f"{distance:.4g}", str(id), escape(visible(location_name(row.path))), escape(visible(row.label or ""))
        )
    out.print(table)


# --- the whole store -------------------------------------------------------------------------------


def _duplicates(room: _Room) -> None:
    ids, vectors = room.store.embeddings()
    thumbnails = room.thumbnails(ids)
    with progress_bar(room.job.quiet) as progress:
        groups, limit = duplicates(list(room.rows.values()), ids, vectors, thumbnails, progress=progress)
    notes = [
        f"Together: equal files; or embeddings closer than {limit:.4g} ({DUPLICATE_SHARE:g} of the median distance "
        f"to a nearest neighbor) and pictures that differ by less than {DUPLICATE_PIXELS:g} of 255 at "
        f"{_SIDE} x {_SIDE} pixels."
    ]
    out.print(f"[bold]duplicates[/]: {len(groups)} group{'' if len(groups) == 1 else 's'}")
    rows: list[TileRow] = []
    plain = []
    for group in groups:
        kind = "same file" if group.identical else f"{group.distance:.3g}, pixels {group.pixels:.2g}"
        names = ", ".join(location_name(room.rows[i].path) for i in group.ids[:4]) + (
            " ..." if len(group.ids) > 4 else ""
        )
        if len(rows) < _MOST_GROUPS:
            out.print(escape(visible(f"  {kind}: {names}")))
            rows.append(TileRow(kind, [_tile(room, i, str(i)) for i in group.ids[: room.job.k]]))
        plain.append({**vars(group), "ids": list(group.ids), "paths": [room.rows[i].path for i in group.ids]})
    _write_json(room.job.out / "duplicates.json", {"onnxvis": __version__, "notes": notes, "groups": plain})
    if len(groups) > len(rows):
        notes.append(f"The {len(rows)} closest of {len(groups)} groups; duplicates.json has all.")
    _write_sheet(room, "duplicates", rows, notes)


def _outliers(room: _Room) -> None:
    ids, vectors = room.store.embeddings()
    metric: Metric = "cosine" if room.job.metric == "cosine" else "euclidean"
    with progress_bar(room.job.quiet) as progress:
        found = outliers(ids, vectors, room.job.k, metric, progress)
    neighbors = min(room.job.k, len(ids) - 1)
    notes = [
        f"Local outlier factor with {neighbors} neighbors ({metric}): how much sparser the embedding is around a "
        f"picture than around its neighbors; 1 is usual. Second number: distance to neighbor {neighbors}."
    ]
    shown = found[: room.job.outliers]
    out.print("[bold]outliers[/]")
    for one in shown:
        name = location_name(room.rows[one.id].path)
        out.print(escape(visible(f"  {one.factor:.3f}  {one.distance:.4g}  {one.id}  {name}")))
    plain = [_plain(room, one.id, factor=one.factor, distance=one.distance) for one in found]
    _write_json(room.job.out / "outliers.json", {"onnxvis": __version__, "notes": notes, "ranked": plain})
    per_row = 8
    rows = [
        TileRow(
            f"{start + 1} to {min(start + per_row, len(shown))}",
            [_tile(room, one.id, f"{one.factor:.2f}, {one.distance:.3g}") for one in shown[start : start + per_row]],
        )
        for start in range(0, len(shown), per_row)
    ]
    _write_sheet(room, "outliers", rows, notes)


def _write_sheet(room: _Room, name: str, rows: Sequence[TileRow], notes: Sequence[str]) -> None:
    if not rows:
        return
    title = f"{room.model.name}: {name} of {PurePath(room.store.shown).name}"
    path = room.job.out / f"{name}.png"
    write_result(path, png_bytes(tile_sheet(rows, title=title, notes=notes, cell=_CELL), Title=title))
    out.print(f"sheet:  {escape(str(path))}")


def _write_json(path: Path, data: dict[str, Any]) -> None:
    write_result(path, json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))
