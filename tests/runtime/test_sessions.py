"""One session for each set of tensors, and the same call twice gives the same bytes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from support.nets import SmallNet, as_batch, noise

import onnxvis
from onnxvis.errors import LayerError, UsageError
from onnxvis.runtime import session as session_module
from onnxvis.runtime.providers import choose_provider


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the sessions that are made, by the graph they are made of."""
    made: Counter[str] = Counter()
    original = session_module.open_session

    def count(model: Any, *args: Any, **kwargs: Any) -> Any:
        made[str(hash(model.SerializeToString(deterministic=True)))] += 1
        return original(model, *args, **kwargs)

    monkeypatch.setattr(session_module, "open_session", count)
    return made


@pytest.mark.parametrize("method", ["grad-cam", "saliency", "occlusion"])
def test_sessions_are_made_once(opened: Counter[str], method: str) -> None:
    model = onnxvis.load(SmallNet().model([1, 3, 32, 32]))
    images = as_batch(3, 3, 32, 32)
    onnxvis.explain(model, images, method, 1)
    onnxvis.explain(model, images[0], method, 1)
    first = opened.total()
    assert first <= 8
    for target in (0, 2):
        onnxvis.explain(model, images, method, target)
        onnxvis.explain(model, images[1], method, target)
        model.predict(images)
    assert opened.total() <= first + 1
    again = opened.total()
    model.predict(images)
    onnxvis.explain(model, images, method, "top2")
    assert opened.total() == again


def timeless(manifest: dict[str, Any]) -> dict[str, Any]:
    """All that a manifest says, apart from what a clock said."""
    parameters = {name: value for name, value in manifest["parameters"].items() if name != "forecast_seconds"}
    return {**manifest, "parameters": parameters, "seconds": 0}


# The engine of occlusion is chosen by a forecast of time, so it is fixed here.
@pytest.mark.parametrize(
    ("method", "options"), [("grad-cam", {}), ("saliency", {}), ("occlusion", {"engine": "plain"})]
)
def test_the_same_call_gives_the_same_bytes(method: str, options: dict[str, Any], tmp_path: Any) -> None:
    proto, images = SmallNet().model(), as_batch(3, 3, 32, 32)
    model = onnxvis.load(proto)
    first = onnxvis.explain(model, images, method, 2, **options)
    for again in (model, onnxvis.load(proto)):
        other = onnxvis.explain(again, images, method, 2, **options)
        for a, b in zip(first, other, strict=True):
            assert a.attribution.tobytes() == b.attribution.tobytes()
            assert a.overlay().tobytes() == b.overlay().tobytes()
            assert a._repr_png_() == b._repr_png_()
            assert timeless(a.manifest()) == timeless(b.manifest())
    one, two = (first[0].save(tmp_path / name) for name in "ab")
    for name in ("attribution.npy", "overlay.png", "figure.png", "manifest.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_one_pass_serves_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxvis.runtime.torch_gradients import TorchGradients

    model = onnxvis.load(SmallNet().model())
    calls = []
    original = TorchGradients.vjp

    def vjp(self: Any, feeds: Any, output: Any, cotangents: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(cotangents))
        return original(self, feeds, output, cotangents, *args, **kwargs)

    onnxvis.explain(model, noise(1, 3, 32, 32), "saliency", 0)
    monkeypatch.setattr(TorchGradients, "vjp", vjp)
    onnxvis.explain(model, np.concatenate([noise(1, 3, 32, 32)]), "saliency", (0, 1, "top3"))
    assert calls == [5]


def test_providers() -> None:
    assert choose_provider("cpu").name == "CPUExecutionProvider"
    assert choose_provider("CPUExecutionProvider").short == "cpu"
    with pytest.raises(UsageError, match="Did you mean 'cuda'"):
        choose_provider("cuda1")


def test_an_unknown_layer_is_named() -> None:
    model = onnxvis.load(SmallNet().model())
    with pytest.raises(LayerError, match="features"):
        onnxvis.explain(model, noise(1, 3, 32, 32), "grad-cam", 0, layer="feature")
    with pytest.raises(LayerError):
        onnxvis.explain(model, noise(1, 3, 32, 32), "grad-cam", 0, layer="logits")
    with pytest.raises(UsageError, match="does not work at a layer"):
        onnxvis.explain(model, noise(1, 3, 32, 32), "saliency", 0, layer="features")
