"""Training with the SCOUTER loss: mini-batches, early stopping, and checkpoints that a kill does not harm.

    loss = cross-entropy(softmax(xSlot_e), label) + lambda * area ** p       (Li et al., ICCV 2021, section 3.2)

While lambda is still growing, epochs are compared by the loss with all of it.

A checkpoint holds everything the rest of the run depends on: weights, optimizer, the generator that orders the
pictures as it was at the start of the epoch, how many batches of it are done, and the best weights so far. On a CPU
a run that goes on from one ends in the same bits as a run that was never interrupted.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxvis.behaviour.scouter.checkpoint import load_state, save_state
from onnxvis.behaviour.scouter.settings import TrainingSettings
from onnxvis.errors import ModelError
from onnxvis.progress import Progress, silent

__all__ = ["Epoch", "Examples", "Trained", "resolve_device", "train"]


@dataclass(frozen=True, eq=False)
class Examples:
    """What is learned from: rows of features and their labels.

    Attributes:
        fetch: rows to a float32 tensor on the CPU, as the module takes it.
        labels: ``(N,) int64`` of all rows.
        fitted: rows that are learned from.
        held_back: rows that tell when to stop; may be empty.
    """

    fetch: Callable[[np.ndarray], Tensor]
    labels: np.ndarray
    fitted: np.ndarray
    held_back: np.ndarray


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch: loss, accuracy and area of the fitted part, then of the held-back part (or NaN)."""

    loss: float
    accuracy: float
    area: float
    held_back_loss: float
    held_back_accuracy: float
    held_back_area: float


@dataclass(frozen=True, eq=False)
class Trained:
    """How a training went. The module holds the best weights.

    Attributes:
        history: one entry for each epoch.
        best: number of the epoch (from 0) whose weights were kept.
        stopped_early: whether patience ran out before the epochs did.
        resumed: epochs found in a checkpoint.
        notes: what is to be said, one sentence each.
    """

    history: tuple[Epoch, ...]
    best: int
    stopped_early: bool
    resumed: int
    notes: tuple[str, ...]


@dataclass
class _State:
    """Where a run stands."""

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    history: list[Epoch] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = -1
    best_module: dict[str, Tensor] = field(default_factory=dict)
    finished: bool = False


