"""bfloat16 is asked for, checked, and told; the check is numeric and the default is float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from support.nets import SmallNet, noise

import onnxvis
from onnxvis.errors import DependencyError, UsageError
from onnxvis.methods import precision
from onnxvis.methods.precision import PrecisionCheck, rank_correlation
from onnxvis.runtime import openvino
from onnxvis.runtime.providers import Provider

SIZE = 32


@pytest.fixture(scope="module")
def model() -> onnxvis.Model:
    return onnxvis.load(SmallNet().model())


class Coarse:
    """Stands in for the plug-in: the network on a picture that was rounded to bfloat16's eight bits."""

    provider = Provider("CPUExecutionProvider", "stands in")

    def __init__(self, model: onnxvis.Model) -> None:
        self.model = model

    def __call__(self, x: np.ndarray, tensor: str) -> dict[str, np.ndarray]:
        return self.model.engine.forward(self.rounded(x), (tensor,))

    @staticmethod
    def rounded(x: np.ndarray) -> np.ndarray:
        return (np.ascontiguousarray(x).view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_the_rank_correlation_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    for other in (b, a + 0.5 * b, -a):
        assert rank_correlation(a, other) == pytest.approx(scipy.stats.spearmanr(a, other).statistic, abs=1e-12)
    assert np.isnan(rank_correlation(np.ones(5), b[:5]))
    assert np.isnan(rank_correlation(a[:2], b[:2]))


def test_the_record_of_a_check_by_hand() -> None:
    exact = np.array([[1.0, 4.0], [2.0, 3.0], [-4.0, 2.0]])
    found = np.array([[1.5, 4.0], [2.0, 3.0], [-4.0, 5.0]])
    check = PrecisionCheck.of(exact, found)
    assert check.record() == {
        "positions": 3, "largest_error": 3.0, "relative_error": 0.75, "rank_correlation": pytest.approx(-0.5)
    }  # fmt: skip


@pytest.mark.parametrize("check", ["sample", "all", "none"])
def test_occlusion_in_low_precision_is_checked_and_told(
    model: onnxvis.Model, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    monkeypatch.setattr(precision, "bfloat16", lambda engine, sample: Coarse(model))
    x, options = noise(1, 3, SIZE, SIZE, seed=3), {"window": 8, "stride": 8, "engine": "plain"}
    exact = onnxvis.explain(model, x, "occlusion", (1, 2), **options)
    low = onnxvis.explain(model, Coarse.rounded(x), "occlusion", (1, 2), **options)  # both sides of the drop are coarse
    found = onnxvis.explain(model, x, "occlusion", (1, 2), precision="bf16", exact_check=check, **options)
    for one, other, rounded in zip(found, exact, low, strict=True):
        np.testing.assert_allclose(one.attribution, rounded.attribution, atol=1e-6)
        assert not np.allclose(one.attribution, other.attribution, atol=1e-6)
        assert one.score == pytest.approx(other.score, abs=1e-6)
        assert (one.parameters["precision"], other.parameters["precision"]) == ("bf16", "float32")
        assert any(note.startswith("precision: bfloat16, as asked for") for note in one.notes)
        assert not any("bfloat16" in note for note in other.notes)
        record = one.parameters["precision_check"]
        assert other.parameters["precision_check"] is None
        if check == "none":
            assert record is None
            assert any("was not checked" in note for note in one.notes)
            continue
        assert record["positions"] == (16 if check == "all" else 8)
        errors = [np.abs(a.attribution - b.attribution).max() for a, b in zip(found, exact, strict=True)]
        assert 0 < record["largest_error"] <= max(errors) * (1 + 1e-5)  # one position to a pixel: the map is the drops
        if check == "all":
            assert record["largest_error"] == pytest.approx(max(errors), rel=1e-4)
            drops = [e.attribution[::8, ::8].ravel() for e in (*found, *exact)]
            ranks = min(scipy.stats.spearmanr(drops[k], drops[k + 2]).statistic for k in (0, 1))
            assert record["rank_correlation"] == pytest.approx(ranks, abs=1e-9)


def test_rise_in_low_precision_is_checked_and_told(model: onnxvis.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16", lambda engine, sample: Coarse(model))
    x = noise(1, 3, SIZE, SIZE, seed=3)
    exact = onnxvis.explain(model, x, "rise", 1, masks=24, score="logit")
    found = onnxvis.explain(model, x, "rise", 1, masks=24, score="logit", precision="bf16")
    record = found.parameters["precision_check"]
    assert exact.parameters["precision_check"] is None
    assert record["positions"] == 8
    assert 0 < record["largest_error"] < 0.05
    assert record["rank_correlation"] > 0.9
    assert 0 < np.abs(found.attribution - exact.attribution).max() < 0.05 * np.abs(exact.attribution).max()
    assert any("masked pictures were computed in float32 too" in note for note in found.notes)


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_without_the_extra_it_is_an_error_that_says_what_to_install(
    model: onnxvis.Model, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def missing(ort: Any) -> str:
        return "OpenVINO's execution provider is not installed. Install it with `pip install onnxvis[bf16]`."

    monkeypatch.setattr(openvino, "_register", missing)
    with pytest.raises(DependencyError, match=r"onnxvis\[bf16\]"):
        onnxvis.explain(onnxvis.load(SmallNet().model()), noise(1, 3, SIZE, SIZE), method, 1, precision="bf16")


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_other_words_are_refused(model: onnxvis.Model, method: str) -> None:
    with pytest.raises(UsageError, match="precision"):
        onnxvis.explain(model, noise(1, 3, SIZE, SIZE), method, 1, precision="int8")
