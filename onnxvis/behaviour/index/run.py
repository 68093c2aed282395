"""`onnxvis index`, without the printing: one pass over a data set into a store, resumable at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxvis.behaviour.index.concept_pass import concept_spec, count_shard, masked_shards, masks_fingerprint
from onnxvis.behaviour.index.concepts import ConceptTally
from onnxvis.behaviour.index.folder import StoreFolder, locked, stored_bytes
from onnxvis.behaviour.index.layers import embedding_tap, unit_taps
from onnxvis.behaviour.index.manifest import begin, describe, finish
from onnxvis.behaviour.index.remote import RemoteStore, is_remote
from onnxvis.behaviour.index.rows import CONCEPTS, lance_module
from onnxvis.behaviour.index.shard import IndexSpec, Partial, ReadPicture, Shard, index_shard
from onnxvis.behaviour.index.store import Store
from onnxvis.behaviour.index.tally_files import TallyFolder
from onnxvis.errors import PictureError, UsageError
from onnxvis.kernels.sketch import mantissa_bits
from onnxvis.prediction import settle_batches
from onnxvis.progress import Progress, report_failed, silent
from onnxvis.reading import ListedPicture, list_pictures, prepare_ahead

if TYPE_CHECKING:
    from onnxvis.behaviour.label_maps import LabelMaps
    from onnxvis.model import Model

__all__ = ["IndexOptions", "ShardEngine", "Summary", "index", "prepare_model", "shards_of"]

_OPEN = {"complete": False, "pictures": 0, "errors": 0}  # of the second pass, until it is through
LARGEST_SHARD = 1 << 28
"""Bytes of the kept maps of one shard; a few shards are in memory at a time."""
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")
COMPILED_FROM = 1 << 25
"""Activations of a whole pass from which loading the numba kernels pays."""


@dataclass(frozen=True)
class IndexOptions:
    """What a pass is asked for.

    Attributes:
        layers: names of layers; "auto" is the one that class activation maps would take.
        embedding: a layer, or ``None`` for what enters the last linear layer.
        top_k: pictures kept for each unit.
        accuracy: largest relative error of quantiles.
        batch_size: pictures in one forward pass.
        keep_maps: keep every activation map, as float16.
        shard_size: pictures in one unit of work; an interruption costs one at most.
        masks: folder of label maps, for concepts.
        top: the part of a unit's activations that its mask keeps, with masks.
        workers: threads that read pictures; ``None`` for one for each CPU.
    """

    layers: tuple[str, ...] = ("auto",)
    embedding: str | None = None
    top_k: int = 32
    accuracy: float = 0.01
    batch_size: int = 8
    keep_maps: bool = False
    shard_size: int = 256
    masks: str | None = None
    top: float = 0.005
    workers: int | None = None


class ShardEngine(Protocol):
    """Computes shards somewhere else."""

    def partials(self, model: Model, spec: IndexSpec, shards: Sequence[Shard]) -> Generator[Partial, None, None]:
        """The partial results of all shards, each in exactly one, in any order; some may come merged."""


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        store: where.
        pictures: in the store.
        failed: of those, pictures that were left out, with their errors in their rows.
        run: pictures that this run added; the others were there already.
        seconds: of this run, from the first picture to the last commit.
        stored_bytes: size of the store.
    """

    store: Store
    pictures: int
    failed: int
    run: int
    seconds: float
    stored_bytes: int


def shards_of(pictures: Sequence[ListedPicture], size: int) -> list[Shard]:
    """Fixed runs of the listing."""
    starts = range(0, len(pictures), size)
    return [Shard(number, start, tuple(pictures[start : start + size])) for number, start in enumerate(starts)]


