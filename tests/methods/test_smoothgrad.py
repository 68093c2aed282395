"""SmoothGrad against the mean of the original module's gradients under the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.pairs import assert_close, one_hot, pair, vjp

import onnxvis
from onnxvis.errors import UsageError
from onnxvis.methods.smoothgrad import RunningMean, noise_of

SAMPLES, NOISE, SEED = 5, 0.2, 3


def reference(p, row, samples=SAMPLES):
    """Gradients of the top class at every noisy copy, from the original module."""
    x = p.x[row].astype(np.float64)
    draws = noise_of(p.x[row], SEED).standard_normal((samples, *x.shape))
    points = torch.from_numpy(x + NOISE * (x.max() - x.min()) * draws)
    return vjp(p.module, points, one_hot(p.module, points, [p.classes()[row]] * samples)).numpy()


# Among five noisy copies of a photo some unit of EfficientNet-Lite0 lies within rounding of a kink.
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet18-dynamo", 1e-6),
        ("lite0-dynamo", 2e-2),
        pytest.param("squeezenet-trained", 1e-6, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0-legacy", 1e-5, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("squared", [False, True])
def test_is_the_mean_over_noisy_copies(name, near, squared):
    p = pair(name)
    ours = p.explain("smoothgrad", samples=SAMPLES, noise=NOISE, seed=SEED, batch_size=2, squared=squared)
    for row, found in enumerate(ours):
        gradients = reference(p, row) ** (2 if squared else 1)
        assert_close([found], [gradients.mean(axis=0)], near)
        error = gradients.std(axis=0, ddof=1) / np.sqrt(SAMPLES)
        relative = np.sqrt((error**2).mean() / (gradients.mean(axis=0) ** 2).mean())
        assert found.parameters["relative_standard_error"] == pytest.approx(relative, rel=max(1e-5, near))
        assert found.parameters["sigma"] == pytest.approx(NOISE * (p.x[row].max() - p.x[row].min()))
        assert found.signed is not squared


def test_a_picture_gets_the_same_noise_in_any_company():
    p = pair("lite0-dynamo")
    options = {"samples": 4, "seed": 1}
    alone = onnxvis.explain(p.model, p.images[1], "smoothgrad", 282, **options)
    among = onnxvis.explain(p.model, [*p.images, p.images[1]], "smoothgrad", 282, **options)
    for found in among[1:]:
        np.testing.assert_array_equal(found.attribution, alone.attribution)
    assert np.abs(among[0].attribution - alone.attribution).max() > 0
    other = onnxvis.explain(p.model, p.images[1], "smoothgrad", 282, samples=4, seed=2)
    assert np.abs(other.attribution - alone.attribution).max() > 0


def test_several_targets_share_the_noise():
    p = pair("resnet18-dynamo")
    one, two, both = onnxvis.explain(
        p.model, p.images[0], "smoothgrad", (3, 5, "3 - 5"), samples=3, float64=True, allow_unverified=True
    )
    assert_close([both], [one.attribution.astype(float) - two.attribution])


def test_progress_counts_every_sample():
    p, seen = pair("resnet18-dynamo"), []
    p.explain("smoothgrad", samples=5, batch_size=2, progress=lambda *state: seen.append(state))
    assert [state for state in seen if state[0] == "smoothgrad"] == [("smoothgrad", n, 10) for n in (2, 4, 5, 7, 9, 10)]


def test_running_mean_equals_numpy():
    data = np.random.default_rng(0).standard_normal((11, 4, 3)) + 1e6
    running = RunningMean()
    for part in (data[:1], data[1:6], data[6:]):
        running.add(part)
    np.testing.assert_allclose(running.mean, data.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(running.standard_error(), data.std(axis=0, ddof=1) / np.sqrt(11), rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples is a whole number of at least 2"),
        ({"noise": 0}, "greater than 0"),
        ({"noise": "x"}, "noise"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        pair("resnet18-dynamo").explain("smoothgrad", **options)
