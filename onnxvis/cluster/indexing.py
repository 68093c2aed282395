"""`onnxvis index` on a cluster: shards go out to the actors, rows and counts come back and are committed here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from onnxvis.behaviour.index.run import prepare_model
from onnxvis.behaviour.index.shard import IndexSpec, Partial, ReadPicture, Shard, index_shard
from onnxvis.cluster.pool import ClusterOptions, Pace, RayPool
from onnxvis.reading import prepare_ahead

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["RayIndexing", "shard_work"]


def shard_work(model: Model, item: tuple[IndexSpec, Shard]) -> tuple[Partial, dict[str, float]]:
    """One shard, in an actor. The stages are waiting for pictures to be read and prepared, and everything else."""
    spec, shard = item
    prepare_model(model)
    began = time.perf_counter()
    reads = _Timed(prepare_ahead(model, shard.pictures, ahead=4 * spec.batch_size))
    partial = index_shard(model, spec, shard, reads)
    for tally in partial.tally.layers.values():
        tally.count()
    whole = time.perf_counter() - began
    return partial, {"reading": reads.seconds, "running and counting": whole - reads.seconds}


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

    def partials(self, model: Model, spec: IndexSpec, shards: Sequence[Shard]) -> Iterator[Partial]:
        """The partial result of every shard, each exactly once, in any order.

        Raises:
            OnnxvisError: see :meth:`onnxvis.cluster.RayPool.run`.
        """
        if not shards:
            return
        with RayPool(model, self._options) as pool:
            self.pace = pool.pace
            yield from pool.run(shard_work, shards, spec)
