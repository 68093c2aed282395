"""The unit of work of a pass: a run of pictures in, rows and mergeable counts out, and nothing else touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.index.layers import Tap
from onnxvis.behaviour.index.rows import Answer, PictureRow
from onnxvis.behaviour.index.tally import LayerTally, Tally
from onnxvis.errors import ModelError, UsageError
from onnxvis.kernels.resize import load_kernels
from onnxvis.locations import redacted
from onnxvis.prediction import Prediction, predictions, same_shape
from onnxvis.reading import ListedPicture, Read, prepare_ahead

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["IndexSpec", "Partial", "Shard", "index_shard", "run_batch"]

ReadPicture: TypeAlias = "Read[ListedPicture, Prepared]"
_NOT_FINITE = "the model answers with NaN or infinity on this picture"


@dataclass(frozen=True)
class IndexSpec:
    """What a pass computes; plain data.

    Attributes:
        layers: tensors whose units are counted.
        embedding: the tensor that represents a picture.
        top_k: pictures kept for each unit.
        accuracy: largest relative error of quantiles.
        batch_size: pictures in one forward pass.
        keep_maps: keep every activation map, as float16.
        compiled: count and resize with the numba kernels, which take a second or two to load.
        top_classes: classes kept for each picture.
    """

    layers: tuple[Tap, ...]
    embedding: Tap
    top_k: int = 32
    accuracy: float = 0.01
    batch_size: int = 8
    keep_maps: bool = False
    compiled: bool = False
    top_classes: int = 5


@dataclass(frozen=True)
class Shard:
    """A run of pictures of the listing.

    Attributes:
        number: of the shard.
        first: number of its first picture.
        pictures: in the order of the listing.
    """

    number: int
    first: int
    pictures: tuple[ListedPicture, ...]


@dataclass
class Partial:
    """What some shards gave.

    Attributes:
        answers: one for each picture, sorted by number.
        tally: what was counted.
    """

    answers: list[Answer] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def merge(self, other: Partial) -> None:
        """Add other shards. The result does not depend on the order, bit for bit.

        Raises:
            UsageError: a shard is in both.
        """
        self.tally.merge(other.tally)
        self.answers = sorted([*self.answers, *other.answers], key=lambda answer: answer.row.id)


Numbered = tuple[int, ReadPicture]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pictures that went through the network together, and what came out."""

    members: list[Numbered]
    tensors: dict[str, NDArray[Any]]


def index_shard(model: Model, spec: IndexSpec, shard: Shard, reads: Iterable[ReadPicture] | None = None) -> Partial:
    """Run the pictures of one shard and count.

    The result depends on the model's file, the spec and the pictures alone: not on threads, on the time, or on what
    was run before. A picture that cannot be read, or whose logits or embedding are not finite, is recorded with its
    error and counted nowhere.

    Args:
        model: the model.
        spec: what to compute.
        shard: which pictures.
        reads: the same pictures, prepared, in order; ``None`` reads them here.

    Raises:
        LayerError: a tensor cannot be read, or has another number of units on these pictures.
    """
    if spec.compiled:
        load_kernels()
    given = prepare_ahead(model, shard.pictures) if reads is None else iter(reads)
    partial = Partial([], Tally(frozenset([shard.number])))
    for tap in spec.layers:
        partial.tally.layers[tap.tensor] = LayerTally(tap.units, spec.top_k, spec.accuracy, compiled=spec.compiled)
    with ThreadPoolExecutor(1, thread_name_prefix="onnxvis-tally") as pool:
        waiting: Future[None] | None = None  # one batch is counted while the next one runs
        for group in groups(given, shard, spec.batch_size):
            batches, failed = _forward(model, spec, group)
            if waiting is not None:
                waiting.result()
            partial.answers += [Answer(_row(member, error)) for member, error in failed]
            waiting = pool.submit(_count_all, model, spec, partial, batches)
        if waiting is not None:
            waiting.result()
    partial.answers.sort(key=lambda answer: answer.row.id)
    return partial


