"""The same maps on a CUDA device."""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime
import pytest
import torch
from support import zoo
from support.nets import SmallNet, as_batch
from support.references import relative_error

import onnxvis
from onnxvis.runtime import providers


@functools.cache
def missing() -> str:
    """Why there is no CUDA here, or nothing."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime build has no CUDA provider (install onnxvis[gpu])"
    failure = providers._probe("CUDAExecutionProvider")
    if failure is not None:
        return f"onnxruntime's CUDA provider does not work here: {failure}"
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
METHODS = {"grad-cam": {}, "saliency": {}, "occlusion": {"window": (24, 17), "stride": (12, 9)}}


def test_cuda_is_chosen_by_itself() -> None:
    provider = providers.choose_provider()
    assert provider.name == "CUDAExecutionProvider"
    assert provider.short == "cuda"
    assert onnxvis.load(SmallNet().model()).provider.name == "CUDAExecutionProvider"


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_the_cpu(method: str, name: str, exporter: zoo.Exporter) -> None:
    path = zoo.export(name, exporter, 17 if exporter == "legacy" else 18, 64)
    images = [zoo.image(64, seed=i) for i in range(3)]
    maps = {}
    for provider in ("cpu", "cuda"):
        model = onnxvis.load(path, provider=provider)
        precise = {} if method == "occlusion" else {"float64": True}
        found = onnxvis.explain(model, images, method, [0, 1, 2], **METHODS[method], **precise)
        assert all(one.parity is None or one.parity.passed for one in found)
        maps[provider] = found
    for cpu, cuda in zip(maps["cpu"], maps["cuda"], strict=True):
        assert relative_error(cuda.attribution, cpu.attribution) < 1e-3
        assert cuda.score == pytest.approx(cpu.score, abs=1e-3)
        assert cuda.provenance["model"]["provider"] == "CUDAExecutionProvider"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_call_gives_nearly_the_same_map(method: str) -> None:
    model, images = onnxvis.load(SmallNet().model(), provider="cuda"), as_batch(4, 3, 32, 32)
    options = {"window": 9} if method == "occlusion" else {}
    first = onnxvis.explain(model, images, method, 1, **options)
    again = onnxvis.explain(model, images, method, 1, **options)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a.attribution, b.attribution, atol=1e-5 * np.abs(a.attribution).max())


@pytest.mark.parametrize("baseline", [0.0, "mean", "local-mean"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_covered_pictures_are_made_inside_the_graph(name: str, baseline: float | str) -> None:
    model = onnxvis.load(zoo.export(name, "legacy", 17, 64, dynamic_batch=True), provider="cuda")
    options = {"window": (24, 17), "stride": (12, 9), "baseline": baseline}
    found = onnxvis.explain(model, zoo.image(64), "occlusion", 0, **options)
    assert any("made inside the graph" in note for note in found.notes)
    cpu = onnxvis.explain(onnxvis.load(model.file.path, provider="cpu"), zoo.image(64), "occlusion", 0, **options)
    assert relative_error(found.attribution, cpu.attribution) < 1e-3
