"""How long work reports where it is: a plain callable, so that no library is forced on anyone."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

__all__ = ["CountsFailures", "Progress", "StageClock", "report_failed", "silent"]


class Progress(Protocol):
    """Called with what is being done, how many steps are done, and how many there are."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report."""
        ...


@runtime_checkable
class CountsFailures(Protocol):
    """A progress that also shows how many steps failed."""

    def failed(self, stage: str, count: int) -> None:
        """Of the steps of a stage, so many failed so far."""
        ...


def report_failed(progress: Progress, stage: str, count: int) -> None:
    """Tell a progress how many steps of a stage failed so far, if it can show that."""
    if isinstance(progress, CountsFailures):
        progress.failed(stage, count)


def silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""


class StageClock:
    """Adds up where the time goes.

    Args:
        stages: seconds by stage, added to; ``None`` for a new dictionary.

    Attributes:
        stages: the same.
    """

    def __init__(self, stages: dict[str, float] | None = None) -> None:
        self.stages = {} if stages is None else stages
        self._began = time.perf_counter()

    def start(self) -> None:
        """What went before belongs to no stage."""
        self._began = time.perf_counter()

    def stop(self, stage: str) -> None:
        """What went since the last call belongs to this stage; the next one begins."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._began
        self._began = now