def index(
    model: Model,
    images: Sequence[str],
    out: str | os.PathLike[str],
    options: IndexOptions | None = None,
    *,
    command: str = "",
    progress: Progress = silent,
    engine: ShardEngine | None = None,
) -> Summary:
    """Run every picture once and keep what many questions need.

    An interrupted run goes on where it stopped when it is called again in the same way; a complete store is left as it
    is, and gets concept counts if only those are missing.

    Args:
        model: from :func:`onnxvis.load`.
        images: pictures, folders, or CSV files (see :func:`onnxvis.reading.list_pictures`).
        out: folder of the store, or its URL in object storage: then it grows in a folder of this machine, and is
            published there every few shards and at the end.
        options: what to compute.
        command: how it was asked for, for the manifest.
        progress: called with (stage, done, total).
        engine: who computes the shards of the first pass; ``None`` does it here. The answers of the store are the same.

    Raises:
        DependencyError: Lance is not installed.
        UsageError: the store was begun with another model, other pictures or options; or another process writes to it.
        LayerError: a layer does not exist or cannot be counted.
        OutputError: the store cannot be written; finished shards are kept.
    """
    lance_module()
    options = options or IndexOptions()
    _check(options, os.fspath(out))
    pictures = list_pictures(images)
    spec = _spec(model, options, len(pictures))
    masks = _open_masks(options.masks)
    prepare_model(model)
    shards = shards_of(pictures, options.shard_size)
    remote = RemoteStore(str(out)) if is_remote(out) else None
    path = Path(out) if remote is None else remote.working
    with locked(path):
        if remote is not None:
            remote.resume(progress)
        wanted = describe(model, spec, options.shard_size, _listing(pictures), command)
        manifest = begin(path, wanted, "" if remote is None else remote.shown)
        folder = StoreFolder(path, spec, options.shard_size, partial(_publish, remote))
        began, ran = time.perf_counter(), 0
        if not manifest["complete"]:
            folder.write_manifest(manifest)
            _publish(remote)  # before the work, so that it is known that this can be written
            todo = [shard for shard in shards if shard.number not in folder.committed]
            if engine is None:
                ran = _first_pass(model, spec, folder, todo, (len(pictures), options.workers), progress)
            else:
                ran = _elsewhere(engine.partials(model, spec, todo), folder, todo, len(pictures), progress)
            folder.tidy()
        if masks is not None:
            manifest = _second_pass(model, spec, folder, manifest, shards, masks, options.top, progress)
        seconds = time.perf_counter() - began
        if not manifest["complete"]:
            failed = folder.count_failed()
            manifest = finish(manifest, folder.build_ann(len(pictures) - failed), len(pictures), failed, seconds)
            folder.write_manifest(manifest)
        if remote is not None:
            remote.publish(progress)
            remote.sweep()
    count, failed = len(pictures), manifest["summary"]["failed"]
    store = Store.in_folder(path, "" if remote is None else remote.shown)
    return Summary(store, count, failed, ran, seconds, stored_bytes(path))


def _publish(remote: RemoteStore | None) -> None:
    """Between two commits: bring a store by URL up to what is committed here, if that is due."""
    if remote is not None and remote.due():
        remote.publish()


def _check(options: IndexOptions, out: str) -> None:
    if _URL.match(out) and not is_remote(out):
        raise UsageError(
            f"{out} is no folder: a store by URL is given as text with two slashes, like s3://bucket/store."
        )
    numbers = {"top_k": options.top_k, "batch_size": options.batch_size, "shard_size": options.shard_size}
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(f"--{name.replace('_', '-')} is at least 1, not {number}.")
    if not 0 < options.top < 1:
        raise UsageError(f"the part of activations that a mask keeps lies between 0 and 1, not {options.top}.")
    if not options.layers:
        raise UsageError('no layer was given; "auto" chooses one.')
    mantissa_bits(options.accuracy)  # refused here, before a store is begun that could not go on


def _spec(model: Model, options: IndexOptions, pictures: int) -> IndexSpec:
    taps = unit_taps(model, options.layers)
    values = sum(tap.units * tap.places for tap in taps)
    if options.keep_maps and 2 * values * options.shard_size > LARGEST_SHARD:
        raise UsageError(
            f"the maps of one picture take {2 * values:,} bytes, too much for shards of {options.shard_size} pictures "
            f"in memory: use --shard-size {max(1, LARGEST_SHARD // (2 * values))} or less, or fewer --layers."
        )
    return IndexSpec(
        taps,
        embedding_tap(model, options.embedding),
        options.top_k,
        options.accuracy,
        options.batch_size,
        options.keep_maps,
        compiled=pictures * values >= COMPILED_FROM,
    )


def _open_masks(folder: str | None) -> LabelMaps | None:
    from onnxvis.behaviour.label_maps import LabelMaps

    return None if folder is None else LabelMaps.open(folder)


def prepare_model(model: Model) -> None:
    """Find out before anything is read whether pictures can be prepared, and how batches run.

    The batch is planned on noise of a fixed seed, so that it does not depend on which pictures are left to do.

    Raises:
        PreprocessingError: nobody said how, or it contradicts the model.
    """
    gray = np.full((64, 64, 3), 127, np.uint8)
    with contextlib.suppress(PictureError):  # pictures of this size do not fit; those of the data set may
        model.prepare(gray)
    settle_batches(model)


