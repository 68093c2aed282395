"""Do two files answer and explain alike? fp32 against int8, one export, provider or preprocessing against another.

Every picture goes through both, each with its own preprocessing. Compared are the answers (logits, the five strongest
classes) and the maps of what the *first* model answers: the same question asked of both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from onnxvis.audit.drift_chunk import (
    FailedPair,
    KnownPair,
    MapDrift,
    PairWork,
    PictureDrift,
    compare_chunk,
    settle_pair,
)
from onnxvis.audit.drift_pairs import check_pair, usable_methods
from onnxvis.audit.metrics.summary import Summary, summarize
from onnxvis.explaining import Settings
from onnxvis.progress import Progress, report_failed, silent

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource

__all__ = ["CompareEngine", "Comparison", "MapDrift", "PictureDrift", "compare", "worst_first"]

Result: TypeAlias = "PictureDrift | FailedPair | KnownPair"
_LEADING = 32  # pictures among which one that can be used is looked for


class CompareEngine(Protocol):
    """Compares pictures somewhere else."""

    def chunks(
        self,
        a: Model,
        b: Model,
        work: PairWork,
        leading: Sequence[PictureSource],
        chunks: Sequence[tuple[int, Sequence[PictureSource]]],
    ) -> Generator[tuple[int, list[Result]], None, None]:
        """What :func:`compare_chunk` gives for every chunk, with its number; each exactly once, in any order.

        :func:`settle_pair` is done with ``leading`` before.
        """


@dataclass(frozen=True)
class Comparison:
    """Two models over some pictures.

    Attributes:
        a: the first model, as plain data.
        b: the second.
        methods: whose maps were compared.
        pictures: worst first: flips, then the lowest map correlation, then the largest relative logit difference.
        failures: pictures that could not be compared, and why.
        notes: what else must be said.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    methods: tuple[str, ...]
    pictures: tuple[PictureDrift, ...]
    failures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def flips(self) -> int:
        """Pictures whose strongest class differs."""
        return sum(p.flipped for p in self.pictures)

    def summary(self) -> dict[str, Summary]:
        """Means over the pictures with 95 % intervals, by measure; maps as ``rank METHOD``, ``ssim METHOD``."""
        rows = self.pictures
        found = {
            "flips": summarize([float(p.flipped) for p in rows], rate=True),
            "top-5 overlap": summarize([p.top5_overlap for p in rows], rate=False),
            "logit difference, mean": summarize([p.logit_mean for p in rows], rate=False),
            "logit difference, largest": summarize([p.logit_max for p in rows], rate=False),
            "logit difference, relative": summarize([p.logit_relative for p in rows], rate=False),
        }
        for k, method in enumerate(self.methods):
            found[f"rank {method}"] = summarize([p.maps[k].rank for p in rows], rate=False)
            found[f"ssim {method}"] = summarize([p.maps[k].ssim for p in rows], rate=False)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        means = {name: asdict(value) for name, value in self.summary().items()}
        return {"comparison_version": 1, **asdict(self), "flips": self.flips, "summary": means}


def compare(
    a: Model,
    b: Model,
    images: Sequence[PictureSource],
    *,
    methods: Sequence[str] = ("grad-cam",),
    batch_size: int = 8,
    seed: int = 0,
    ignore_labels: bool = False,
    finished: Mapping[str, PictureDrift] | None = None,
    on_picture: Callable[[PictureDrift], None] | None = None,
    progress: Progress | None = None,
    engine: CompareEngine | None = None,
) -> Comparison:
    """Compare two models over pictures.

    Args:
        a: the first model, whose strongest class is explained in both.
        b: the second.
        images: pictures; one that cannot be read or run costs only itself.
        methods: whose maps are compared; may be empty. One that either model cannot do is left out with a note.
        batch_size: pictures at once.
        seed: for methods with chance.
        ignore_labels: compare although the class names differ.
        finished: results of an earlier, interrupted run, by the SHA-256 of the picture.
        on_picture: called with each result as soon as there is one.
        progress: called with (stage, done, total).
        engine: who compares the pictures; ``None`` does it here. The answer is the same.

    Raises:
        UsageError: the models cannot be compared: another number or kind of outputs, other class names; or an unknown
            method.
    """
    notes = check_pair(a, b, ignore_labels)
    requests, left_out = usable_methods(a, b, methods)
    known = finished or {}
    work = PairWork(requests, Settings(batch_size, seed=seed, allow_unverified=True), frozenset(known))
    rows: dict[int, PictureDrift] = {}
    failures: dict[int, tuple[str, str]] = {}
    report = progress or silent
    report("pictures", 0, len(images))
    for place, result in _results(a, b, images, work, engine):
        if isinstance(result, FailedPair):
            failures[place] = (result.name, result.reason)
        elif isinstance(result, KnownPair):
            rows[place] = replace(known[result.sha256], name=result.name, path=result.path)
        else:
            rows[place] = result
            if on_picture is not None:
                on_picture(result)
        report("pictures", len(rows) + len(failures), len(images))
        report_failed(report, "pictures", len(failures))
    names = tuple(r.method.name for r, _ in requests)
    in_order = [rows[place] for place in sorted(rows)]
    failed = tuple(failures[place] for place in sorted(failures))
    return Comparison(_about(a), _about(b), names, worst_first(in_order), failed, (*notes, *left_out))


def _results(
    a: Model, b: Model, images: Sequence[PictureSource], work: PairWork, engine: CompareEngine | None
) -> Iterator[tuple[int, Result]]:
    """What came of each picture, with its place in the listing."""
    size = work.settings.batch_size
    chunks = [(start, images[start : start + size]) for start in range(0, len(images), size)]
    leading = images[:_LEADING]
    if engine is not None:
        with contextlib.closing(engine.chunks(a, b, work, leading, chunks)) as found:
            for start, results in found:
                yield from enumerate(results, start)
        return
    settle_pair(a, b, work, leading)
    for start, chunk in chunks:
        yield from enumerate(compare_chunk(a, b, chunk, work), start)


def worst_first(rows: Sequence[PictureDrift]) -> tuple[PictureDrift, ...]:
    """Flips first, then the lowest map correlation, then the largest relative logit difference."""

    def key(row: PictureDrift) -> tuple[bool, float, float]:
        rank = row.lowest_rank
        return (not row.flipped, 1.0 if rank is None else rank, -row.logit_relative)

    return tuple(sorted(rows, key=key))


def _about(model: Model) -> dict[str, Any]:
    spec = model.preprocessing
    return {
        **model.describe(),
        "precision": model.engine.precision,
        "preprocessing": spec.to_dict() if spec else None,
        "preprocessing_summary": spec.summary() if spec else "none: arrays used as they are",
        "preprocessing_source": spec.source if spec else "",
        "explained": model.logits.tensor,
        "layer": model.head.cam_layer,
    }
