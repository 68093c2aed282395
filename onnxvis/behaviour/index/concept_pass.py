"""The second pass of Network Dissection: thresholds are known, so count where units and concepts meet.

Only pictures with a label map are run, once more. A threshold is a quantile over the whole data set, so it is known
only after the first pass; keeping every unit's histogram for every concept instead would take gigabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.dissection import ConceptCount
from onnxvis.behaviour.index.concepts import ConceptTally
from onnxvis.behaviour.index.shard import IndexSpec, Numbered, Shard, groups, run_batch
from onnxvis.behaviour.label_maps import LabelMaps, on_input_grid
from onnxvis.behaviour.masks import Anchors
from onnxvis.errors import PictureError
from onnxvis.prediction import same_shape
from onnxvis.reading import ListedPicture, Read, prepare_ahead

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["ConceptSpec", "concept_spec", "count_shard", "masked_shards", "masks_fingerprint"]


@dataclass(frozen=True, eq=False)
class ConceptSpec:
    """What the second pass counts.

    Attributes:
        maps: the label maps.
        thresholds: ``(U,)`` float32 of each layer; infinite for a unit that has no value.
        anchors: enlarge the maps of each layer to the input.
    """

    maps: LabelMaps
    thresholds: Mapping[str, NDArray[np.float32]]
    anchors: Mapping[str, Anchors]


def concept_spec(
    model: Model, layers: Iterable[str], maps: LabelMaps, thresholds: Mapping[str, NDArray[np.float32]]
) -> ConceptSpec:
    """Check that every layer can be laid over a picture.

    Raises:
        LayerError: the units of a layer have no position.
    """
    shape = model.one_image_shape()
    size = (shape[2], shape[3]) if model.layout == "NCHW" else (shape[1], shape[2])
    anchors = {name: Anchors(model.fields.get(name), size, name) for name in layers}
    clean = {n: np.where(np.isnan(t), np.float32(np.inf), t).astype(np.float32) for n, t in thresholds.items()}
    return ConceptSpec(maps, clean, anchors)


def masks_fingerprint(maps: LabelMaps) -> str:
    """SHA-256 over names and sizes of the label maps and the names of the concepts."""
    digest = hashlib.sha256(repr((maps.numbers, maps.names)).encode())
    for key, path in sorted(maps.files.items()):
        digest.update(f"{key}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def masked_shards(shards: Sequence[Shard], maps: LabelMaps) -> list[tuple[Shard, dict[int, Path]]]:
    """The shards in which a picture has a label map, and the map of each such picture by its number."""
    found = []
    for shard in shards:
        files = {n: maps.find(picture.path) for n, picture in enumerate(shard.pictures, shard.first)}
        own = {number: path for number, path in files.items() if path is not None}
        if own:
            found.append((shard, own))
    return found


def count_shard(
    model: Model, spec: IndexSpec, concepts: ConceptSpec, shard: Shard, files: Mapping[int, Path]
) -> ConceptTally:
    """Count where units and concepts meet in the pictures of one shard that have a label map.

    Args:
        model: the model.
        spec: of the first pass.
        concepts: what to count.
        shard: which pictures.
        files: label maps by the number of their picture.
    """
    tally = ConceptTally(frozenset([shard.number]), {})
    counts = {
        tap.tensor: ConceptCount(concepts.thresholds[tap.tensor], concepts.maps.names, concepts.anchors[tap.tensor])
        for tap in spec.layers
    }
    numbers = sorted(files)
    chosen = tuple(shard.pictures[number - shard.first] for number in numbers)
    reads = prepare_ahead(model, chosen, ahead=2 * spec.batch_size)
    for group in groups(reads, Shard(shard.number, 0, chosen), spec.batch_size):
        _count_group(model, spec, concepts, [(numbers[place], read) for place, read in group], files, counts, tally)
    for name, count in counts.items():
        overlap = count.overlap
        tally.layers[name] = {
            "thresholds": overlap.thresholds,
            "both": overlap.both,
            "masked": overlap.masked,
            "labeled": overlap.labeled,
        }
    return tally


def _count_group(
    model: Model,
    spec: IndexSpec,
    concepts: ConceptSpec,
    group: Sequence[Numbered],
    files: Mapping[int, Path],
    counts: Mapping[str, ConceptCount],
    tally: ConceptTally,
) -> None:
    members: list[tuple[Prepared, NDArray[np.int64]]] = []
    for number, read in group:
        try:
            members.append(_with_labels(read, concepts, files[number]))
        except PictureError as error:
            tally.errors[number] = str(error)
    for rows in same_shape([prepared.tensor for prepared, _ in members]):
        found: dict[str, NDArray[Any]] = run_batch(model, spec, [members[i][0].tensor for i in rows])
        for tap in spec.layers:
            maps = tap.maps(found[tap.tensor])
            for place, i in enumerate(rows):
                counts[tap.tensor].add(maps[place], members[i][1])
    tally.pictures += len(members)


def _with_labels(
    read: Read[ListedPicture, Prepared], concepts: ConceptSpec, path: Path
) -> tuple[Prepared, NDArray[np.int64]]:
    """A prepared picture and its label map on the input grid."""
    if read.value is None:
        raise PictureError(read.error)
    picture = read.value.picture
    assert picture is not None
    labels = on_input_grid(concepts.maps.read(path, picture.size), read.value.geometry)
    expected = next(iter(concepts.anchors.values())).input_size
    if labels.shape != expected:
        raise PictureError(
            f"{path}: its picture makes an input of {labels.shape}, and concepts are counted at {expected}: bring "
            "pictures to one size (--size)."
        )
    return read.value, labels
