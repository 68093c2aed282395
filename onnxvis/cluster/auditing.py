"""`onnxvis audit` on a cluster: groups of pictures go out to the actors, answers and maps come back and are kept."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from onnxvis.audit.report_state import FinishedPicture, LostPicture
from onnxvis.audit.report_steps import First
from onnxvis.audit.report_unit import Asked, Group, answer_group, explain_group, settle
from onnxvis.audit.selection import Item
from onnxvis.cluster.place import standing_in
from onnxvis.cluster.pool import ClusterOptions, Pace, RayPool
from onnxvis.progress import StageClock, silent

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["RayAuditing", "answer_work", "picture_work"]


@dataclass(frozen=True, eq=False)
class _Common:
    """What every actor must know of the maps.

    Attributes:
        run: names this run.
        asked: of every picture.
        first: the first of the chosen pictures, and the answer on it.
        here: the folder that relative paths start from.
    """

    run: str
    asked: Asked
    first: First
    here: Path


_settled: WeakKeyDictionary[Model, str] = WeakKeyDictionary()


def answer_work(
    model: Model, item: tuple[tuple[int, Path], Sequence[Item]]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The answers on one group, in an actor."""
    (batch_size, here), group = item
    clock = StageClock()
    with standing_in(here):
        settle(model)
        records = answer_group(model, group, batch_size)
    clock.stop("answering")
    return records, clock.stages


def picture_work(
    model: Model, item: tuple[_Common, Group]
) -> tuple[list[FinishedPicture | LostPicture], dict[str, float]]:
    """The maps of one group, in an actor."""
    common, group = item
    stages: dict[str, float] = {}
    with standing_in(common.here):
        if _settled.get(model) != common.run:
            settle(model, common.asked, common.first)
            _settled[model] = common.run
        return list(explain_group(model, common.asked, group, stages)), stages


class RayAuditing:
    """Answers and explains the pictures of an audit in the actors of a pool, which is opened when first needed.

    Args:
        options: where and with what.

    Attributes:
        pace: what was done, once something was.
        pictures_done: how many pictures that stands for: those that got maps, or where none did, answers.
    """

    def __init__(self, options: ClusterOptions | None = None) -> None:
        self._options = options or ClusterOptions()
        self._pool: RayPool | None = None
        self._answered = self._explained = 0
        self.pace = Pace()

    @property
    def pictures_done(self) -> int:
        """See the class."""
        return self._explained or self._answered

    def answers(
        self, model: Model, groups: Sequence[Sequence[Item]], batch_size: int
    ) -> Generator[list[dict[str, Any]], None, None]:
        """The answers on every group, each exactly once, in any order.

        Raises:
            OnnxvisError: see :meth:`onnxvis.cluster.RayPool.run`.
        """
        for records in self._opened(model).run(answer_work, map(tuple, groups), (batch_size, Path.cwd())):
            self._answered += len(records)
            yield records

    def pictures(
        self, model: Model, asked: Asked, first: First, groups: Sequence[Group]
    ) -> Generator[list[FinishedPicture | LostPicture], None, None]:
        """What came of the missing pictures of every group, each exactly once, in any order.

        Raises:
            OnnxvisError: see :meth:`onnxvis.cluster.RayPool.run`.
        """
        settings = dataclasses.replace(asked.settings, progress=silent)
        sent = dataclasses.replace(asked, settings=settings, facts=model.describe())
        common = _Common(uuid.uuid4().hex, sent, first, Path.cwd())
        for pictures in self._opened(model).run(picture_work, groups, common):
            self._explained += len(pictures)
            yield pictures

    def close(self) -> None:
        """End the actors; may be called twice, and more work opens the pool again."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _opened(self, model: Model) -> RayPool:
        if self._pool is None:
            self._pool = RayPool(model, self._options)
            self.pace = self._pool.pace
        return self._pool
