"""Insertion, deletion, average drop, sensitivity-n and infidelity on networks whose answers can be written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from support.graphs import Builder
from support.hand_models import SIDE, linear_model, small_net, with_map

import onnxvis
from onnxvis.audit.metrics import measure
from onnxvis.audit.metrics.perturbation import auc, pixel_order, step_counts
from onnxvis.audit.metrics.stability import disturbed
from onnxvis.errors import UsageError
from onnxvis.explaining import Settings, explain_prepared, request
from onnxvis.preprocessing import Prepared

PIXELS = SIDE * SIDE
REGION = np.zeros((SIDE, SIDE), bool)
REGION[2:5, 1:6] = True
PART = REGION.sum() / PIXELS


def region_mean() -> onnxvis.Model:
    """Logit 0 is the mean of the region: 1 on a picture of ones."""
    return linear_model((REGION / REGION.sum())[None])


def ones() -> np.ndarray:
    return np.ones((1, 1, SIDE, SIDE), np.float32)


def value(model: onnxvis.Model, explanation: Any, metric: str, **options: Any) -> float:
    found = measure(model, [explanation], [metric], **options)[0][metric]
    assert found.value is not None, found.note
    return found.value


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_areas_of_a_linear_network_are_those_of_the_drawn_triangles(batch_size: int) -> None:
    """The right order takes the score to 0 over the region's share r of the pixels: area r / 2; and so on."""
    model = region_mean()
    best, worst = with_map(model, ones(), REGION), with_map(model, ones(), ~REGION)
    options: dict[str, Any] = {"score": "logit", "steps": PIXELS, "batch_size": batch_size, "baseline": "zero"}
    assert value(model, best, "deletion", **options) == pytest.approx(PART / 2, abs=1e-6)
    assert value(model, worst, "deletion", **options) == pytest.approx(1 - PART / 2, abs=1e-6)
    assert value(model, best, "insertion", **options) == pytest.approx(1 - PART / 2, abs=1e-6)
    assert value(model, worst, "insertion", **options) == pytest.approx(PART / 2, abs=1e-6)


def test_a_probability_is_the_softmax_of_the_followed_logit() -> None:
    model = region_mean()
    found = measure(model, [with_map(model, ones(), REGION)], ["deletion"], steps=PIXELS)[0]["deletion"]
    assert found.curve is not None
    left = np.clip(1 - np.arange(PIXELS + 1) / REGION.sum(), 0, 1)
    np.testing.assert_allclose(found.curve[:, 1], 1 / (1 + np.exp(-left)), atol=1e-6)
    np.testing.assert_allclose(found.curve[:, 0], np.arange(PIXELS + 1) / PIXELS)
    assert found.value == pytest.approx(np.trapezoid(found.curve[:, 1], found.curve[:, 0]))


