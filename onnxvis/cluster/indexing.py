"""`onnxvis index` on a cluster: shards go out to the actors, rows and counts come back and are committed here.

Counts are reduced in two steps: an actor may bring the shards of one piece of work together, and this process brings
together what the actors send. What the actors bring together grows while this process is behind.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from onnxvis.behaviour.index.run import LARGEST_SHARD, prepare_model
from onnxvis.behaviour.index.shard import IndexSpec, Partial, ReadPicture, Shard, index_shard
from onnxvis.cluster.pool import ClusterOptions, Pace, RayPool
from onnxvis.reading import prepare_ahead

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["RayIndexing", "most_together", "shard_work"]


_MOST_SHARDS: Final = 16
_MOST_PICTURES: Final = 4096
_BEHIND, _AHEAD = 1.0, 0.25  # finished pieces of work that wait, for each actor


def shard_work(model: Model, item: tuple[IndexSpec, Sequence[Shard]]) -> tuple[Partial, dict[str, float]]:
    """Some shards, in an actor. The stages are waiting for pictures to be read and prepared, and everything else."""
    spec, shards = item
    prepare_model(model)
    began = time.perf_counter()
    pictures = (picture for shard in shards for picture in shard.pictures)
    reads = _Timed(prepare_ahead(model, pictures, ahead=4 * spec.batch_size))
    try:
        parts = (index_shard(model, spec, shard, reads) for shard in shards)
        whole = next(parts)
        for part in parts:
            whole.merge(part)
    finally:
        reads.close()
    for tally in whole.tally.layers.values():
        tally.count()
    spent = time.perf_counter() - began
    return whole, {"reading": reads.seconds, "running and counting": spent - reads.seconds}


class _Timed:
    """Passes an iterator on and adds up how long it was waited for."""

    def __init__(self, source: Iterator[ReadPicture]) -> None:
        self._source = source
        self.seconds = 0.0

    def __iter__(self) -> Iterator[ReadPicture]:
        return self

    def __next__(self) -> ReadPicture:
        began = time.perf_counter()
        try:
            return next(self._source)
        finally:
            self.seconds += time.perf_counter() - began

    def close(self) -> None:
        """End the threads that read ahead."""
        close: Any = getattr(self._source, "close", None)
        if close is not None:
            close()


class RayIndexing:
    """Gives the partial results of shards, computed by the actors of a pool.

    Args:
        options: where and with what.

    Attributes:
        pace: what was done, once something was.
    """

    def __init__(self, options: ClusterOptions | None = None) -> None:
        self._options = options or ClusterOptions()
        self.pace = Pace()

    def partials(self, model: Model, spec: IndexSpec, shards: Sequence[Shard]) -> Generator[Partial, None, None]:
        """The partial results of all shards, each in exactly one, in any order; some come merged.

        Raises:
            OnnxvisError: see :meth:`onnxvis.cluster.RayPool.run`.
        """
        if not shards:
            return
        with RayPool(model, self._options) as pool:
            self.pace = pool.pace
            yield from pool.run(shard_work, self._groups(pool, spec, shards), spec)

    def _groups(self, pool: RayPool, spec: IndexSpec, shards: Sequence[Shard]) -> Iterator[tuple[Shard, ...]]:
        """Runs of shards, longer while results wait to be committed; the last ones short, so that all actors end."""
        most, fan_in, place = most_together(spec, len(shards[0].pictures)), 1, 0
        while place < len(shards):
            backlog = pool.backlog
            if backlog >= _BEHIND:
                fan_in = min(2 * fan_in, most)
            elif backlog < _AHEAD:
                fan_in = max(1, fan_in // 2)
            fair = -(-(len(shards) - place) // (2 * pool.pace.actors))
            size = self._options.fan_in or min(fan_in, fair)
            yield tuple(shards[place : place + size])
            place += size


def most_together(spec: IndexSpec, shard_size: int) -> int:
    """How many shards of so many pictures an actor may bring together: what comes of them must fit into memory."""
    values = sum(tap.units * tap.places for tap in spec.layers) * shard_size if spec.keep_maps else 0
    room = LARGEST_SHARD // (2 * values) if values else _MOST_SHARDS
    return max(1, min(_MOST_SHARDS, _MOST_PICTURES // shard_size, room))