def resolve_device(wanted: str) -> torch.device:
    """The device asked for; "auto" is CUDA where torch can use it, else the CPU.

    Raises:
        ModelError: CUDA was asked for and torch cannot use it.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("torch finds no CUDA device here. Use --device cpu, or a torch build for your GPU.")
    return torch.device(wanted)


def train(
    module: nn.Module,
    examples: Examples,
    settings: TrainingSettings,
    checkpoint: Path | None = None,
    key: str = "",
    progress: Progress = silent,
) -> Trained:
    """Train a module in place, on from a checkpoint where there is one of this key.

    Args:
        module: from what ``examples.fetch`` gives to (logits, attention, area); an attribute ``groups(rate,
            backbone_rate)``, where it has one, gives the optimizer its parameter groups.
        examples: the data.
        settings: how.
        checkpoint: file to keep the state in; ``None`` keeps none.
        key: what the run depends on; a checkpoint of another key is not used, and said so.
        progress: where it reports.

    Raises:
        ModelError: the loss is not finite, or there is no such device.
        OutputError: the checkpoint cannot be written.
    """
    return _Run(module, examples, settings, checkpoint, key, progress).whole()


class _Run:
    def __init__(
        self,
        module: nn.Module,
        examples: Examples,
        settings: TrainingSettings,
        checkpoint: Path | None,
        key: str,
        progress: Progress,
    ) -> None:
        self.examples, self.settings, self.progress = examples, settings, progress
        self.checkpoint, self.key = checkpoint, key
        self.device = resolve_device(settings.device)
        self.module = module.to(self.device)
        rate = settings.learning_rate
        groups: Any = getattr(module, "groups", None)
        parameters = groups(rate, rate * settings.backbone_rate) if groups else [{"params": list(module.parameters())}]
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=settings.weight_decay)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.order = torch.Generator().manual_seed(settings.seed)
        self.at_epoch_start = self.order.get_state()
        self.state, self.notes = _State(), list[str]()
        self.saved = time.monotonic()
        self.resumed = self._load()

    @property
    def batches(self) -> int:
        return max(1, math.ceil(len(self.examples.fitted) / self.settings.batch_size))

    def whole(self) -> Trained:
        state, settings = self.state, self.settings
        try:
            while not state.finished:
                self._epoch()
                waited = state.epoch - 1 - state.best_epoch
                state.finished = state.epoch >= settings.epochs or waited >= settings.patience
                self._save()
        except KeyboardInterrupt:
            self._save()
            raise
        self.module.load_state_dict(state.best_module)
        self.module.eval()
        early = state.epoch < settings.epochs
        return Trained(tuple(state.history), state.best_epoch, early, self.resumed, tuple(self.notes))

    def _epoch(self) -> None:
        state, total = self.state, self.settings.epochs * self.batches
        self.order.set_state(self.at_epoch_start)
        rows = self.examples.fitted[torch.randperm(len(self.examples.fitted), generator=self.order).numpy()]
        size = self.settings.batch_size
        for step in range(state.step, self.batches):
            self.progress("training", state.epoch * self.batches + step, total)
            for i, value in enumerate(self._step(rows[step * size : (step + 1) * size])):
                state.sums[i] += value
            state.step = step + 1
            if time.monotonic() - self.saved > self.settings.save_seconds:
                self._save()
        self._close_epoch()
        self.progress("training", state.epoch * self.batches, total)

    def _close_epoch(self) -> None:
        state = self.state
        loss_sum, hits, area_sum, count = state.sums
        fitted = (loss_sum / count, hits / count, area_sum / count)
        held = self._held_back()
        state.history.append(Epoch(*fitted, *held))
        loss = held[0] if not math.isnan(held[0]) else fitted[0]
        if loss < state.best_loss:
            state.best_loss, state.best_epoch = loss, state.epoch
            state.best_module = {n: t.detach().cpu().clone() for n, t in self.module.state_dict().items()}
        state.epoch, state.step, state.sums = state.epoch + 1, 0, [0.0] * 4
        self.at_epoch_start = self.order.get_state()

    def _step(self, rows: np.ndarray) -> tuple[float, float, float, float]:
        self.module.train()
        done = self.state.epoch * self.batches + self.state.step
        part = 0.5 * (1 + math.cos(math.pi * done / (self.settings.epochs * self.batches)))
        low = self.settings.final_rate
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (low + (1 - low) * part)
        ramp = self.settings.ramp * self.settings.epochs * self.batches
        weight = self.settings.area_weight * min(1.0, (done + 1) / max(1.0, ramp))
        loss, hits, area = self._loss(rows, weight)
        if not math.isfinite(value := float(loss.detach())):
            raise ModelError(
                f"the training loss is not finite in epoch {self.state.epoch + 1}. Lower the learning rate "
                "(--learning-rate) or the clipping (--clip)."
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        self.optimizer.step()
        return value * len(rows), hits, area * len(rows), float(len(rows))

    def _loss(self, rows: np.ndarray, weight: float) -> tuple[Tensor, float, float]:
        x = self.examples.fetch(rows).to(self.device)
        labels = torch.from_numpy(self.examples.labels[rows]).to(self.device)
        logits, _, area = self.module(x)
        loss = functional.cross_entropy(logits, labels)
        loss = loss + weight * area**self.settings.area_power
        return loss, float((logits.argmax(1) == labels).sum()), float(area.detach())

    def _held_back(self) -> tuple[float, float, float]:
        rows, size = self.examples.held_back, self.settings.batch_size
        if not len(rows):
            return math.nan, math.nan, math.nan
        self.module.eval()
        sums = np.zeros(3)
        with torch.no_grad():
            for start in range(0, len(rows), size):
                chunk = rows[start : start + size]
                loss, hits, area = self._loss(chunk, self.settings.area_weight)
                sums += (float(loss) * len(chunk), hits, area * len(chunk))
        loss_mean, accuracy, area_mean = (sums / len(rows)).tolist()
        return loss_mean, accuracy, area_mean

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.checkpoint is None:
            return
        plain = asdict(self.state) | {"best_module": self.state.best_module}
        save_state(
            self.checkpoint,
            {
                "key": self.key,
                "run": plain,
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "order": self.at_epoch_start,
                "chance": torch.get_rng_state(),
            },
        )

    def _load(self) -> int:
        if self.checkpoint is None:
            return 0
        found, problem = load_state(self.checkpoint, self.key)
        if problem:
            self.notes.append(problem)
        if found is None:
            return 0
        self.module.load_state_dict(found["module"])
        self.optimizer.load_state_dict(copy.deepcopy(found["optimizer"]))
        self.at_epoch_start = found["order"]
        torch.set_rng_state(found["chance"])
        run = found["run"]
        self.state = _State(**{**run, "history": [Epoch(**entry) for entry in run["history"]]})
        return self.state.epoch