def test_a_random_order_of_a_flat_map_follows_the_diagonal_and_is_seeded() -> None:
    model = region_mean()
    flat = with_map(model, ones(), np.ones((SIDE, SIDE)))
    values = [value(model, flat, "deletion", score="logit", steps=PIXELS, seed=s) for s in range(30)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
    assert len(set(values)) > 20
    again = measure(model, [flat], ["deletion"], score="logit", steps=PIXELS, seed=3)[0]["deletion"]
    assert again.value == values[3]
    assert "random" in again.note


def test_insertion_starts_from_the_stated_baseline_and_ends_at_the_picture() -> None:
    model = small_net()
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    explanation = onnxvis.explain(model, x, "saliency", 2)
    found = measure(model, [explanation], ["insertion"], steps=7, baseline="mean", score="logit")[0]["insertion"]
    assert found.curve is not None
    at_mean = np.broadcast_to(x.mean(axis=(2, 3), keepdims=True), x.shape).astype(np.float32)
    name = model.logits.tensor
    ends = [model.engine.forward(v, (name,))[name][0, 2] for v in (at_mean, x)]
    np.testing.assert_allclose(found.curve[[0, -1], 1], ends, rtol=1e-5)
    assert len(found.curve) == 8
    assert "the mean of each channel" in found.note


def test_no_more_pictures_run_at_once_than_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = region_mean()
    explanation = with_map(model, ones(), REGION)
    seen = []
    forward = model.engine.forward
    monkeypatch.setattr(model.engine, "forward", lambda x, *rest: (seen.append(len(x)), forward(x, *rest))[1])
    measure(model, [explanation], ["deletion", "sensitivity-n"], batch_size=5, steps=PIXELS)
    assert max(seen) == 5


def test_steps_and_order() -> None:
    assert step_counts(50176, 28).tolist() == [1792 * k for k in range(29)]  # as the authors' code at 224 pixels
    assert step_counts(3, 10).tolist() == [0, 1, 2, 3]
    heat = np.array([[0.5, np.nan], [-1.0, 2.0]])
    assert pixel_order(heat, 0).tolist() == [3, 0, 2, 1]
    assert auc(np.array([[0, 1.0], [0.5, 1.0], [1, 0.0]])) == 0.75


def test_average_drop_and_increase_by_hand() -> None:
    """Only half of the region is shown: the logit halves. A map of everything changes nothing."""
    model = region_mean()
    half = REGION.copy()
    half[:, :3] = False
    kept = half.sum() / REGION.sum()
    shown = with_map(model, ones(), half)
    assert value(model, shown, "average-drop", score="logit") == pytest.approx(1 - kept)
    assert value(model, shown, "average-increase", score="logit") == 0
    everything = with_map(model, ones(), np.full((SIDE, SIDE), 3.0))
    assert value(model, everything, "average-drop", score="logit") == pytest.approx(0, abs=1e-6)
    signed = linear_model((np.where(REGION, 1.0, -0.5) / PIXELS)[None], bias=0.6)
    assert value(signed, with_map(signed, ones(), REGION), "average-increase", score="logit") == 1
    faded = with_map(model, ones(), np.where(REGION, 1.0, 2.0))  # the region at half of the maximum
    assert value(model, faded, "average-drop", score="logit") == pytest.approx(0.5)


def test_a_map_of_exact_contributions_is_perfectly_faithful() -> None:
    """In a linear network the drop of removed pixels is the sum of weight times input: correlation 1, error 0."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, SIDE, SIDE))
    model = linear_model(weights, bias=0.3)
    x = rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    exact = with_map(model, x, (weights * x[0]).sum(axis=0))
    assert value(model, exact, "sensitivity-n", score="logit") == pytest.approx(1, abs=1e-5)
    assert value(model, exact, "infidelity", score="logit") == pytest.approx(0, abs=1e-9)
    scaled = with_map(model, x, 1e4 * (weights * x[0]).sum(axis=0))
    assert value(model, scaled, "infidelity", score="logit") == pytest.approx(0, abs=1e-9)
    other = with_map(model, x, rng.standard_normal((SIDE, SIDE)))
    assert abs(value(model, other, "sensitivity-n", score="logit")) < 0.4
    assert value(model, other, "infidelity", score="logit") > 0.7


def test_the_gradient_of_a_linear_network_does_not_move() -> None:
    rng = np.random.default_rng(0)
    model = linear_model(rng.standard_normal((3, SIDE, SIDE)))
    x = rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    assert value(model, onnxvis.explain(model, x, "saliency", 0), "max-sensitivity") == 0
    moving = value(model, onnxvis.explain(model, x, "integrated-gradients", 0), "max-sensitivity")
    assert 0 < moving < 0.1


def test_max_sensitivity_keeps_the_explained_class_and_the_options() -> None:
    """Noise must not change the question: class 3 stays class 3 although it is not the strongest."""
    model = small_net()
    x = np.random.default_rng(4).standard_normal((1, 3, 16, 16)).astype(np.float32)
    for target in (3, "4 - 1"):
        made: Any = onnxvis.explain(model, x, "occlusion", target, window=4, stride=4)
        rng, changes = np.random.default_rng(6), []
        for _ in range(10):
            noisy = disturbed(x, 0.02 * float(np.ptp(x)), rng)
            again: Any = onnxvis.explain(model, noisy, "occlusion", target, window=4, stride=4)
            changes.append(np.linalg.norm(again.heat() - made.heat()) / np.linalg.norm(made.heat()))
        found = value(model, made, "max-sensitivity", seed=6, batch_size=4)
        assert found == pytest.approx(max(changes), rel=1e-4)


def test_what_cannot_be_measured_says_why() -> None:
    model = region_mean()
    zero = with_map(model, ones(), np.zeros((SIDE, SIDE)))
    results = measure(model, [zero], ["average-drop", "sparseness", "sensitivity-n", "max-sensitivity"])[0]
    assert all(m.value is None and m.note for m in results.values())
    black = onnxvis.explain(model, np.zeros_like(ones()), "saliency", 0)
    assert measure(model, [black], ["infidelity"], score="logit")[0]["infidelity"].value is None


def test_a_function_as_target_is_not_asked_again_by_guessing() -> None:
    model = small_net()
    x = np.random.default_rng(4).standard_normal((1, 3, 16, 16)).astype(np.float32)
    made = onnxvis.explain(model, x, "saliency", lambda logits: logits[:, 0] * logits[:, 1])
    results = measure(model, [made], ["deletion", "max-sensitivity", "sparseness"])[0]
    assert results["deletion"].value is None
    assert "asked for again" in results["deletion"].note
    assert results["max-sensitivity"].value is None
    assert results["sparseness"].value is not None


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"score": "odds"},
        {"baseline": "noise"},
        {"engine": "steam"},
        {"metrics": ["insert"]},
        {"masks": []},
    ],
)
def test_settings_are_checked(options: dict[str, Any]) -> None:
    model = region_mean()
    with pytest.raises(UsageError):
        measure(model, [with_map(model, ones(), REGION)], **options)


def test_channels_last_whole_numbers_give_what_their_float_twin_gives() -> None:
    """A network that takes (N, H, W, C) bytes and the same network for (N, C, H, W) floats."""
    rng = np.random.default_rng(0)
    kernel, head = (rng.standard_normal(s).astype(np.float32) for s in ((6, 3, 3, 3), (4, 6)))

    def net(nhwc: bool) -> onnxvis.Model:
        build = Builder(("batch", SIDE, SIDE, 3) if nhwc else ("batch", 3, SIDE, SIDE))
        x = build.name
        if nhwc:
            build.input.type.tensor_type.elem_type = TensorProto.UINT8
            x = build.node("Transpose", build.node("Cast", x, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        x = build.node("Mul", x, build.constant(np.float32(1 / 255)))
        x = build.node("Relu", build.node("Conv", x, build.constant(kernel), pads=[1, 1, 1, 1]))
        x = build.node("Flatten", build.node("GlobalAveragePool", x))
        return onnxvis.load(build.model(build.node("Gemm", x, build.constant(head), transB=1)))

    bytes_ = rng.integers(0, 255, (1, SIDE, SIDE, 3), np.uint8)
    last, first = net(nhwc=True), net(nhwc=False)
    prepared = Prepared.from_array(bytes_, last.image_input.shape, np.uint8, "NHWC")
    plan = request(last, "occlusion", {"window": 2, "stride": 2})
    one = explain_prepared(last, [prepared], [plan], [(1,)], Settings())[0][0][0]
    twin: Any = onnxvis.explain(
        first, bytes_.transpose(0, 3, 1, 2).astype(np.float32), "occlusion", 1, window=2, stride=2
    )
    np.testing.assert_allclose(one.heat(), twin.heat(), atol=1e-4)
    names = ["deletion", "sensitivity-n", "infidelity"]  # a blur or a mean would be rounded to whole numbers
    found, expected = (measure(m, [e], names, steps=9)[0] for m, e in ((last, one), (first, twin)))
    for name in names:
        assert found[name].value == pytest.approx(expected[name].value, abs=1e-3), name
    rounded = measure(last, [one], ["insertion", "average-drop", "max-sensitivity"])[0]
    assert all(m.value is not None for m in rounded.values()), rounded
