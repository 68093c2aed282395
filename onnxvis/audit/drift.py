"""Do two files answer and explain alike? fp32 against int8, one export, provider or preprocessing against another.

Every picture goes through both, each with its own preprocessing. Compared are the answers (logits, the five strongest
classes) and the maps of what the *first* model answers: the same question asked of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxvis.progress import Progress

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource

__all__ = ["Comparison", "MapDrift", "PictureDrift", "compare"]


@dataclass(frozen=True)
class MapDrift:
    """How far the two maps of one method differ on one picture.

    Attributes:
        method: its name.
        rank: Spearman's rank correlation of the two maps, -1 to 1; ``None`` where one is flat.
        ssim: structural similarity, at most 1.
        note: why there is no number.
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
    sha256: str
    top1: tuple[tuple[int, str], tuple[int, str]]
    probability: tuple[float | None, float | None]
    flipped: bool
    top5_overlap: float
    logit_max: float
    logit_mean: float
    logit_relative: float
    maps: tuple[MapDrift, ...]


@dataclass(frozen=True)
class Comparison:
    """Two models over some pictures.

    Attributes:
        a: the first model, as plain data.
        b: the second.
        methods: whose maps were compared.
        pictures: worst first.
        failures: pictures that could not be compared, and why.
        notes: what else must be said.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    methods: tuple[str, ...]
    pictures: tuple[PictureDrift, ...]
    failures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        from dataclasses import asdict

        return asdict(self)


def compare(
    a: Model,
    b: Model,
    images: Sequence[PictureSource],
    *,
    methods: Sequence[str] = ("grad-cam",),
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models over pictures.

    Args:
        a: the first model, whose answer is explained in both.
        b: the second.
        images: pictures.
        methods: whose maps are compared.
        batch_size: pictures at once.
        seed: for methods with chance.
        progress: called with (stage, done, total).

    Raises:
        UsageError: the models cannot be compared: another number of classes, other labels.
    """
    raise NotImplementedError
