"""The same numbers as other people's code on the same arrays: Captum where it is installed, Quantus where it is."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from support.graphs import Builder
from support.hand_models import SIDE, with_map
from torch import nn

import onnxvis
from onnxvis.audit.metrics import measure
from onnxvis.audit.metrics.faithfulness import correlation
from onnxvis.audit.metrics.stability import disturbed

WIDTH, CLASSES = 6, 3
X = np.ones((1, 1, SIDE, SIDE), np.float32)  # on ones, what a patch takes away is the patch itself


class Net(nn.Module):
    """Convolution, ReLU, mean, linear: the torch twin of :func:`deployed`."""

    def __init__(self, kernel: np.ndarray, head: np.ndarray) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, 3, padding=1, bias=False)
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)
        self.conv.weight.data = torch.from_numpy(kernel)
        self.head.weight.data = torch.from_numpy(head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.conv(x)).mean(dim=(2, 3)))
        return out


def deployed() -> tuple[onnxvis.Model, Net]:
    rng = np.random.default_rng(3)
    kernel = rng.standard_normal((WIDTH, 1, 3, 3)).astype(np.float32)
    head = rng.standard_normal((CLASSES, WIDTH)).astype(np.float32)
    build = Builder(("batch", 1, SIDE, SIDE))
    y = build.node("Relu", build.node("Conv", build.name, build.constant(kernel), pads=[1, 1, 1, 1]))
    y = build.node("Flatten", build.node("GlobalAveragePool", y))
    model = onnxvis.load(build.model(build.node("Gemm", y, build.constant(head), transB=1)))
    return model, Net(kernel, head).eval().requires_grad_(False)


MODEL, NET = deployed()
HEAT = np.random.default_rng(5).permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.float32) - 20
INDEX = 1


def ours(*metrics: str, **options: Any) -> dict[str, Any]:
    return measure(MODEL, [with_map(MODEL, X, HEAT, INDEX)], metrics, **options)[0]


def quantus_metric(name: str, **options: Any) -> Any:
    try:
        quantus = importlib.import_module("quantus")
    except ImportError as error:
        pytest.skip(f"quantus is not installed ({error})")
    return getattr(quantus, name)(disable_warnings=True, normalise=False, **options)


def called(metric: Any, heat: np.ndarray = HEAT, **more: Any) -> np.ndarray:
    return np.asarray(
        metric(
            model=NET,
            x_batch=X.copy(),
            y_batch=np.array([INDEX]),
            a_batch=heat[None, None].copy(),
            device="cpu",
            **more,
        )
    )


# --- Captum ----------------------------------------------------------------------------------------


def test_infidelity_is_that_of_captum() -> None:
    """Yeh's estimate over the same patches, with the best scale, divided by the mean squared drop."""
    metrics = pytest.importorskip("captum.metrics")
    masks = []
    for y in range(SIDE):
        for x in range(SIDE):  # the side's fourteenth is less than a pixel here: patches of one pixel
            mask = torch.zeros(1, SIDE, SIDE, dtype=torch.float64)
            mask[0, y, x] = 1
            masks.append(mask)
    patches = torch.stack(masks)

    def take_away(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return patches, inputs - patches

    net = NET.double()
    inputs, heat = torch.from_numpy(X).double(), torch.from_numpy(HEAT).double()[None, None]
    error = metrics.infidelity(
        net, take_away, inputs, heat, target=INDEX, n_perturb_samples=len(patches), normalize=True
    )
    with torch.no_grad():
        drops = (net(inputs) - net(inputs - patches))[:, INDEX]
    NET.float()
    found = ours("infidelity", score="logit")["infidelity"].value
    assert found == pytest.approx(float(error[0] / (drops**2).mean()), rel=1e-4)


def test_max_sensitivity_is_that_of_captum() -> None:
    metrics = pytest.importorskip("captum.metrics")
    x = np.random.default_rng(1).standard_normal(X.shape).astype(np.float32)
    made: Any = onnxvis.explain(MODEL, x, "integrated-gradients", INDEX, steps=8, quadrature="trapezoid")
    radius = 0.02 * float(np.ptp(x))
    rng = np.random.default_rng(2)

    def noise(inputs: torch.Tensor, _: float) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([disturbed(x, radius, rng) for _ in range(len(inputs))]))

    def explain(inputs: Any) -> Any:
        pictures = [row[None] for row in (inputs[0] if isinstance(inputs, tuple) else inputs).numpy()]
        rows: Any = onnxvis.explain(MODEL, pictures, "integrated-gradients", INDEX, steps=8, quadrature="trapezoid")
        maps = torch.from_numpy(np.stack([row.attribution for row in rows]))
        return (maps,) if isinstance(inputs, tuple) else maps

    expected = metrics.sensitivity_max(
        explain, torch.from_numpy(x), perturb_func=noise, perturb_radius=radius, n_perturb_samples=10
    )
    found = measure(MODEL, [made], ["max-sensitivity"], seed=2)[0]["max-sensitivity"].value
    assert found == pytest.approx(float(expected[0]), rel=1e-3)


# --- Quantus ---------------------------------------------------------------------------------------


def test_deletion_follows_the_curve_of_quantus_pixel_flipping() -> None:
    metric = quantus_metric("PixelFlipping", features_in_step=4, perturb_baseline=0.0)
    expected = called(metric, softmax=True)[0]
    found = ours("deletion", steps=SIDE * SIDE // 4)["deletion"]
    assert found.curve is not None
    np.testing.assert_allclose(found.curve[1:, 1], expected, atol=1e-6)


def test_quantus_agrees_on_maps_and_objects() -> None:
    positive = np.abs(HEAT)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[1:5, 2:7] = True
    explanation = with_map(MODEL, X, positive, INDEX)
    names = ["sparseness", "complexity", "pointing-game", "energy-pointing-game"]
    found = measure(MODEL, [explanation], names, masks=[mask])[0]
    segments = {"s_batch": mask[None, None].astype(np.uint8)}
    expected = {
        "sparseness": called(quantus_metric("Sparseness"), positive),
        "complexity": called(quantus_metric("Complexity"), positive),
        "pointing-game": called(quantus_metric("PointingGame"), positive, **segments),
        "energy-pointing-game": called(quantus_metric("RelevanceMassAccuracy"), positive, **segments),
    }
    for name in names:
        assert found[name].value == pytest.approx(float(expected[name][0]), rel=1e-6), name


def test_sensitivity_n_is_the_correlation_of_quantus() -> None:
    """Quantus draws its own subsets, so the mean over many of its runs is compared, for half of the pixels."""
    options: dict[str, Any] = {"nr_runs": 2000, "subset_size": SIDE * SIDE // 2, "return_aggregate": False}
    metric = quantus_metric("FaithfulnessCorrelation", perturb_baseline=0.0, **options)
    single: Any = onnxvis.explain(MODEL, X, "occlusion", INDEX, window=1, stride=1)
    heat = single.heat() + np.random.default_rng(0).normal(0, single.heat().std(), HEAT.shape).astype(np.float32)
    np.random.seed(0)  # what Quantus draws from
    expected = float(called(metric, heat, softmax=False)[0])
    explanation = with_map(MODEL, X, heat, INDEX)
    found = measure(MODEL, [explanation], ["sensitivity-n"], score="logit", samples=2000)[0]["sensitivity-n"]
    assert found.curve is not None
    assert found.curve[3, 0] == 0.5
    assert found.curve[3, 1] == pytest.approx(expected, abs=0.05)
    assert expected > 0.2


def test_correlation_is_numpy_s() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert np.isnan(correlation(a, np.ones(30)))
