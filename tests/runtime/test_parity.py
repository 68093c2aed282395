"""A converted model that is not the deployed one is caught, whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.nets import SmallNet, noise

import onnxvis
from onnxvis.errors import ParityError
from onnxvis.runtime import torch_gradients
from onnxvis.runtime.gradients import Gradients
from onnxvis.runtime.parity import check_gradient, output_error

X = noise(1, 3, 32, 32)


def spoiled(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Gradients], Gradients]) -> onnxvis.Model:
    """A model whose torch backend passes its answers through ``spoil``."""
    original = torch_gradients.TorchGradients.vjp

    def vjp(self: Any, *args: Any, **kwargs: Any) -> Gradients:
        return spoil(original(self, *args, **kwargs))

    monkeypatch.setattr(torch_gradients.TorchGradients, "vjp", vjp)
    return onnxvis.load(SmallNet().model())


def with_gradient(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Gradients], Gradients]:
    def spoil(found: Gradients) -> Gradients:
        grads = [{name: change(g) for name, g in per.items()} for per in found.grads]
        return Gradients(found.output, found.values, grads, found.notes)

    return spoil


def half(g: np.ndarray) -> np.ndarray:
    return np.concatenate([g[:, : g.shape[1] // 2], np.zeros_like(g[:, g.shape[1] // 2 :])], axis=1)


def lower_half(g: np.ndarray) -> np.ndarray:
    kept = g.copy()
    kept[:, :, 16:] = 0
    return kept


def shifted(g: np.ndarray) -> np.ndarray:
    return np.roll(g, 1, axis=1)


BROKEN = {
    "half of the channels": half,
    "half of the rows": lower_half,
    "channels mixed up": shifted,
    "wrong sign": lambda g: -g,
    "20 percent too large": lambda g: 1.2 * g,
}


@pytest.mark.parametrize("method", ["grad-cam", "saliency"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch, what: str, method: str) -> None:
    model = spoiled(monkeypatch, with_gradient(BROKEN[what]))
    with pytest.raises(ParityError, match=r"not to be trusted.*occlusion"):
        onnxvis.explain(model, X, method, 1)
    onnxvis.explain(model, X, "occlusion", 1)


@pytest.mark.parametrize("method", ["grad-cam", "saliency"])
def test_a_wrong_weight_is_caught(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def spoil(found: Gradients) -> Gradients:
        wrong = found.output.copy()
        wrong[:, 3] += 0.02 * np.abs(wrong).max()
        return Gradients(wrong, found.values, found.grads, found.notes)

    with pytest.raises(ParityError, match="outputs"):
        onnxvis.explain(spoiled(monkeypatch, spoil), X, method, 1)


def test_a_weight_changed_in_the_canonical_graph_is_caught() -> None:
    net = SmallNet()
    model = onnxvis.load(net.model())
    weight = next(t for t in model.canonical.model.graph.initializer if t.name == "w1")
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[:27] *= 1.5
    weight.raw_data = values.tobytes()
    with pytest.raises(ParityError):
        onnxvis.explain(model, X, "saliency", 1)


def test_an_unverified_map_is_stamped(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    model = spoiled(monkeypatch, with_gradient(half))
    found = onnxvis.explain(model, X, "grad-cam", 1, allow_unverified=True)
    assert not found.parity.passed
    assert found.notes[0].startswith("UNVERIFIED")
    assert any("UNVERIFIED" in line for line in found.footer())
    manifest = json.loads((found.save(tmp_path) / "manifest.json").read_text())
    assert manifest["parity"]["passed"] is False
    assert manifest["notes"][0].startswith("UNVERIFIED")


def test_a_right_model_passes() -> None:
    model = onnxvis.load(SmallNet().model())
    for method in ("grad-cam", "saliency"):
        parity = onnxvis.explain(model, X, method, 1, allow_unverified=True).parity
        assert parity.passed
        assert parity.gradient.error < 0.03
        assert parity.output_error < 1e-6


def test_not_a_number_never_passes() -> None:
    good = np.ones(4)
    assert output_error(good, good) == 0
    assert output_error(np.array([1, np.nan, 1, 1]), good) == np.inf
    assert output_error(good[:3], good) == np.inf
    check = check_gradient(lambda p: p.sum((1, 2)) * np.nan, np.ones((2, 2)), np.ones((2, 2)), 1.0, "x")
    assert not check.error <= 0.1
    assert check_gradient(lambda p: p.sum((1, 2)), np.ones((2, 2)), np.zeros((2, 2)), 1.0, "x") is None


def test_a_right_gradient_passes_where_the_score_bends_early() -> None:
    """As in nets whose answer hardly depends on the picture: a step of any usual size leaves the straight part."""
    rng = np.random.default_rng(1)
    point, way = rng.normal(size=(6, 7)), rng.normal(size=(6, 7))
    way /= np.linalg.norm(way)
    least = 3e-4

    def score(points: np.ndarray) -> np.ndarray:
        return np.asarray(1 + least * np.tanh(1e-3 * ((points - point) * way).sum((1, 2))))

    assert check_gradient(score, point, 1e-3 * least * way, 1.0, "x").error < 0.04
    assert check_gradient(score, point, 1.3e-3 * least * way, 1.0, "x").error > 0.2


def test_the_check_measures_the_error() -> None:
    rng = np.random.default_rng(0)
    weights, point = rng.normal(size=(6, 7)), rng.normal(size=(6, 7))

    def score(points: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(points * weights).sum((1, 2)))

    exact = weights / np.cosh(point * weights) ** 2
    assert check_gradient(score, point, exact, 1.0, "x").error < 1e-4
    for factor in (0.5, 0.9, 1.3):
        found = check_gradient(score, point, exact * factor, 1.0, "x").error
        assert found == pytest.approx(abs(1 - factor) / max(1, factor), rel=0.05)
