"""Integrated gradients against Captum, the axiom of completeness, and the baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from onnx import helper
from scipy.ndimage import gaussian_filter
from support.formats import FLOAT, model_of
from support.pairs import assert_close, pair

import onnxvis
from onnxvis.errors import UsageError
from onnxvis.methods.baseline import make_baseline
from onnxvis.methods.integrated_gradients import quadrature

STEPS = 6


# On the way of EfficientNet-Lite0 single units pass within the exporter's rounding of a kink.
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet18-dynamo", 1e-6),
        ("lite0-dynamo", 5e-3),
        pytest.param("squeezenet-trained", 1e-6, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0-legacy", 1e-5, marks=pytest.mark.slow),
        pytest.param("vgg11_bn-dynamo", 1e-6, marks=pytest.mark.slow),
    ],
)
def test_equals_captum(name, near):
    p = pair(name)
    captum = IntegratedGradients(p.module)
    theirs = captum.attribute(p.tensor, 0.0, p.classes(), n_steps=STEPS, method="gausslegendre", internal_batch_size=4)
    assert_close(p.explain("integrated-gradients", steps=STEPS, batch_size=4), theirs, near)


def test_trapezoid_and_array_baseline_equal_captum():
    p = pair("resnet18-dynamo")
    start = np.random.default_rng(2).standard_normal(p.x.shape[1:]).astype(np.float32)
    theirs = IntegratedGradients(p.module).attribute(
        p.tensor, torch.from_numpy(start[None]).double(), p.classes(), n_steps=STEPS, method="riemann_trapezoid"
    )
    ours = p.explain("integrated-gradients", steps=STEPS, quadrature="trapezoid", baseline=start)
    # Captum's weights sum to (n - 1) / n: a trapezoid rule whose step is 1 / n instead of 1 / (n - 1).
    assert_close(ours, theirs * STEPS / (STEPS - 1))


def test_integrates_polynomials_exactly():
    for power in range(2 * STEPS):
        points, weights = quadrature("gauss-legendre", STEPS)
        assert (weights * points**power).sum() == pytest.approx(1 / (power + 1), rel=1e-12)
    points, weights = quadrature("trapezoid", STEPS)
    assert (weights.sum(), (weights * points).sum()) == (pytest.approx(1), pytest.approx(0.5))


def test_completeness_on_a_smooth_function():
    """For sum of w x^2 the attribution of a value is w (x^2 - b^2), and one Gauss point is exact."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2, 3 * 4 * 4)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Flatten", ["square"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
    ]
    model = onnxvis.load(model_of(nodes, {"x": (FLOAT, ["n", 3, 4, 4])}, ["logits"], {"w": weight}))
    x = rng.standard_normal((1, 3, 4, 4)).astype(np.float32)
    ours = onnxvis.explain(model, x, "integrated-gradients", 1, steps=1, baseline=0.5, float64=True)
    expected = weight[1].reshape(3, 4, 4) * (x[0].astype(float) ** 2 - 0.25)
    assert_close([ours], [expected])
    assert ours.parameters["completeness_error"] < 1e-5
    assert ours.parameters["score_at_baseline"] == pytest.approx(0.25 * weight[1].sum(), rel=1e-5)
    squared = onnxvis.explain(
        model, x, "integrated-gradients", lambda z: z[:, 1] ** 2, steps=4, baseline=0.5, float64=True
    )
    assert squared.parameters["completeness_error"] < 1e-4


def test_reports_the_error_of_completeness():
    p = pair("lite0-dynamo")
    ours = onnxvis.explain(p.model, p.images[0], "integrated-gradients", steps=32, baseline="mean")
    rise = ours.score - ours.parameters["score_at_baseline"]
    assert ours.parameters["sum"] == pytest.approx(ours.attribution.sum(dtype=np.float64), rel=1e-4)
    error = abs(ours.parameters["sum"] - rise) / abs(rise)
    assert ours.parameters["completeness_error"] == pytest.approx(error, rel=1e-6)
    assert any("completeness error" in note for note in ours.notes)
    image = p.x[:1]
    start = np.broadcast_to(image.astype(float).mean(axis=(2, 3), keepdims=True), image.shape).astype(np.float32)
    there = p.model.engine.forward(start)
    assert ours.parameters["score_at_baseline"] == pytest.approx(next(iter(there.values()))[0, 282], rel=1e-4)


def test_micro_batches_do_not_change_the_answer():
    p = pair("resnet18-dynamo")
    maps = [p.explain("integrated-gradients", steps=5, batch_size=size)[1].attribution for size in (1, 2, 8)]
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=1e-5, atol=1e-9)


def test_baselines():
    image = np.random.default_rng(1).standard_normal((3, 40, 60))
    np.testing.assert_array_equal(make_baseline("0.5", image, "m"), np.full(image.shape, 0.5))
    np.testing.assert_allclose(make_baseline("mean", image, "m")[:, 3, 4], image.mean(axis=(1, 2)))
    np.testing.assert_array_equal(make_baseline([[[1]], [[2]], [[3]]], image, "m")[:, 7, 9], [1, 2, 3])
    expected = gaussian_filter(image, (0, 2, 2), mode="nearest", truncate=4)
    np.testing.assert_allclose(make_baseline("blur", image, "m"), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is a whole number from 1 to 2000"),
        ({"steps": 1, "quadrature": "trapezoid"}, "from 2"),
        ({"quadrature": "gauss"}, "gauss-legendre"),
        ({"baseline": "black"}, "a number, 'mean', 'blur' or an array"),
        ({"baseline": np.zeros((3, 5, 5))}, "does not fit"),
        ({"baseline": float("nan")}, "NaN"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        pair("resnet18-dynamo").explain("integrated-gradients", **options)
