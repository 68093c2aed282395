"""Ablation-CAM and Score-CAM against slow loops over the original modules."""

import functools

import numpy as np
import pytest
import torch
from support.zoo import export, image, torch_module

import onnxvis
from onnxvis.methods.score_cam import normalized

SIZE = 96
CLASSES = (7, 402)


@functools.cache
def resnet():
    return onnxvis.load(export("resnet18", "legacy", 17, SIZE, dynamic_batch=True))


@functools.cache
def module():
    return torch_module("resnet18").double()


def through(inner, x, change=None):
    """Logits ``(N, K)`` and what ``inner`` gave, with its output replaced by ``change`` of it."""
    kept = []

    def hook(_module, _inputs, out):
        kept.append(out)
        return None if change is None else change(out)

    handle = inner.register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = module()(torch.from_numpy(x.astype(np.float64)))
    finally:
        handle.remove()
    return logits.numpy(), kept[0].numpy()


def tail_of(name):
    """What follows a stage of the original module."""
    net = module()
    after = [net.layer4] if name == "layer3" else []
    return torch.nn.Sequential(*after, net.avgpool, torch.nn.Flatten(), net.fc)


def slow_ablation(name, x, index):
    """Every unit switched off in turn; a few of them by a hook in the whole module, as a check of the tail."""
    inner, tail = getattr(module(), name), tail_of(name)
    base, activation = through(inner, x)
    a = torch.from_numpy(activation)
    drops = []
    for start in range(0, a.shape[1], 64):
        copies = a.repeat(64, 1, 1, 1)
        for i in range(64):
            copies[i, start + i] = 0
        with torch.no_grad():
            drops += list(base[0, index] - tail(copies)[:, index].numpy())
    for k in (0, 101, 255):

        def off(out, k=k):
            out = out.clone()
            out[:, k] = 0
            return out

        assert base[0, index] - through(inner, x, off)[0][0, index] == pytest.approx(drops[k], rel=1e-9, abs=1e-12)
    return sum(d * activation[0, k] for k, d in enumerate(drops))


@functools.cache
def slow_at_the_last_layer(index):
    return slow_ablation("layer4", image(SIZE), index)


@pytest.mark.parametrize("options", [{}, {"closed_form": False}, {"closed_form": False, "float64": True}])
def test_ablation_cam_is_switching_units_off(options):
    found = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", CLASSES, **options)
    for explanation, index in zip(found, CLASSES, strict=True):
        expected = slow_at_the_last_layer(index)
        tolerance = 1e-6 if options.get("float64") else 1e-4
        assert np.abs(explanation.layer_map - expected).max() < tolerance * np.abs(expected).max()
    note = " ".join(found[0].notes)
    assert ("closed form" in note) == (not options)
    assert found[0].parameters["closed_form"] == (not options)


def test_ablation_cam_at_an_earlier_layer():
    found = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", 7, layer="layer3", batch_size=5)
    expected = slow_ablation("layer3", image(SIZE), 7)
    assert np.abs(found.layer_map - expected).max() < 1e-3 * np.abs(expected).max()
    assert "256 units switched off one by one" in " ".join(found.notes)


def test_ablation_cam_relative_is_the_papers_division():
    raw = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", 7)
    relative = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", 7, relative=True)
    np.testing.assert_allclose(relative.layer_map, raw.layer_map / raw.score, rtol=1e-4, atol=1e-7)


def test_ablation_cam_of_a_callable():
    def squared(logits):
        return logits[:, 7] ** 2

    closed = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", squared)
    run = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", squared, closed_form=False)
    assert np.abs(closed.layer_map - run.layer_map).max() < 1e-3 * np.abs(run.layer_map).max()


def test_ablation_cam_one_by_one_on_a_fixed_batch():
    fixed = onnxvis.load(export("resnet18", "legacy", 17, SIZE))
    one = onnxvis.explain(fixed, image(SIZE), "ablation-cam", 7, closed_form=False)
    two = onnxvis.explain(resnet(), image(SIZE), "ablation-cam", 7)
    assert np.abs(one.layer_map - two.layer_map).max() < 1e-4 * np.abs(two.layer_map).max()