def groups(reads: Iterator[ReadPicture], shard: Shard, size: int) -> Iterator[list[Numbered]]:
    """The pictures of a shard with their numbers, ``size`` at a time, broken ones among them.

    So a batch is made of the same pictures whatever came before.

    Raises:
        UsageError: other pictures came than those of the shard.
    """
    group: list[Numbered] = []
    for number, picture in enumerate(shard.pictures, shard.first):
        read = next(reads, None)
        if read is None or read.item != picture:
            raise UsageError(f"shard {shard.number} was given other pictures than its own: {picture.path} is missing.")
        group.append((number, read))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _forward(
    model: Model, spec: IndexSpec, group: Sequence[Numbered]
) -> tuple[list[_Batch], list[tuple[Numbered, str]]]:
    """Run the readable pictures of a group; where a batch fails, its pictures one by one."""
    readable = [(member, member[1].value) for member in group if member[1].value is not None]
    failed = [(member, member[1].error) for member in group if member[1].value is None]
    batches: list[_Batch] = []
    for rows in same_shape([prepared.tensor for _, prepared in readable]):
        members = [readable[i] for i in rows]
        try:
            batches.append(_Batch([m for m, _ in members], run_batch(model, spec, [p.tensor for _, p in members])))
        except ModelError:
            for member, prepared in members:
                try:
                    batches.append(_Batch([member], run_batch(model, spec, [prepared.tensor])))
                except ModelError as error:
                    failed.append((member, str(error)))
    return batches, failed


def run_batch(model: Model, spec: IndexSpec, tensors: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """One forward pass for the logits, the layers and the embedding, by tensor name.

    Where exposing a layer would move the answer (int8: fusions are switched off), the logits come from a second pass
    of the unedited file.

    Args:
        model: the model.
        spec: what is to be computed.
        tensors: prepared pictures of one shape, ``(1, ...)`` each.
    """
    x = np.concatenate(tensors)
    logits = model.logits.tensor
    wanted = dict.fromkeys([logits, *(tap.tensor for tap in spec.layers), spec.embedding.tensor])
    found = model.engine.forward(x, tuple(wanted), spec.batch_size)
    if len(wanted) > 1 and model.engine.precision == "int8":
        found |= model.engine.forward(x, (logits,), spec.batch_size)
    return found


def _count_all(model: Model, spec: IndexSpec, partial: Partial, batches: Sequence[_Batch]) -> None:
    for batch in batches:
        _count(model, spec, partial, batch)


def _count(model: Model, spec: IndexSpec, partial: Partial, batch: _Batch) -> None:
    logits = _logits(model, batch)
    vectors = spec.embedding.vectors(batch.tensors[spec.embedding.tensor])
    fine = _finite(logits) & _finite(vectors)
    lost = [member for member, good in zip(batch.members, fine, strict=True) if not good]
    partial.answers += [Answer(_row(member, _NOT_FINITE)) for member in lost]
    if not fine.any():
        return
    kept = [member for member, good in zip(batch.members, fine, strict=True) if good]
    numbers = np.array([number for number, _ in kept], np.int64)
    stored: list[NDArray[np.float16]] = []
    for tap in spec.layers:
        maps = tap.maps(batch.tensors[tap.tensor])
        maps = maps if not lost else np.ascontiguousarray(maps[fine])
        partial.tally.layers[tap.tensor].add(maps, numbers)
        if spec.keep_maps:
            stored.append(_half(maps))
    vectors = vectors[fine]
    answers = predictions(model, logits[fine], spec.top_classes)
    for place, (member, answer) in enumerate(zip(kept, answers, strict=True)):
        own = tuple(maps[place] for maps in stored)
        partial.answers.append(Answer(_row(member, "", answer), vectors[place], own))


def _logits(model: Model, batch: _Batch) -> NDArray[np.float32]:
    logits = np.asarray(batch.tensors[model.logits.tensor], np.float32)
    if logits.ndim < 2 or len(logits) != len(batch.members):
        raise ModelError(
            f"the explained tensor {model.logits.tensor!r} has shape {logits.shape} for {len(batch.members)} pictures: "
            "its first axis does not count pictures. Choose another output with --output."
        )
    return logits.reshape(len(logits), -1) if model.logits.kind == "classifier" else logits


def _finite(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))


def _half(maps: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded to half precision; values beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return maps.astype(np.float16)


def _row(member: Numbered, error: str, answer: Prediction | None = None) -> PictureRow:
    number, read = member
    picture = read.value.picture if read.value is not None else None
    width, height = picture.size if picture is not None else (0, 0)
    classes = answer.top if answer is not None else ()
    return PictureRow(
        id=number,
        path=redacted(read.item.path),
        sha256=picture.sha256 if picture is not None else "",
        width=width,
        height=height,
        error=error,
        label=read.item.label,
        top=tuple((c.index, c.label, c.logit if c.probability is None else c.probability) for c in classes),
    )
