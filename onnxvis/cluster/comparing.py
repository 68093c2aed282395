"""`onnxvis compare` on a cluster: actors hold both models; pictures go out, how far the answers differ comes back."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from onnxvis.audit.drift_chunk import FailedPair, KnownPair, PairWork, PictureDrift, compare_chunk, settle_pair
from onnxvis.cluster.place import standing_in
from onnxvis.cluster.pool import ClusterOptions, Pace, RayPool
from onnxvis.progress import silent

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource

__all__ = ["RayComparing", "pair_work"]

Results = list[PictureDrift | FailedPair | KnownPair]


@dataclass(frozen=True, eq=False)
class _Common:
    """What every actor must know.

    Attributes:
        run: names this run.
        work: what is asked of the pictures.
        leading: the first pictures of the listing.
        here: the folder that relative paths start from.
    """

    run: str
    work: PairWork
    leading: tuple[PictureSource, ...]
    here: Path


_settled: WeakKeyDictionary[Model, str] = WeakKeyDictionary()


def pair_work(
    models: tuple[Model, Model], item: tuple[_Common, tuple[int, tuple[PictureSource, ...]]]
) -> tuple[tuple[int, Results], dict[str, float]]:
    """One chunk, in an actor."""
    common, (start, images) = item
    stages: dict[str, float] = {}
    with standing_in(common.here):
        if _settled.get(models[0]) != common.run:
            settle_pair(*models, common.work, common.leading)
            _settled[models[0]] = common.run
        return (start, list(compare_chunk(*models, images, common.work, stages))), stages


class RayComparing:
    """Compares two models on the chunks of a run in the actors of a pool.

    Args:
        options: where and with what.

    Attributes:
        pace: what was done, once something was.
    """

    def __init__(self, options: ClusterOptions | None = None) -> None:
        self._options = options or ClusterOptions()
        self.pace = Pace()

    def chunks(
        self,
        a: Model,
        b: Model,
        work: PairWork,
        leading: Sequence[PictureSource],
        chunks: Sequence[tuple[int, Sequence[PictureSource]]],
    ) -> Generator[tuple[int, Results], None, None]:
        """What came of every chunk with its number, each exactly once, in any order.

        Raises:
            OnnxvisError: see :meth:`onnxvis.cluster.RayPool.run`.
        """
        if not chunks:
            return
        sent = dataclasses.replace(work, settings=dataclasses.replace(work.settings, progress=silent))
        common = _Common(uuid.uuid4().hex, sent, tuple(leading), Path.cwd())
        with RayPool((a, b), self._options) as pool:
            self.pace = pool.pace
            yield from pool.run(pair_work, ((start, tuple(chunk)) for start, chunk in chunks), common)
