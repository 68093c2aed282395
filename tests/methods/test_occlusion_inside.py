"""The two ways of making covered pictures give the same logits, bit for bit; and how large batches are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.nets import SmallNet, noise

import onnxvis
from onnxvis.kernels.occlusion import windows
from onnxvis.methods import occlusion_plain
from onnxvis.methods.base import NoOptions, Task
from onnxvis.methods.layout import channels_first
from onnxvis.methods.occlusion import _cover
from onnxvis.methods.occlusion_plain import Clock, Plain

FILLS = (0.25, "mean", "blur", "local-mean", noise(3, 20, 28, seed=5))


def networks() -> dict[str, onnxvis.Model]:
    net = SmallNet()
    before = [helper.make_node("Transpose", ["image"], ["x"], "t", perm=[0, 3, 1, 2])]
    return {
        "NCHW": onnxvis.load(net.model(["N", 3, "h", "w"]), size=(20, 28)),
        "NHWC": onnxvis.load(net.model(["N", "h", "w", 3], before=before), size=(20, 28)),
    }


MODELS = networks()


def task(model: onnxvis.Model, batch_size: int = 4) -> Task:
    x = noise(1, 3, 20, 28, seed=2)
    x = x if model.layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    return Task(model, x, (), (), {}, None, NoOptions(), batch_size)


def logits(plain: Plain, positions: np.ndarray) -> np.ndarray:
    parts = [(p, found.copy()) for p, found in plain(positions)]
    assert np.array_equal(np.concatenate([p for p, _ in parts]), positions)
    return np.concatenate([found for _, found in parts])


@pytest.mark.parametrize("layout", MODELS)
@pytest.mark.parametrize("fill", FILLS, ids=lambda f: f if isinstance(f, str) else type(f).__name__)
@pytest.mark.parametrize("geometry", [((8, 5), (6, 4)), ((20, 28), (5, 5)), ((1, 1), (1, 1))], ids=str)
def test_inside_the_graph_is_outside_of_it(layout: str, fill: Any, geometry: Any) -> None:
    work = task(MODELS[layout])
    image = channels_first(work.x[0], work.model.layout)
    cover = _cover(fill, image)
    places = windows((20, 28), *geometry)[:40]
    positions = np.arange(len(places))[::-1]
    outside = Plain(work, image, cover, places, inside=False)
    inside = Plain(work, image, cover, places, inside=True)
    assert outside.note == ""
    assert "inside the graph" in inside.note
    expected = logits(outside, positions)
    assert np.ptp(expected) > 0
    assert np.array_equal(logits(inside, positions), expected)


def test_what_cannot_be_made_inside_is_made_outside_and_said() -> None:
    old = SmallNet().model(["N", 3, "h", "w"])
    old.opset_import[0].version = 9
    work = task(onnxvis.load(old, size=(20, 28)))
    places, image = windows((20, 28), (8, 8), (8, 8)), work.x[0]
    plain = Plain(work, image, _cover(0.0, image), places, inside=True)
    assert "made outside of the graph: " in plain.note
    assert "opset 9" in plain.note
    expected = logits(Plain(work, image, _cover(0.0, image), places), np.arange(len(places)))
    assert np.array_equal(logits(plain, np.arange(len(places))), expected)


def test_small_batches_are_taken_where_they_are_faster_by_both_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    work = task(onnxvis.load(SmallNet().model(["N", 3, "h", "w"]), size=(20, 28)), batch_size=8)
    places, image = windows((20, 28), (4, 4), (1, 1)), work.x[0]
    positions = np.arange(len(places))
    sizes: list[int] = []
    honest = type(work.model.engine).forward

    def forward(self: Any, x: np.ndarray, tensors: Any, size: int) -> Any:
        sizes.append(len(x))
        return honest(self, x, tensors, size)

    monkeypatch.setattr(type(work.model.engine), "forward", forward)
    times = iter(range(1000))
    monkeypatch.setattr(Clock, "now", lambda: Clock(float(sum(sizes[-1:]) + next(times)), float(next(times))))
    expected = logits(Plain(work, image, _cover(0.0, image), places[:20]), positions[:20])
    assert set(sizes) == {8, 4}  # too few to try
    for wall, cpu, chosen in ((2.0, 2.0, 8), (2.0, 0.5, 8), (0.5, 0.5, 2)):
        occlusion_plain._sizes.clear()
        clock = Ticks(sizes, wall, cpu)
        monkeypatch.setattr(Clock, "now", clock.now)
        sizes.clear()
        found = logits(Plain(work, image, _cover(0.0, image), places), positions)
        np.testing.assert_allclose(found[:20], expected, atol=1e-6)
        assert sizes[-2] == chosen, (wall, cpu)


class Ticks:
    """A clock on which a picture in a small batch takes some times as long as one in a large batch."""

    def __init__(self, sizes: list[int], wall: float, cpu: float) -> None:
        self.sizes, self.wall, self.cpu = sizes, wall, cpu

    def now(self) -> Clock:
        small = sum(n for n in self.sizes if n <= 2)
        large = sum(n for n in self.sizes if n > 2)
        return Clock(large + self.wall * small, large + self.cpu * small)