def slow_score_cam(x, index, weights, units, mask="input"):
    """Definition 2 and algorithm 1 of the paper, one unit after the other."""
    _, activation = through(module().layer4, x)
    maps = activation[0]
    run = functools.partial(through, module().layer4)
    base = (run(np.zeros_like(x)) if mask == "input" else run(x, torch.zeros_like))[0][0, index]
    increases = []
    for k in units:
        source = torch.from_numpy(maps[k])[None, None]
        if mask == "input":
            source = torch.nn.functional.interpolate(source, x.shape[2:], mode="bilinear", align_corners=False)
        span = source.max() - source.min()
        seen = (source - source.min()) / span if span > 0 else torch.zeros_like(source)
        found = run(x * seen.numpy()) if mask == "input" else run(x, lambda a, seen=seen: a * seen)
        increases.append(found[0][0, index] - base)
    values = np.array(increases)
    alpha = np.exp(values - values.max()) / np.exp(values - values.max()).sum() if weights == "softmax" else values
    return sum(a * maps[k] for a, k in zip(alpha, units, strict=True)), base


@pytest.mark.parametrize("weights", ["softmax", "increase"])
@pytest.mark.parametrize("mask", ["input", "layer"])
def test_score_cam_is_the_slow_loop(mask, weights):
    x = image(SIZE)
    found = onnxvis.explain(
        resnet(), x, "score-cam", CLASSES, mask=mask, weights=weights, top_channels=24, batch_size=5
    )
    activation = through(module().layer4, x)[1][0]
    units = np.sort(np.argsort(-(activation**2).sum(axis=(1, 2)))[:24])
    for explanation, index in zip(found, CLASSES, strict=True):
        expected, base = slow_score_cam(x, index, weights, units, mask)
        assert np.abs(explanation.layer_map - expected).max() < 2e-4 * np.abs(expected).max()
        assert explanation.parameters["baseline_score"] == pytest.approx(base, rel=1e-4, abs=1e-4)
        assert "approximation" in " ".join(explanation.notes)
        assert ("variant" in " ".join(explanation.notes)) == (mask == "layer")


def test_score_cam_through_the_tail_is_its_closed_form():
    """At the last layer the variant needs no run; at an earlier one the tail runs. Both are the same definition."""
    from onnxvis.methods import score_cam

    closed = onnxvis.explain(resnet(), image(SIZE), "score-cam", CLASSES, mask="layer")
    original = score_cam.head_or_none
    score_cam.head_or_none = lambda _model, _layer: None
    try:
        run = onnxvis.explain(resnet(), image(SIZE), "score-cam", CLASSES, mask="layer")
    finally:
        score_cam.head_or_none = original
    for a, b in zip(closed, run, strict=True):
        assert np.abs(a.layer_map - b.layer_map).max() < 1e-4 * np.abs(b.layer_map).max()


def test_score_cam_reports_progress():
    seen = []
    onnxvis.explain(
        resnet(), image(SIZE), "score-cam", 7, top_channels=10, batch_size=4,
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )  # fmt: skip
    assert seen == [("score-cam", 4, 10), ("score-cam", 8, 10), ("score-cam", 10, 10)]


def test_a_constant_unit_marks_no_places():
    maps = np.stack([np.full((2, 2), 3.0), np.array([[0.0, 1.0], [2.0, 4.0]])])
    np.testing.assert_array_equal(normalized(maps)[0], 0)
    np.testing.assert_array_equal(normalized(maps)[1], [[0, 0.25], [0.5, 1]])


@pytest.mark.parametrize("bad", [{"mask": "picture"}, {"weights": "raw"}, {"top_channels": 0}, {"top_channels": 1.5}])
def test_bad_options(bad):
    with pytest.raises(onnxvis.UsageError):
        onnxvis.explain(resnet(), image(SIZE), "score-cam", 7, **bad)
