"""The slot head three times: the paper's equations slowly in float64, torch, and ONNX operators."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from onnxvis.behaviour.scouter.head import XSlotHead, position_encoding
from onnxvis.behaviour.scouter.onnx_head import head_nodes
from onnxvis.behaviour.scouter.settings import HeadForm, HeadSettings, TrainingSettings
from onnxvis.errors import UsageError

Array = np.ndarray[Any, Any]
FORMS = {
    "as by default": HeadForm(HeadSettings(dim=16), 6, 5, 4, 3),
    "normalized": HeadForm(HeadSettings(dim=16, normalize=True), 6, 5, 4, 3),
    "negative, two slots": HeadForm(HeadSettings("negative", slots=2, dim=8, normalize=True), 6, 4, 4, 3),
    "deep keys and queries": HeadForm(HeadSettings(dim=8, key_layers=3, query_layers=2, iterations=2), 5, 3, 6, 4),
    "one round, three slots": HeadForm(HeadSettings(dim=12, normalize=False, iterations=1, slots=3), 6, 2, 3, 2),
}


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def by_hand(form: HeadForm, weights: dict[str, Array], feature: Array) -> tuple[Array, Array, float]:
    """Section 3.1 for one picture ``(C, H, W)``, one slot and one place after the other."""
    chosen, d = form.settings, form.settings.dim
    places = [feature[:, i, j] for i in range(form.height) for j in range(form.width)]
    convolution = weights["reduce.weight"][:, :, 0, 0]
    values = [np.maximum(convolution @ place + weights["reduce.bias"], 0) for place in places]
    encoding = position_encoding(d, form.height, form.width).reshape(d, -1)

    def layers(name: str, x: Array) -> Array:
        numbers = sorted({int(key.split(".")[1]) for key in weights if key.startswith(name)})
        for k, n in enumerate(numbers):
            x = weights[f"{name}.{n}.weight"] @ (np.maximum(x, 0) if k else x) + weights[f"{name}.{n}.bias"]
        return x

    keys = [layers("keys", value + encoding[:, j]) for j, value in enumerate(values)]
    slots = list(weights["slots"][0])
    for _ in range(chosen.iterations):
        products = np.array([[layers("queries", slot) @ key / np.sqrt(d) for key in keys] for slot in slots])
        if chosen.normalize:
            total = products.sum()
            products = np.array([row / row.sum() * total for row in products])
        attention = sigmoid(products)
        attended = [sum(a * v for a, v in zip(row, values, strict=True)) / d for row in attention]
        slots = [gru(weights, u, slot) for u, slot in zip(attended, slots, strict=True)]
    logits = [
        chosen.sign * sum(attended[k * chosen.slots + s].sum() for s in range(chosen.slots))
        for k in range(form.classes)
    ]
    maps = attention.reshape(form.classes, chosen.slots, form.height, form.width).sum(axis=1)
    return np.array(logits), maps, float(attention.mean())


def gru(weights: dict[str, Array], x: Array, h: Array) -> Array:
    wi, wh = (np.split(weights[f"update.weight_{k}"], 3) for k in ("ih", "hh"))
    bi, bh = (np.split(weights[f"update.bias_{k}"], 3) for k in ("ih", "hh"))
    reset = sigmoid(wi[0] @ x + bi[0] + wh[0] @ h + bh[0])
    keep = sigmoid(wi[1] @ x + bi[1] + wh[1] @ h + bh[1])
    new = np.tanh(wi[2] @ x + bi[2] + reset * (wh[2] @ h + bh[2]))
    return np.asarray((1 - keep) * new + keep * h)


def seeded(form: HeadForm, seed: int = 3) -> XSlotHead:
    torch.manual_seed(seed)
    return XSlotHead(form).eval()


def features(form: HeadForm, count: int = 2) -> Array:
    chance = np.random.default_rng(5)
    return chance.random((count, form.channels, form.height, form.width)).astype(np.float32)


def as_model(
    form: HeadForm, head: XSlotHead, opset: int, permutation: tuple[int, ...] = (0, 1, 2, 3)
) -> onnx.ModelProto:
    weights = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    made = head_nodes(form, weights, "feature", ("logits", "attention"), "s/", opset, permutation)
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        made.nodes,
        "head",
        [helper.make_tensor_value_info("feature", kind, ["N", None, None, None])],
        [
            helper.make_tensor_value_info("logits", kind, ["N", form.classes]),
            helper.make_tensor_value_info("attention", kind, ["N", form.classes, form.height, form.width]),
        ],
        made.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", FORMS)
def test_torch_equals_the_equations(name: str) -> None:
    form = FORMS[name]
    head, x = seeded(form).double(), features(form)
    exact = position_encoding(form.settings.dim, form.height, form.width)
    head.encoding = torch.from_numpy(exact.reshape(1, form.settings.dim, -1))
    with torch.no_grad():
        logits, attention, area = head(torch.from_numpy(x).double())
    weights = {key: tensor.numpy() for key, tensor in head.state_dict().items()}
    slow = [by_hand(form, weights, one.astype(np.float64)) for one in x]
    assert relative(logits.numpy(), np.stack([s[0] for s in slow])) < 1e-12
    assert relative(attention.numpy(), np.stack([s[1] for s in slow])) < 1e-12
    assert float(area) == pytest.approx(np.mean([s[2] for s in slow]), rel=1e-12)


@pytest.mark.parametrize("opset", [9, 13, 17])
@pytest.mark.parametrize("name", FORMS)
def test_onnx_equals_torch(name: str, opset: int) -> None:
    form = FORMS[name]
    head, x = seeded(form), features(form, 3)
    session = onnxruntime.InferenceSession(as_model(form, head, opset).SerializeToString())
    logits, attention = session.run(["logits", "attention"], {"feature": x})
    with torch.no_grad():
        expected = head(torch.from_numpy(x))
    assert relative(logits, expected[0].numpy()) < 1e-6
    assert relative(attention, expected[1].numpy()) < 1e-6
    assert attention.shape == (3, form.classes, form.height, form.width)


def test_other_layouts_are_transposed() -> None:
    form = FORMS["as by default"]
    head, x = seeded(form), features(form)
    plain, turned = (
        onnxruntime.InferenceSession(as_model(form, head, 17, p).SerializeToString())
        for p in ((0, 1, 2, 3), (0, 3, 1, 2))
    )
    expected = plain.run(None, {"feature": x})
    found = turned.run(None, {"feature": np.ascontiguousarray(x.transpose(0, 2, 3, 1))})
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_logit_is_the_sum_of_attention_times_features() -> None:
    form = FORMS["negative, two slots"]
    head, x = seeded(form), torch.from_numpy(features(form))
    with torch.no_grad():
        logits, attention, _ = head(x)
        mean = torch.relu(head.reduce(x)).mean(1, keepdim=True)
    assert relative(-(attention * mean).sum((2, 3)).numpy(), logits.numpy()) < 1e-6
    assert logits.max() <= 0


def test_row_sums_of_zero_do_not_overflow() -> None:
    form = HeadForm(HeadSettings(dim=8, normalize=True), 3, 2, 2, 2)
    head = seeded(form)
    with torch.no_grad():
        head.slots.zero_()
    x = torch.from_numpy(features(form))
    logits, attention, area = head(x)
    (logits.sum() + area).backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())
    session = onnxruntime.InferenceSession(as_model(form, head, 17).SerializeToString())
    assert relative(session.run(["attention"], {"feature": x.numpy()})[0], attention.detach().numpy()) < 1e-6


def test_the_position_encoding_tells_places_apart() -> None:
    found = position_encoding(16, 4, 6)
    assert found.shape == (16, 4, 6)
    assert np.allclose(found[0], np.sin(2 * np.pi * np.arange(1, 5) / 4)[:, None])
    assert np.allclose(found[9], np.cos(2 * np.pi * np.arange(1, 7) / 6)[None])
    flat = found.reshape(16, -1).T
    gaps = np.linalg.norm(flat[:, None] - flat[None], axis=2) + 9 * np.eye(24)
    assert gaps.min() > 0.1


def test_calibration_brings_features_to_unit_scale() -> None:
    form = FORMS["as by default"]
    head, x = seeded(form), torch.from_numpy(features(form))
    before = head.reduce.weight.detach().clone()
    head.calibrate(1000 * x)
    scale = float((1e6 * x.double() ** 2).mean().sqrt())
    assert torch.allclose(head.reduce.weight * scale, before, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"explanation": "maybe"}, "positive or negative"),
        ({"dim": 30}, "multiple of 4"),
        ({"slots": 0}, "slots"),
        ({"iterations": 1.5}, "iterations"),
    ],
)
def test_settings_that_do_not_do_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        dataclasses.replace(HeadSettings(), **change)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"area_weight": -1.0}, "lambda"),
        ({"validation": 1.0}, "validation"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"device": "tpu"}, "device"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_training_settings_that_do_not_do_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        dataclasses.replace(TrainingSettings(), **change)


def test_a_form_survives_the_metadata() -> None:
    form = FORMS["deep keys and queries"]
    assert HeadForm.from_dict(form.to_dict()) == form
