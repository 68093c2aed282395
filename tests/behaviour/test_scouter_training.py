"""Training: the loss, resuming after any interruption, stopping early, and what a large lambda does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onnxvis.behaviour.scouter.head import XSlotHead
from onnxvis.behaviour.scouter.settings import HeadForm, HeadSettings, TrainingSettings
from onnxvis.behaviour.scouter.training import Examples, Trained, train
from onnxvis.errors import ModelError

FORM = HeadForm(HeadSettings(dim=8), 4, 3, 3, 3)
SETTINGS = TrainingSettings(epochs=3, batch_size=16, patience=3, device="cpu", save_seconds=0.0, learning_rate=5e-3)


def problem(count: int = 96) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Feature maps in which channel k is bright at one place for class k."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 3, count)
    values = chance.random((count, 4, 3, 3)).astype(np.float32) * 0.3
    for i, label in enumerate(labels):
        values[i, label, chance.integers(3), chance.integers(3)] += 2
    return values, labels


class Fetch:
    """Rows as a tensor; fails at a chosen call."""

    def __init__(self, values: np.ndarray[Any, Any], fail_at: int = -1, error: type[BaseException] = OSError) -> None:
        self.values, self.calls, self.fail_at, self.error = values, 0, fail_at, error

    def __call__(self, rows: np.ndarray[Any, Any]) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise self.error("stopped here")
        return torch.from_numpy(self.values[rows])


def run(
    settings: TrainingSettings = SETTINGS,
    checkpoint: Path | None = None,
    fail_at: int = -1,
    error: type[BaseException] = OSError,
    key: str = "k",
) -> tuple[Trained, dict[str, Tensor]]:
    values, labels = problem()
    torch.manual_seed(settings.seed)
    head = XSlotHead(FORM)
    examples = Examples(Fetch(values, fail_at, error), labels, np.arange(80), np.arange(80, 96))
    trained = train(head, examples, settings, checkpoint, key)
    return trained, head.state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


LEARNING = dataclasses.replace(SETTINGS, epochs=25, patience=25, area_weight=0.1, learning_rate=2e-2, save_seconds=99.0)


def test_training_learns() -> None:
    trained, _ = run(LEARNING)
    assert trained.history[-1].held_back_accuracy > 0.9
    assert trained.history[-1].loss < trained.history[0].loss / 2


@pytest.mark.parametrize("fail_at", [2, 5, 7, 14])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, fail_at: int) -> None:
    whole, weights = run()
    path = tmp_path / "training.pt"
    with pytest.raises(OSError, match="stopped here"):  # nothing is saved on the way out: like a kill
        run(checkpoint=path, fail_at=fail_at)
    resumed, again = run(checkpoint=path)
    assert same(weights, again)
    assert resumed.history == whole.history
    assert resumed.resumed == (fail_at - 1) // 6  # five batches and one of the held-back part make an epoch


def test_an_interrupted_run_saves_first(tmp_path: Path) -> None:
    slow = dataclasses.replace(SETTINGS, save_seconds=1e6)
    path = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        run(slow, path, fail_at=4, error=KeyboardInterrupt)
    assert path.exists()
    assert same(run(slow)[1], run(slow, path)[1])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    first, weights = run(checkpoint=path)
    again, same_weights = run(checkpoint=path, fail_at=1)
    assert again.history == first.history
    assert same(weights, same_weights)


@pytest.mark.parametrize(("content", "key", "word"), [(b"", "k", "cannot be read"), (None, "other", "another run")])
def test_an_unusable_checkpoint_is_said_and_not_used(
    tmp_path: Path, content: bytes | None, key: str, word: str
) -> None:
    path = tmp_path / "training.pt"
    run(checkpoint=path)
    if content is not None:
        path.write_bytes(content)
    trained, weights = run(checkpoint=path, key=key)
    assert word in trained.notes[0]
    assert same(weights, run()[1])


def test_patience_ends_the_training_and_the_best_weights_stay() -> None:
    settings = dataclasses.replace(SETTINGS, epochs=30, patience=2, learning_rate=0.3, clip=100.0)
    trained, _ = run(settings)
    assert trained.stopped_early
    assert len(trained.history) == trained.best + 3
    losses = [epoch.held_back_loss for epoch in trained.history]
    assert trained.best == int(np.argmin(losses))


def test_the_loss_is_cross_entropy_plus_lambda_times_area() -> None:
    values, labels = problem(16)
    torch.manual_seed(0)
    head = XSlotHead(FORM)
    with torch.no_grad():
        logits, _, area = head(torch.from_numpy(values))
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(labels)) + 2.5 * area**2
    settings = dataclasses.replace(SETTINGS, area_weight=2.5, area_power=2.0, ramp=0.0, epochs=1, learning_rate=1e-12)
    trained = train(head, Examples(Fetch(values), labels, np.arange(16), np.arange(0)), settings)
    assert trained.history[0].loss == pytest.approx(float(expected), rel=1e-5)
    assert np.isnan(trained.history[0].held_back_loss)


def test_a_larger_lambda_gives_smaller_areas() -> None:
    areas = []
    for weight in (0.0, 1.0, 10.0):
        settings = dataclasses.replace(LEARNING, epochs=10, area_weight=weight)
        areas.append(run(settings)[0].history[-1].held_back_area)
    assert areas[0] > areas[1] > areas[2]


def test_lambda_grows_over_the_ramp() -> None:
    values, labels = problem(64)
    losses = []
    for ramp in (0.0, 1.0):
        torch.manual_seed(0)
        settings = dataclasses.replace(SETTINGS, area_weight=4.0, ramp=ramp, epochs=1, learning_rate=1e-12)
        trained = train(XSlotHead(FORM), Examples(Fetch(values), labels, np.arange(64), np.arange(0)), settings)
        losses.append(trained.history[0])
    means = np.mean([1.0 - k / 4 for k in (1, 2, 3, 4)])  # four batches of 16: lambda is 1/4, 1/2, 3/4, 1 of itself
    assert losses[0].loss - losses[1].loss == pytest.approx(4.0 * losses[0].area * means, rel=2e-2)


def test_a_diverging_run_is_an_error() -> None:
    values, labels = problem()
    values[3] = np.inf
    with pytest.raises(ModelError, match="not finite"):
        train(XSlotHead(FORM), Examples(Fetch(values), labels, np.arange(80), np.arange(80, 96)), SETTINGS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
def test_cuda_learns_too() -> None:
    trained, _ = run(dataclasses.replace(LEARNING, device="cuda"))
    assert trained.history[-1].held_back_accuracy > 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_an_error() -> None:
    with pytest.raises(ModelError, match="no CUDA device"):
        run(dataclasses.replace(SETTINGS, device="cuda"))
