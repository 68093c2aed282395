"""Layers that end at an upper bound: which tensor tells their strongest places apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.formats import convnet, quantized
from support.graphs import Builder

import onnxvis
from onnxvis.behaviour.index.layers import embedding_tap, unit_taps
from onnxvis.behaviour.rectifiers import below_bound, bound_notes
from onnxvis.behaviour.unit_projection import UnitProjector
from onnxvis.errors import ParityError

BOUND = 1.5


def net(rectifier: str) -> tuple[onnx.ModelProto, str, str]:
    """A convolution, a rectifier, a pool and a linear layer; with the names of the first two tensors."""
    b = Builder(["n", 3, 16, 16], seed=3)
    conv = b.conv(b.name, 3, 5, 3, signed=True, pads=[1, 1, 1, 1])
    limits = [b.constant(np.float32(v)) for v in (0.0, BOUND)]
    active = b.node("Clip", conv, *limits) if rectifier == "Clip" else b.node(rectifier, conv)
    flat = b.node("Flatten", b.node("GlobalAveragePool", active))
    return b.model(b.node("Gemm", flat, b.weight(5, 3, signed=True))), conv, active


@pytest.mark.parametrize("rectifier", ["Clip", "Relu"])
def test_units_are_counted_below_an_upper_bound(rectifier: str) -> None:
    proto, conv, active = net(rectifier)
    model = onnxvis.load(proto, preprocessing="unit")
    (tap,) = unit_taps(model, ("auto",))
    assert tap.tensor == (conv if rectifier == "Clip" else active)
    assert ("upper bound 1.5" in tap.reason) == (rectifier == "Clip")
    assert bound_notes(model, conv) == []
    assert bool(bound_notes(model, active)) == (rectifier == "Clip")
    # A picture is still represented by what the linear layer reads.
    x = np.random.default_rng(0).normal(0, 3, (2, 3, 16, 16)).astype(np.float32)
    embedding = embedding_tap(model, None)
    found = model.engine.forward(x, (embedding.tensor, active))
    np.testing.assert_allclose(
        embedding.vectors(found[embedding.tensor]), found[active].mean((2, 3), dtype=np.float64), atol=1e-6
    )


def test_the_store_ranks_by_what_the_bound_would_hide(tmp_path: Path) -> None:
    pytest.importorskip("lance", reason="stores need the 'index' extra")
    from PIL import Image

    from onnxvis.behaviour.index.run import index

    proto, conv, active = net("Clip")
    model = onnxvis.load(proto, preprocessing="unit")
    rng = np.random.default_rng(1)
    for number in range(9):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    store = index(model, [str(tmp_path)], tmp_path / "store").store
    x = np.concatenate([model.prepare(tmp_path / f"{n}.png").tensor for n in range(9)])
    maps = model.engine.forward(x, (conv, active))
    assert (maps[active].max(axis=(2, 3)) == BOUND).all(axis=0).any()  # some unit reaches the bound in every picture
    top = store.top(conv)
    largest = maps[conv].max(axis=(2, 3))
    np.testing.assert_array_equal(top.picture[:, :9], np.argsort(-largest, axis=0, kind="stable").T)
    np.testing.assert_array_equal(top.values[:, :9], -np.sort(-largest, axis=0).T)


def test_only_a_rectifier_with_an_upper_bound_has_something_below() -> None:
    proto, conv, active = net("Clip")
    model = onnxvis.load(proto, preprocessing="unit")
    assert below_bound(model, active) == (conv, BOUND)
    assert below_bound(model, conv) is None


@pytest.mark.parametrize("form", ["none", "qdq"])
def test_single_places_of_an_8_bit_file_may_differ_by_a_few_steps(form: Any) -> None:
    proto = convnet() if form == "none" else quantized(convnet(), form)
    model = onnxvis.load(proto, preprocessing="unit")
    projector = UnitProjector(model, model.head.cam_layer or "", "guided-backprop")
    patch: Any = type("Patch", (), {"row": 0, "col": 0, "name": "p", "value": 1.0})()
    projector._compare(0, patch, 1.0 + (0.0005 if form == "none" else 0.2), 1.0)
    with pytest.raises(ParityError, match="is it the model"):
        projector._compare(0, patch, 1.0 + (0.002 if form == "none" else 0.4), 1.0)
