"""Timing in turn: every call of a task once a round, so that all of them meet the same disturbances."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peer_study.tasks import ONNXVIS, Task

__all__ = ["Timed", "time_task"]


@dataclass
class Timed:
    """What one task took, in ms per image and round.

    Attributes:
        times: by who did it.
        slower: settings of a peer that were tried once and left, as another setting was faster: their ms.
        differences: largest difference of a peer's maps from ours, relative to the largest value of ours.
        failures: who could not do it, and why.
    """

    kind: str
    network: str
    batch: int
    detail: str
    times: dict[str, list[float]] = field(default_factory=dict)
    slower: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, who: str) -> float:
        """Median of somebody's times."""
        return statistics.median(self.times[who])

    def sentence(self) -> str:
        """One line for the terminal."""
        parts = [f"{who} {self.median(who):.1f}" for who in self.times]
        parts += [f"{who} FAILED {why}" for who, why in self.failures.items()]
        return f"{self.network:20} {self.kind:16} {self.batch:2}  {', '.join(parts)}  ms per image"

    def best(self, peer: str) -> str:
        """The setting of a peer with the smallest median."""
        return min((who for who in self.times if who.split(",")[0] == peer), key=self.median)

    def ratio(self, who: str, unit: str = ONNXVIS) -> tuple[float, float, float]:
        """Somebody's time over another's in the same round: median, least, most."""
        found = [a / b for a, b in zip(self.times[who], self.times[unit], strict=True)]
        return statistics.median(found), min(found), max(found)


def time_task(task: Task, rounds: int, wall: bool) -> Timed:
    """One call each to warm up (and to compare the maps), then rounds in turn.

    Of several settings of one peer only the one with the fastest first call goes on.
    """
    clock = time.perf_counter if wall else time.process_time
    first: dict[str, float] = {}
    found = Timed(task.kind, task.network, task.batch, task.detail)
    maps: dict[str, Any] = {}
    for who, call in task.calls.items():
        try:
            began = clock()
            maps[who] = call()
            first[who] = (clock() - began) * 1e3 / task.batch
            found.times[who] = []
        except Exception as error:
            if who == ONNXVIS:
                raise
            found.failures[who] = f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
    ours = maps.get(ONNXVIS)
    for who, theirs in maps.items():
        if who != ONNXVIS and theirs is not None and ours is not None:
            found.differences[who] = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    for who in list(found.times):
        best = min((w for w in first if w.split(",")[0] == who.split(",")[0]), key=first.__getitem__)
        if who != best:
            del found.times[who]
            found.slower[who] = first[who]
    for _ in range(rounds):
        for who in found.times:
            began = clock()
            task.calls[who]()
            found.times[who].append((clock() - began) * 1e3 / task.batch)
    return found
