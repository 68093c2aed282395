"""Self-tests pass on a sound model, and each of them fails when what it watches is broken."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from support.formats import convnet, quantized
from support.hand_models import linear_model, small_net

import onnxvis
from onnxvis.audit.selftests import FAILED, NOT_APPLICABLE, NOT_RUN, PASSED, SelfTest, self_tests
from onnxvis.errors import UsageError


def pictures(model: onnxvis.Model, count: int = 2) -> list[Any]:
    shape = model.one_image_shape()
    return [model.prepare(np.random.default_rng(k).standard_normal(shape).astype(np.float32)) for k in range(count)]


def by_name(results: list[SelfTest], method: str | None) -> dict[str, SelfTest]:
    return {r.name: r for r in results if r.method == method}


def test_a_sound_model_keeps_its_promises() -> None:
    model = small_net()
    results = self_tests(model, pictures(model), ["grad-cam", "hires-cam", "integrated-gradients", "smoothgrad"])
    whole = by_name(results, None)
    assert {name: r.outcome for name, r in whole.items()} == {"answers repeat": PASSED, "batches": PASSED}
    cam = by_name(results, "grad-cam")
    assert {name: r.outcome for name, r in cam.items()} == dict.fromkeys(
        ("outputs", "gradient", "completeness", "repeatability", "input shift", "randomization"), PASSED
    )
    assert cam["completeness"].value is not None
    assert cam["completeness"].value < 1e-5
    assert by_name(results, "hires-cam")["completeness"].outcome == PASSED
    gradients = by_name(results, "integrated-gradients")
    assert gradients["completeness"].outcome == PASSED
    assert gradients["input shift"].outcome == FAILED  # its baseline is a fixed 0: Kindermans et al. 2017
    assert "where zero lies" in gradients["input shift"].sentence
    chance = by_name(results, "smoothgrad")
    assert chance["repeatability"].outcome == PASSED
    assert chance["other seed"].value is not None
    assert chance["other seed"].value < 1
    assert all(r.sentence for r in results)
    assert not any("e+" in r.sentence for r in results)


def test_a_method_that_repeats_itself_badly_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxvis.methods import grad_cam

    honest, calls = grad_cam.METHOD, []

    def drifting(task: Any) -> Any:
        calls.append(1)
        return [
            [dataclasses.replace(a, values=a.values * np.float32(1 + 1e-6 * len(calls))) for a in row]
            for row in honest.attribute(task)
        ]

    monkeypatch.setattr(grad_cam, "METHOD", dataclasses.replace(honest, attribute=drifting))
    model = small_net()
    found = by_name(self_tests(model, pictures(model), ["grad-cam"]), "grad-cam")
    assert found["repeatability"].outcome == FAILED
    assert found["repeatability"].value == pytest.approx(1e-6, rel=0.2)


def test_a_map_that_misses_the_score_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxvis.methods import hires_cam

    honest = hires_cam.METHOD

    def scaled(task: Any) -> Any:
        return [
            [dataclasses.replace(a, layer_map=a.layer_map * np.float32(1.1)) for a in row]  # type: ignore[operator]
            for row in honest.attribute(task)
        ]

    monkeypatch.setattr(hires_cam, "METHOD", dataclasses.replace(honest, attribute=scaled))
    model = small_net()
    found = by_name(self_tests(model, pictures(model), ["hires-cam"]), "hires-cam")
    assert found["completeness"].outcome == FAILED
    assert found["outputs"].outcome == PASSED


def test_what_does_not_apply_is_said_and_costs_nothing_else() -> None:
    model = linear_model(np.random.default_rng(0).standard_normal((3, 8, 8)))
    results = self_tests(model, pictures(model), ["cam", "saliency"])
    assert by_name(results, "cam")["applies"].outcome == NOT_APPLICABLE
    assert by_name(results, "cam")["applies"].sentence
    assert by_name(results, "saliency")["gradient"].outcome == PASSED
    with pytest.raises(UsageError):
        self_tests(model, pictures(model), ["salience"])
    with pytest.raises(UsageError):
        self_tests(model, [], ["saliency"])


def test_a_quantized_file_has_no_finite_differences_and_says_so() -> None:
    model = onnxvis.load(quantized(convnet(batch="n"), "qdq"))
    found = by_name(self_tests(model, pictures(model), ["grad-cam"]), "grad-cam")
    assert found["gradient"].outcome == NOT_RUN
    assert "quantized" in found["gradient"].sentence
    assert found["input shift"].outcome == NOT_APPLICABLE
    assert found["outputs"].outcome == PASSED
