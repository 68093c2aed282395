"""Do two files answer and explain alike? fp32 against int8, one export, provider or preprocessing against another.

Every picture goes through both, each with its own preprocessing. Compared are the answers (logits, the five strongest
classes) and the maps of what the *first* model answers: the same question asked of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.audit.drift_pairs import Pair, check_pair, explain_pairs, usable_methods
from onnxvis.audit.metrics.similarity import rank_correlation, shown, ssim
from onnxvis.audit.metrics.summary import Summary, summarize
from onnxvis.errors import OnnxvisError
from onnxvis.explaining import Settings
from onnxvis.explanation import Explanation
from onnxvis.locations import location_name
from onnxvis.prediction import predictions
from onnxvis.progress import Progress, silent

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource

__all__ = ["Comparison", "MapDrift", "PictureDrift", "compare", "worst_first"]

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

    Raises:
        UsageError: the models cannot be compared: another number or kind of outputs, other class names; or an unknown
            method.
    """
    notes = check_pair(a, b, ignore_labels)
    requests, left_out = usable_methods(a, b, methods)
    report = progress or silent
    settings = Settings(batch_size, seed=seed, allow_unverified=True)
    rows: list[PictureDrift] = []
    failures: list[tuple[str, str]] = []
    for start in range(0, len(images), batch_size):
        report("pictures", start, len(images))
        pairs, known = [], []
        for image in images[start : start + batch_size]:
            try:
                pair = Pair.prepare(a, b, image)
            except OnnxvisError as error:
                failures.append((_name(image), str(error)))
                continue
            old = (finished or {}).get(pair.sha256)
            (known.append(old) if old is not None else pairs.append(pair))
        rows += known
        for pair, result in explain_pairs(a, b, pairs, requests, settings):
            if isinstance(result, str):
                failures.append((pair.name, result))
                continue
            rows.append(_drift(a, b, pair, *result))
            if on_picture is not None:
                on_picture(rows[-1])
    report("pictures", len(images), len(images))
    names = tuple(r.method.name for r, _ in requests)
    return Comparison(_about(a), _about(b), names, worst_first(rows), tuple(failures), (*notes, *left_out))


def worst_first(rows: Sequence[PictureDrift]) -> tuple[PictureDrift, ...]:
    """Flips first, then the lowest map correlation, then the largest relative logit difference."""

    def key(row: PictureDrift) -> tuple[bool, float, float]:
        rank = row.lowest_rank
        return (not row.flipped, 1.0 if rank is None else rank, -row.logit_relative)

    return tuple(sorted(rows, key=key))


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


def _about(model: Model) -> dict[str, Any]:
    spec = model.preprocessing
    return {
        **model.describe(),
        "precision": model.engine.precision,
        "preprocessing": spec.to_dict() if spec else None,
        "preprocessing_summary": spec.summary() if spec else "none: arrays used as they are",
        "preprocessing_source": spec.source if spec else "",
        "layer": model.head.cam_layer,
    }


def _name(image: object) -> str:
    return location_name(str(image)) if isinstance(image, str | Path) else type(image).__name__
