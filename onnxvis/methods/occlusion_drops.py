"""The drops of an occlusion map: which engine computes them, the forecast, the exactness check, the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxvis.errors import ModelError
from onnxvis.kernels.occlusion import Window
from onnxvis.methods.base import Task
from onnxvis.methods.checkpoint import Checkpoint
from onnxvis.methods.occlusion_engine import (
    TOLERANCE,
    Batch,
    Fast,
    fast_engine,
    learned,
    planning_seconds,
    relative_error,
    spend,
)
from onnxvis.methods.occlusion_plain import Clock, Plain
from onnxvis.methods.precision import PrecisionCheck
from onnxvis.runtime.bfloat16 import Bfloat16

__all__ = ["Drops", "Findings", "Settings"]

_SAMPLE = 8
_SAMPLE_PART = 50
_FEW = 32
_SHORT = 0.2
_HOPE = 0.4
"""Share of the time that crops are expected to save before anything is known about the network."""
_LOOSE = 5e-2
"""As ``TOLERANCE``, in bfloat16: crops and whole pictures are rounded apart."""
_FASTER = 0.95
_PATIENCE = 0.25
_TIRED = 2
"""Maps of one kind on which crops may be slower than whole pictures before they are no longer tried."""

Values = Callable[[np.ndarray], np.ndarray]


@dataclass
class Findings:
    """What is worth telling about a run.

    Attributes:
        engine: "incremental", "plain", or both where the run changed over.
        reason: why.
        operations: share of the operations of plain recomputation that ran.
        forecast: seconds that the run was expected to take, from its first positions.
        checked: positions recomputed in full, and the largest error found, relative to the largest logit.
        precise: what the drops in bfloat16 were held against, where that was asked for.
        notes: what else happened.
    """

    engine: str = "plain"
    reason: str = ""
    operations: float = 1.0
    forecast: float | None = None
    checked: tuple[int, float] | None = None
    precise: PrecisionCheck | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """Options of the run: see :class:`onnxvis.methods.occlusion.OcclusionOptions`.

    Attributes:
        engine: "auto", "plain" or "incremental".
        exact_check: "sample", "all" or "none".
        seed: draws the sample.
        lowered: computes in bfloat16, where that was asked for.
        exactly: the drops of float32 logits, which those in bfloat16 are held against.
    """

    engine: str
    exact_check: str
    seed: int
    lowered: Bfloat16 | None = None
    exactly: Values | None = None


class Drops:
    """Fills a checkpoint's table with the drop of each score at each position of one picture.

    Args:
        task: the task.
        row: which picture.
        image: it, ``(C, H, W)``.
        cover: from a window to what stands in it, ``(C, h, w)`` or broadcastable.
        places: the windows.
        values: from logits ``(n, ...)`` to drops ``(n, T)``.
        settings: how.
        table: receives the drops.
        earlier: the run of the picture before, whose choice of engine and whose forecast stand.
    """

    def __init__(
        self,
        task: Task,
        row: int,
        image: np.ndarray,
        cover: Callable[[Window], np.ndarray],
        places: Sequence[Window],
        values: Values,
        settings: Settings,
        table: Checkpoint,
        earlier: Drops | None = None,
    ) -> None:
        self._task, self._row, self._places = task, row, places
        self._cover, self._values, self._settings, self._table = cover, values, settings, table
        self._plain = Plain(task, image, cover, places, settings.lowered, fixed=settings.engine == "plain")
        self._precise = Plain(task, image, cover, places) if settings.lowered is not None else None
        self._tolerance = TOLERANCE if settings.lowered is None else _LOOSE
        self._earlier = earlier
        self._stage: str = earlier._stage if earlier else "occlusion"
        self._seconds: Clock | None = earlier._seconds if earlier else None
        self._batched: bool = earlier._batched if earlier else False
        self._learned = learned(task, places, settings.lowered is not None)
        self._exact: dict[int, np.ndarray] = {}
        self._twice = 0
        self._mine = np.zeros(0, np.int64)
        self.findings = Findings()

    def run(self) -> Findings:
        """Compute what is not finished yet. What is finished is saved even when this is interrupted."""
        found = self.findings
        try:
            fast = self._choose()
            if fast is not None:
                self._try_fast(fast)
            known = [p for p in self._exact if not self._table.done[p]]
            left = np.setdiff1d(np.flatnonzero(~self._table.done), known)
            self._forecast_plain(len(left))
            if known:
                self._finish(np.array(known), np.stack([self._exact[p] for p in known]))
            began = Clock.now()
            for positions, logits in self._plain(left):
                self._finish(positions, logits)
            spend(self._task, self._places, (Clock.now() - began).wall)
            self._check_precision()
        except BaseException:
            self._table.save()
            raise
        if self._plain.note and found.engine != "incremental":
            found.notes.append(self._plain.note)
        return found

    def _check_precision(self) -> None:
        """Hold drops in bfloat16 against the same positions in float32."""
        exactly, check = self._settings.exactly, self._settings.exact_check
        if self._precise is None or exactly is None or check == "none":
            return
        every = np.arange(len(self._places))
        chosen = every if check == "all" else self._sample(every, min(len(every), _SAMPLE))
        exact = np.concatenate([exactly(logits) for _, logits in self._precise(chosen)])
        self.findings.precise = PrecisionCheck.of(exact, self._table.values[chosen])

    # --- which engine ----------------------------------------------------------------------------

    def _choose(self) -> Fast | None:
        """The incremental engine, where it may pay; its first batches are still to show that it does."""
        left = np.flatnonzero(~self._table.done)
        self.findings.reason = self._refusal(left)
        if self.findings.reason:
            return None
        seconds = None if self._seconds is None else self._seconds.wall
        fast = fast_engine(self._task, self._places, self._cover, seconds, self._settings.lowered)
        if isinstance(fast, str):
            self.findings.reason = fast
            return None
        error = fast.start(self._row)
        if not error <= self._tolerance:
            self.findings.reason = f"the parts of the graph together give other logits (relative error {error:.1e})"
            return None
        if self._settings.engine == "auto":
            self._time_batches(fast)
        return fast

    def _refusal(self, left: np.ndarray) -> str:
        """Why nothing but whole pictures is tried; "" where the incremental way may pay."""
        wanted, earlier = self._settings.engine, self._earlier
        if wanted == "plain":
            return "asked for"
        if not len(left):
            return "everything was finished before"
        sampled = self._settings.exact_check == "sample" or wanted == "auto"
        if wanted == "auto":
            if earlier is not None and earlier.findings.engine != "incremental":
                return earlier.findings.reason
            if len(left) < _FEW:
                return f"{len(left)} positions are too few to plan for"
            if self._learned.slower >= _TIRED:
                return "crops were slower than whole pictures on earlier maps of this kind"
            if self._task.model.provider.short != "cpu":
                return f"on {self._task.model.provider.name} small convolutions do not pay"
        if sampled:
            sample = self._sample(left)
            seconds = self._recompute(sample)
            self._seconds, self._twice = self._seconds or seconds, len(sample)
        if wanted == "auto" and self._seconds:
            whole, price = self._seconds.wall * len(left), planning_seconds(self._task, self._places)
            if whole < _SHORT:
                return f"the whole map is a matter of less than {_SHORT} s"
            if _HOPE * (whole + spend(self._task, self._places)) < price:
                return f"the whole map takes {whole:.2f} s, too little to plan for"
        return ""

    def _sample(self, left: np.ndarray, count: int = 0) -> np.ndarray:
        count = count or min(len(left), _SAMPLE, max(2, len(left) // _SAMPLE_PART))
        return np.sort(np.random.default_rng(self._settings.seed).choice(left, count, replace=False))

    def _recompute(self, sample: np.ndarray) -> Clock:
        """Keep the exact logits of some positions; returns the time of one, the first ones being for warming up."""
        half = max(1, len(sample) // 2)
        self._exact = self._logits(sample[:half])
        began = Clock.now()
        self._exact |= self._logits(sample[half:])
        return (Clock.now() - began) / max(1, len(sample) - half)

    def _time_batches(self, fast: Fast) -> None:
        """From the time of a picture by itself to that of one in a batch.

        Their ratio is measured once for each kind of map, on two batches, whose results are kept: small pictures
        run up to a half faster in batches, as all of one share the reading of the weights.
        """
        kind = self._learned
        if self._batched or self._seconds is None:
            return
        if kind.batch_gain is None:
            size = self._task.batch_size
            order = np.concatenate([b.positions for b in fast.batches(~self._table.done)])
            order = order[~np.isin(order, list(self._exact))][: 2 * size]
            times = []
            for start in range(0, max(len(order) - size, 0) + 1, size):
                began, chosen = Clock.now(), order[start : start + size]
                self._exact |= self._logits(chosen)
                times.append((Clock.now() - began) / len(chosen))
            wall, cpu = min(t.wall for t in times), min(t.cpu for t in times)
            kind.batch_gain = Clock(min(1.0, wall / self._seconds.wall), min(1.0, cpu / max(self._seconds.cpu, 1e-9)))
        self._seconds, self._batched = self._seconds.scaled(kind.batch_gain), True

    def _logits(self, positions: np.ndarray) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for some, logits in self._plain(positions):
            found |= {int(p): one.copy() for p, one in zip(some, logits, strict=True)}
        return found

    # --- incremental -----------------------------------------------------------------------------

    def _try_fast(self, fast: Fast) -> None:
        try:
            self._run_fast(fast)
        except ModelError as error:  # what is missing runs whole, where a fault of the model itself shows again
            self._to_plain(f"a part of the graph failed on a crop: {error}")

    def _run_fast(self, fast: Fast) -> None:
        found = self.findings
        batches = fast.batches(~self._table.done)
        probes = [b for b in batches if any(int(p) in self._exact for p in b.positions)] or batches[:2]
        rest = [b for b in batches if not any(b is p for p in probes)]
        found.engine, found.operations = "incremental", fast.operations
        parts = "1 part" if fast.runner.segments == 1 else f"{fast.runner.segments} parts"
        found.reason = f"crops through {parts} of the graph, {fast.operations:.0%} of the operations"
        timed = [_timed(fast, batch) for batch in probes]
        spent = Clock(sum(t.wall for t, _ in timed), sum(t.cpu for t, _ in timed))
        each = spent / sum(len(b.positions) for b in probes)
        kept = [(batch.positions, logits) for batch, (_, logits) in zip(probes, timed, strict=True)]
        check = self._settings.exact_check
        if check != "none" and not all(self._agrees(*one, every=check == "all") for one in kept):
            return
        for positions, logits in kept:
            self._finish(positions, logits)
        plain = self._seconds if self._settings.engine == "auto" else None
        # What crops take besides: the pass over the uncovered picture, and the sample that is computed twice.
        besides = (1 + self._twice) / len(self._places)
        if plain is not None and each.slower_than(plain, _FASTER - besides):
            self._learned.slower += 1
            self._to_plain(f"crops took {each.wall * 1e3:.1f} ms each, whole pictures {plain.wall * 1e3:.1f} ms")
            return
        self._forecast(fast, each.wall)
        self._run_rest(fast, rest, plain)

    def _run_rest(self, fast: Fast, batches: Sequence[Batch], plain: Clock | None) -> None:
        total = sum(len(b.positions) for b in batches)
        spent, count = Clock(0.0, 0.0), 0
        for batch in batches:
            taken, logits = _timed(fast, batch)
            spent, count = spent + taken, count + len(batch.positions)
            if self._settings.exact_check == "all" and not self._agrees(batch.positions, logits, every=True):
                return
            self._finish(batch.positions, logits)
            if plain is not None and count >= _PATIENCE * total and (spent / count).slower_than(plain, 1.0):
                self._to_plain(f"crops turned out slower ({spent.wall / count * 1e3:.1f} ms each) than whole pictures")
                return

    def _agrees(self, positions: np.ndarray, logits: np.ndarray, every: bool) -> bool:
        """Hold a batch against exact logits; on a difference all that came from crops is thrown away."""
        exact = self._logits(positions) if every else self._exact
        pairs = [(one, exact[int(p)]) for p, one in zip(positions, logits, strict=True) if int(p) in exact]
        errors = [relative_error(one, whole) for one, whole in pairs]
        count, before = self.findings.checked or (0, 0.0)
        worst = max([before, *errors])
        self.findings.checked = (count + len(errors), worst)
        if worst <= self._tolerance:
            return True
        self._table.forget(self._mine)
        self._mine = np.zeros(0, np.int64)
        self._to_plain(f"positions recomputed in full differed by {worst:.1e} of the largest logit")
        return False

    def _to_plain(self, reason: str) -> None:
        found = self.findings
        found.engine = "incremental, then plain" if len(self._mine) else "plain"
        found.operations = 1.0
        found.reason = reason
        found.notes.append(f"fell back to whole pictures: {reason}")

    # --- progress --------------------------------------------------------------------------------

    def _forecast(self, fast: Fast, each: float) -> None:
        self.findings.forecast = each * len(self._places)
        saved = f"{1 - fast.operations:.0%} of the operations saved"
        self._announce(f"{saved}, about {each * len(self._places) * self._pictures:.0f} s")

    def _forecast_plain(self, left: int) -> None:
        if self.findings.engine == "plain" and self._seconds is not None:
            self.findings.forecast = self._seconds.wall * left
            self._announce(f"about {self._seconds.wall * left * self._pictures:.0f} s")

    @property
    def _pictures(self) -> int:
        return len(self._task.x)

    def _announce(self, forecast: str) -> None:
        if self._earlier is None:
            self._stage = f"occlusion: {len(self._places) * self._pictures} positions, {forecast}"
            self._report()

    def _finish(self, positions: np.ndarray, logits: np.ndarray) -> None:
        self._table.add(positions, self._values(logits))
        self._mine = np.concatenate([self._mine, positions])
        self._report()

    def _report(self) -> None:
        total = len(self._places)
        done = self._row * total + int(self._table.done.sum())
        self._task.progress(self._stage, done, total * self._pictures)


def _timed(fast: Fast, batch: Batch) -> tuple[Clock, np.ndarray]:
    began = Clock.now()
    logits = fast(batch)
    return Clock.now() - began, logits