def _listing(pictures: Iterable[ListedPicture]) -> dict[str, Any]:
    """What identifies the pictures: paths, sizes and labels. Contents are fingerprinted as they are read."""
    digest, count, labeled = hashlib.sha256(), 0, 0
    for picture in pictures:
        try:
            size = Path(picture.path).stat().st_size
        except OSError:
            size = -1
        digest.update(os.fsencode(f"{picture.path}\0{size}\0{picture.label or ''}\0"))
        count += 1
        labeled += picture.label is not None
    return {"count": count, "labeled": labeled, "sha256": digest.hexdigest()}


def _first_pass(
    model: Model,
    spec: IndexSpec,
    folder: StoreFolder,
    todo: Sequence[Shard],
    run: tuple[int, int | None],
    progress: Progress,
) -> int:
    """Index the shards that are missing; pictures are read ahead across shards, and one shard is written meanwhile."""
    total, workers = run
    done = total - sum(len(shard.pictures) for shard in todo)
    listed = (picture for shard in todo for picture in shard.pictures)
    reads = _reported(prepare_ahead(model, listed, workers=workers, ahead=4 * spec.batch_size), done, total, progress)
    with ThreadPoolExecutor(1, thread_name_prefix="onnxvis-commit") as pool:
        waiting: Future[None] | None = None
        try:
            for shard in todo:
                partial = index_shard(model, spec, shard, reads)
                if waiting is not None:
                    waiting.result()
                waiting = pool.submit(folder.commit, partial)
        finally:
            reads.close()
        if waiting is not None:
            waiting.result()
    return total - done


def _elsewhere(
    partials: Generator[Partial, None, None], folder: StoreFolder, todo: Sequence[Shard], total: int, progress: Progress
) -> int:
    """Commit what an engine computes, in the order in which it comes; one shard is written while the next arrives."""
    new = sum(len(shard.pictures) for shard in todo)
    done, failed = total - new, 0
    with ThreadPoolExecutor(1, thread_name_prefix="onnxvis-commit") as pool, contextlib.closing(partials):
        waiting: Future[None] | None = None
        progress("pictures", done, total)
        for partial in partials:
            if waiting is not None:
                waiting.result()
            waiting = pool.submit(folder.commit, partial)
            done += len(partial.answers)
            failed += sum(bool(answer.row.error) for answer in partial.answers)
            progress("pictures", done, total)
            report_failed(progress, "pictures", failed)
        if waiting is not None:
            waiting.result()
    return new


def _reported(reads: Iterator[ReadPicture], done: int, total: int, progress: Progress) -> Any:
    failed = 0
    progress("pictures", done, total)
    try:
        for read in reads:
            failed += read.value is None
            progress("pictures", done + read.position, total)
            report_failed(progress, "pictures", failed)
            yield read
        progress("pictures", total, total)
    finally:
        reads.close()  # type: ignore[attr-defined]


def _second_pass(
    model: Model,
    spec: IndexSpec,
    folder: StoreFolder,
    manifest: Mapping[str, Any],
    shards: Sequence[Shard],
    maps: LabelMaps,
    top: float,
    progress: Progress,
) -> dict[str, Any]:
    """Concept counts, shard by shard; a shard is committed when its tally is on the disk."""
    wanted = {
        "folder": str(maps.folder.absolute()),
        "names": list(maps.names),
        "quantile": 1 - top,
        "maps": len(maps.files),
        "sha256": masks_fingerprint(maps),
        **_OPEN,
    }
    known = manifest.get("masks")
    if known is not None and {**known, **_OPEN} != wanted:
        raise UsageError(f"{folder.path} was indexed with other masks ({known['folder']}): choose another --out.")
    if known is not None and known["complete"]:
        return dict(manifest)
    manifest = {**manifest, "masks": wanted}
    folder.write_manifest(manifest)
    thresholds = {name: tally.sketch.quantile(1 - top) for name, tally in folder.tally.layers.items()}
    concepts = concept_spec(model, thresholds, maps, thresholds)
    tallies = TallyFolder(folder.path / CONCEPTS, ConceptTally.from_state)
    done, todo = tallies.on_disk(), masked_shards(shards, maps)
    if not todo:
        raise UsageError(f"no picture has a label map in {maps.folder}: a map is named like its picture, with .png.")
    for place, (shard, files) in enumerate(todo):
        progress("concepts", place, len(todo))
        if shard.number not in done:
            tallies.write(count_shard(model, spec, concepts, shard, files))
            folder.after_commit()
    progress("concepts", len(todo), len(todo))
    whole = tallies.read()
    assert whole is not None
    tallies.fold(whole)
    finished = {
        **manifest,
        "masks": {**wanted, "complete": True, "pictures": whole.pictures, "errors": len(whole.errors)},
    }
    folder.write_manifest(finished)
    return finished
