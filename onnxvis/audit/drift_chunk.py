"""The unit of work of a comparison: a few pictures through both models, and how far answers and maps differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.audit.drift_pairs import Pair, Requests, explain_pairs
from onnxvis.audit.metrics.similarity import rank_correlation, shown, ssim
from onnxvis.errors import OnnxvisError
from onnxvis.explaining import Settings
from onnxvis.explanation import Explanation
from onnxvis.locations import location_name
from onnxvis.prediction import predictions, settle_batches
from onnxvis.progress import StageClock

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource

__all__ = [
    "FailedPair",
    "KnownPair",
    "MapDrift",
    "PairWork",
    "PictureDrift",
    "compare_chunk",
    "settle_pair",
]

_GRID = 256 * 256
_TOP = 5


@dataclass(frozen=True)
class MapDrift:
    """How far the two maps of one method differ on one picture.

    Attributes:
        method: its name.
        rank: Spearman's rank correlation of the two maps, -1 to 1; ``None`` where one is flat.
        ssim: structural similarity, at most 1.
        note: why there is no number, or what is wrong with a map.
    """

    method: str
    rank: float | None
    ssim: float | None
    note: str = ""


@dataclass(frozen=True)
class PictureDrift:
    """One picture in both models.

    Attributes:
        name: of the picture.
        path: as it was given; "" for an array.
        sha256: of its file.
        top1: strongest class of A and of B, ``(index, label)`` each.
        probability: of A's strongest class, in A and in B; ``None`` where there is none.
        flipped: whether the strongest class differs.
        top5_overlap: part of A's five strongest classes that are among B's.
        logit_max: largest absolute difference of a logit.
        logit_mean: mean absolute difference.
        logit_relative: the largest difference as a part of A's largest absolute logit.
        maps: one entry for each method, of A's strongest class.
    """

    name: str
    path: str
    sha256: str
    top1: tuple[tuple[int, str], tuple[int, str]]
    probability: tuple[float | None, float | None]
    flipped: bool
    top5_overlap: float
    logit_max: float
    logit_mean: float
    logit_relative: float
    maps: tuple[MapDrift, ...]

    @property
    def lowest_rank(self) -> float | None:
        """The lowest rank correlation over the methods."""
        return min((m.rank for m in self.maps if m.rank is not None), default=None)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PictureDrift:
        """Rebuild from :func:`dataclasses.asdict`, as it stands in ``compare.json``."""
        maps = tuple(MapDrift(**one) for one in data["maps"])
        (a, name_a), (b, name_b) = data["top1"]
        chances = data["probability"]
        return cls(
            **{**data, "maps": maps, "top1": ((a, name_a), (b, name_b)), "probability": (chances[0], chances[1])}
        )


@dataclass(frozen=True)
class FailedPair:
    """A picture that could not be compared, and why; it costs only itself."""

    name: str
    reason: str


@dataclass(frozen=True)
class KnownPair:
    """A picture that was compared before: the SHA-256 of its file, its name and its path now."""

    sha256: str
    name: str
    path: str


@dataclass(frozen=True)
class PairWork:
    """What is asked of every picture; plain data, if the progress of the settings is.

    Attributes:
        requests: the methods, for both models.
        settings: shared by them.
        known: SHA-256 of the pictures that were compared before.
    """

    requests: Requests
    settings: Settings
    known: frozenset[str] = frozenset()


def settle_pair(a: Model, b: Model, work: PairWork, leading: Sequence[PictureSource]) -> None:
    """Decide what a process decides once on the same data in every process, whatever it was given to do.

    How batches run, and the finite-difference check of each gradient: on the first picture that both models take.
    """
    for model in (a, b):
        settle_batches(model)
    gradients = [pair for pair in work.requests if pair[0].method.needs_gradient]
    if not gradients:
        return
    for image in leading:
        try:
            pair = Pair.prepare(a, b, image)
        except OnnxvisError:
            continue
        if any(not isinstance(found, str) for _, found in explain_pairs(a, b, [pair], gradients, work.settings)):
            return


def compare_chunk(
    a: Model,
    b: Model,
    images: Sequence[PictureSource],
    work: PairWork,
    stages: dict[str, float] | None = None,
) -> Iterator[PictureDrift | FailedPair | KnownPair]:
    """Compare two models on some pictures that run together; what comes of each, in their order.

    Where some of them are known, all run: another composition could round otherwise.

    Args:
        a: the first model, whose strongest class is explained in both.
        b: the second.
        images: the pictures.
        work: what is asked of them.
        stages: seconds by stage are added to it.
    """
    clock = StageClock(stages)
    prepared: list[Pair | FailedPair] = []
    for image in images:
        try:
            prepared.append(Pair.prepare(a, b, image))
        except OnnxvisError as error:
            prepared.append(FailedPair(_name(image), str(error)))
    clock.stop("reading")
    pairs = [pair for pair in prepared if isinstance(pair, Pair)]
    if all(pair.sha256 in work.known for pair in pairs):
        yield from (KnownPair(one.sha256, one.name, one.path) if isinstance(one, Pair) else one for one in prepared)
        return
    found = dict(explain_pairs(a, b, pairs, work.requests, work.settings))
    clock.stop("explaining")
    for one in prepared:
        if isinstance(one, FailedPair):
            yield one
        elif one.sha256 in work.known:
            yield KnownPair(one.sha256, one.name, one.path)
        else:
            result = found[one]
            drift = FailedPair(one.name, result) if isinstance(result, str) else _drift(a, b, one, *result)
            clock.stop("comparing")
            yield drift
            clock.start()


def _drift(
    a: Model,
    b: Model,
    pair: Pair,
    logits: tuple[np.ndarray, np.ndarray],
    maps: Sequence[tuple[Explanation, Explanation] | str],
    names: Sequence[str],
) -> PictureDrift:
    first, second = (row.astype(np.float64).reshape(-1) for row in logits)
    answers = [predictions(m, row[None], _TOP)[0] for m, row in zip((a, b), logits, strict=True)]
    tops = [answer.top[0] for answer in answers]
    index = tops[0].index
    chances = [_probability(m, row, index) for m, row in zip((a, b), logits, strict=True)]
    difference = np.abs(first - second)
    common = {c.index for c in answers[0].top} & {c.index for c in answers[1].top}
    return PictureDrift(
        name=pair.name,
        path=pair.path,
        sha256=pair.sha256,
        top1=(
            (index, tops[0].label),
            (tops[1].index, a.labels.name(tops[1].index) if len(a.labels) else tops[1].label),
        ),
        probability=(chances[0], chances[1]),
        flipped=index != tops[1].index,
        top5_overlap=len(common) / len(answers[0].top),
        logit_max=float(difference.max()),
        logit_mean=float(difference.mean()),
        logit_relative=float(difference.max() / max(float(np.abs(first).max()), 1e-12)),
        maps=tuple(_map_drift(name, found) for name, found in zip(names, maps, strict=True)),
    )


def _probability(model: Model, logits: np.ndarray, index: int) -> float | None:
    for ranked in predictions(model, logits[None], 1 << 30)[0].top:
        if ranked.index == index:
            return ranked.probability
    return None


def _map_drift(method: str, found: tuple[Explanation, Explanation] | str) -> MapDrift:
    if isinstance(found, str):
        return MapDrift(method, None, None, found)
    first, second = common_grid(*found)
    rank, alike = rank_correlation(first, second), ssim(first, second)
    note = "" if np.isfinite(rank) else "one of the maps is flat"
    unverified = [w for w, e in zip("AB", found, strict=True) if e.parity is not None and not e.parity.passed]
    if unverified:
        note = "; ".join(filter(None, [note, f"UNVERIFIED gradient in {' and '.join(unverified)}"]))
    return MapDrift(method, _number(rank), _number(alike), note)


def common_grid(a: Explanation, b: Explanation) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of one picture on one grid: the input's where both inputs show the same, else the picture's, reduced.

    Where one model sees nothing of the picture, the value is NaN.
    """
    if a.prepared.geometry == b.prepared.geometry:
        return shown(a), shown(b)
    return a.drawable(_GRID)[1].astype(np.float64), b.drawable(_GRID)[1].astype(np.float64)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _name(image: object) -> str:
    return location_name(str(image)) if isinstance(image, str | Path) else type(image).__name__
